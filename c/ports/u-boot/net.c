// SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause
/*
 * The core on U-Boot's legacy network stack. Nothing here ever waits for ARP: what is sent first goes to the broadcast
 * address, and a server is answered at the Ethernet address that its frame came from. So an address of ours need not be
 * set up, and it does not matter which one the PC has.
 */
#include <console.h>
#include <env.h>
#include <net.h>
#include <time.h>
#include <linux/delay.h>
#include <linux/string.h>
#include <net/udp.h>
#include "../../net/arp.h"	/* not among U-Boot's own includes */

#include "port.h"

#define BUSY_MS 250u		/* at most without a look for Ctrl-C */
#define RETRY_MS 1000u		/* no card, no carrier: perhaps there is later */
#define MAX_MESSAGE 1472	/* UDP payload of an Ethernet frame */

#define NAMED_ROUNDS 10u		/* rounds of Probes that nobody answers, about 10 s (protocol.md, 6) */

/* In an unbrickd_peer: IPv4 address, port (both in network order), Ethernet address, and whether we are 0.0.0.0 to it. */
#define AT_PORT 4
#define AT_ETHERNET 6
#define AT_NAMELESS 12

static struct ubp *running;	/* U-Boot's handlers carry no argument */

static void write_peer(struct unbrickd_peer *peer, struct in_addr address, u16 port, const u8 *ethernet)
{
	__be16 be_port = htons(port);

	memset(peer, 0, sizeof(*peer));
	memcpy(peer->octets, &address.s_addr, 4);
	memcpy(peer->octets + AT_PORT, &be_port, 2);
	memcpy(peer->octets + AT_ETHERNET, ethernet, ARP_HLEN);
}

/*
 * A host may drop what comes from an address that it has no route to, or we share ours with another device: if nobody
 * answers, every other round of broadcast Probes is sent from 0.0.0.0 (protocol.md, 1).
 */
static void count_round(struct ubp *p)
{
	p->rounds++;
	p->nameless = p->rounds > NAMED_ROUNDS && p->rounds % 2;
}

static bool is_nameless_to(const struct ubp *p, const struct unbrickd_peer *to)
{
	bool probes = to >= p->target && to < p->target + p->config.target_count;

	return probes ? p->nameless : to->octets[AT_NAMELESS];
}

static void send(void *app, const struct unbrickd_peer *to, const u8 *message, u32 length)
{
	struct in_addr address, ours = net_ip;
	u8 ethernet[ARP_HLEN];
	struct ubp *p = app;
	__be16 port;

	if (!p->on_line)
		return;
	if (to == &p->target[0])
		count_round(p);
	if (is_nameless_to(p, to))
		net_ip.s_addr = 0;
	memcpy(&address.s_addr, to->octets, 4);
	memcpy(&port, to->octets + AT_PORT, 2);
	memcpy(ethernet, to->octets + AT_ETHERNET, ARP_HLEN);
	/* To whom is 0.0.0.0 itself, U-Boot sends by broadcast. */
	if (!net_ip.s_addr)
		address.s_addr = 0;
	memcpy(net_tx_packet + net_eth_hdr_size() + IP_UDP_HDR_SIZE, message, length);
	net_send_udp_packet(ethernet, address, ntohs(port), UNBRICKD_DEVICE_PORT, length);
	net_ip = ours;
}

/* Let the core do what is due. False: it is done. */
static bool turn(struct ubp *p)
{
	u64 now_us = get_timer_us(0), wake_us;

	if (!p->error)
		p->error = unbrickd_poll(p->core, now_us, &wake_us);
	ubp_light_refresh(p, now_us);
	return !p->error && !unbrickd_boots(p->core);
}

/*
 * The card is emptied here, between two steps of writing flash too: what was asked for comes in meanwhile. U-Boot's own
 * loop looks for Ctrl-C and feeds the watchdog now and then, but takes two milliseconds to come back.
 */
static void go_on(void)
{
	ulong since = get_timer(0);
	bool goes_on;

	while ((goes_on = turn(running)) && get_timer(since) < BUSY_MS)
		eth_rx();
	if (goes_on)
		net_set_timeout_handler(1, go_on);
	else
		net_set_state(NETLOOP_SUCCESS);	/* FAIL would obey `netretry` and may change the card */
}

static void on_packet(uchar *packet, unsigned int port, struct in_addr from, unsigned int from_port, unsigned int length)
{
	const struct ethernet_hdr *frame = (const struct ethernet_hdr *)net_rx_packet;
	struct ip_udp_hdr *header = (struct ip_udp_hdr *)(packet - IP_UDP_HDR_SIZE);
	bool broadcast = net_read_ip(&header->ip_dst).s_addr == 0xFFFFFFFF;
	struct unbrickd_peer peer;

	/* An answer to no single card would go to all, or make U-Boot ask with ARP and wait. */
	if (port != UNBRICKD_DEVICE_PORT || !is_valid_ethaddr(frame->et_src) || running->error)
		return;
	write_peer(&peer, from, from_port, frame->et_src);
	if (!broadcast)
		running->rounds = 0;
	else if (running->nameless)
		peer.octets[AT_NAMELESS] = true;
	else if (from.s_addr)
		/* An Announce. A strict firewall drops our Probe, but now its host learns us, and asks us (protocol.md, 1). */
		arp_raw_request(net_ip, net_null_ethaddr, from);
	running->error = unbrickd_receive(running->core, &peer, packet, length, get_timer_us(0));
}

/*
 * 169.254.1.0 to 169.254.254.255 (RFC 3927, 2.1), another one each time. Whether it is taken is not asked, which would
 * cost seconds: on a LAN without DHCP there is hardly anybody, and the next power-on draws again.
 */
static void take_link_local_address(struct ubp *p)
{
	u8 octets[4] = { 169, 254 };

	p->io.random(p, octets + 2, 2);
	octets[2] = 1 + octets[2] % 254;
	memcpy(&net_ip.s_addr, octets, 4);
}

static int start(void *data)
{
	running->on_line = true;
	net_set_udp_handler(on_packet);
	go_on();
	return 0;
}

void ubp_net_setup(struct ubp *p)
{
	struct in_addr everybody = { .s_addr = 0xFFFFFFFF };
	u16 port = env_get_ulong("unbrickd_port", 10, UNBRICKD_SERVER_PORT);

	if (!net_ip.s_addr)
		take_link_local_address(p);
	write_peer(&p->target[0], everybody, port, net_bcast_ethaddr);
	p->config.target_count = 1;
	if (net_netmask.s_addr) {	/* the broadcast address of our own network, for hosts that know no other */
		everybody.s_addr = net_ip.s_addr | ~net_netmask.s_addr;
		write_peer(&p->target[1], everybody, port, net_bcast_ethaddr);
		p->config.target_count = 2;
	}
	p->config.targets = p->target;
	p->config.max_message_bytes = MAX_MESSAGE;
	p->config.ring_frames = CONFIG_UNBRICKD_RING_FRAMES;
	p->config.ahead_bytes = CONFIG_UNBRICKD_AHEAD;
	p->io.send = send;
}

int ubp_net_run(struct ubp *p)
{
	struct udp_ops ops = { .start = start };

	running = p;
	while (!p->error && !unbrickd_boots(p->core)) {
		ulong since;
		int error = udp_loop(&ops);

		p->on_line = false;
		if (error == -EINTR)
			return error;
		/* What may boot as it is does so in the end, network or not. */
		for (since = get_timer(0); error < 0 && turn(p) && get_timer(since) < RETRY_MS;) {
			if (ctrlc())
				return -EINTR;
			mdelay(1);
		}
	}
	return p->error;
}
