// SPDX-License-Identifier: Apache-2.0
/*
 * A link between two hosts, emulated in user space, for kernels without sch_netem. Linux only, wants CAP_NET_ADMIN.
 *
 *   linkemu NETNS_A NETNS_B DEVICE [name=value …]
 *
 * The hosts are network namespaces (ip netns); in each a TUN device of this name is made, which whoever starts this
 * gives an address. Prints the line "ready", carries packets until SIGTERM or SIGINT, then prints one line of JSON.
 *
 *   rate_mbit=R       of each direction, 10^6 bits a second; 0: without limit
 *   rtt_ms=T          round trip of an empty link: half of it is added in each direction
 *   loss=P            probability, 0 to 1, that a packet is lost, each for itself
 *   queue_bytes=N     what waits before the link, drop tail, framing included
 *   jitter_ms=J       further delay, even between 0 and J; packets stay in order
 *   ring_frames=N     A to B only: a network card that holds N packets …
 *   service_us=S      … and whose driver takes S microseconds for each; 0 frames: no such card
 *   coalesce_us=C     what comes due within C microseconds of rest goes together, as from a card of such a rate
 *   seed=N            of loss and jitter; each direction has random numbers of its own
 *   overhead_bytes=N  what Ethernet adds to an IP packet: preamble 8, header 14, FCS 4, gap 12 (IEEE 802.3), so 38
 *
 * A packet passes these stages, all decided when it is read: queue, rate, loss, delay, card. What is left of it is one
 * instant, at which it is written to the other side. What the model cannot know is when a packet was sent, only when
 * this process came to read it: run it with real-time priority (it asks for it) and look at `latest_us`.
 */
#define _GNU_SOURCE /* setns, ppoll */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum {
	PACKET_BYTES = 2048,  /* longer than a TUN device's MTU of 1500 */
	SLOTS = 16384,        /* packets under way in one direction; 1 Gbit/s for 200 ms */
	RING_MAX = 1024,
	BATCH = 64,           /* read in one direction before the other has its turn */
	SPIN_NS = 2000,       /* shorter waits are not worth a system call */
	IDLE_NS = 200000000,
	LATE_NS = 1000000
};

struct options {
	double rate_mbit, rtt_ms, loss, queue_bytes, jitter_ms, ring_frames, service_us, coalesce_us, seed, overhead_bytes;
};

struct packet {
	uint64_t due_ns;
	size_t length;
	uint8_t octets[PACKET_BYTES];
};

/* The receiving card: when each of the packets it holds will have been serviced, oldest first. */
struct ring {
	uint64_t done_ns[RING_MAX];
	unsigned first, count;
};

struct counters {
	uint64_t offered, offered_bytes, queue_drops, lost, ring_drops, overflows, delivered, late, latest_us;
};

struct direction {
	int in, out;
	int has_ring;
	struct packet *packets; /* SLOTS of them, a ring; `first` and `next` only grow */
	uint64_t first, next;
	uint64_t link_free_ns;  /* when the last bit of what was accepted will have left */
	uint64_t last_arrival_ns; /* at the receiving card */
	uint64_t random;
	struct ring ring;
	struct counters counters;
};

static volatile sig_atomic_t stopped;

static void stop(int signal_number)
{
	(void)signal_number;
	stopped = 1;
}

static void fail(const char *what)
{
	perror(what);
	exit(EXIT_FAILURE);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Even in [0, 1): SplitMix64 (Steele, Lea, Flood 2014), its upper 53 bits. */
static double random_unit(uint64_t *state)
{
	uint64_t z = *state += 0x9E3779B97F4A7C15u;

	z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
	z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
	z ^= z >> 31;
	return (double)(z >> 11) / 9007199254740992.0;
}

/* Queue and rate: the instant at which the last bit has left, or 0 if the queue has no room. */
static uint64_t serialise(struct direction *d, const struct options *o, size_t length, uint64_t now)
{
	double size = (double)length + o->overhead_bytes;
	uint64_t start = d->link_free_ns > now ? d->link_free_ns : now;
	double ns_per_byte;

	if (o->rate_mbit <= 0)
		return now;
	ns_per_byte = 8000.0 / o->rate_mbit;
	if ((double)(start - now) / ns_per_byte + size > o->queue_bytes)
		return 0;
	d->link_free_ns = start + (uint64_t)(size * ns_per_byte);
	return d->link_free_ns;
}

/* The card: the instant at which the driver has handed the packet on, or 0 if the ring is full when it arrives. */
static uint64_t service(struct ring *ring, const struct options *o, uint64_t arrival)
{
	uint64_t start = arrival;

	while (ring->count && ring->done_ns[ring->first] <= arrival) {
		ring->first = (ring->first + 1) % RING_MAX;
		ring->count--;
	}
	if (ring->count >= (unsigned)o->ring_frames)
		return 0;
	if (ring->count)
		start = ring->done_ns[(ring->first + ring->count - 1) % RING_MAX];
	start += (uint64_t)(o->service_us * 1000);
	ring->done_ns[(ring->first + ring->count) % RING_MAX] = start;
	ring->count++;
	return start;
}

/* Every stage: when the packet is due on the other side, or 0 if it does not get there. */
static uint64_t pass(struct direction *d, const struct options *o, size_t length, uint64_t now)
{
	uint64_t due = serialise(d, o, length, now);

	if (!due) {
		d->counters.queue_drops++;
		return 0;
	}
	if (random_unit(&d->random) < o->loss) {
		d->counters.lost++;
		return 0;
	}
	due += (uint64_t)(o->rtt_ms * 5e5);
	if (o->jitter_ms > 0)
		due += (uint64_t)(random_unit(&d->random) * o->jitter_ms * 1e6);
	if (due < d->last_arrival_ns)
		due = d->last_arrival_ns;
	d->last_arrival_ns = due;
	if (d->has_ring) {
		due = service(&d->ring, o, due);
		if (!due) {
			d->counters.ring_drops++;
			return 0;
		}
	}
	return due;
}

/* Read what one side sent; returns how many packets. */
static unsigned take(struct direction *d, const struct options *o)
{
	unsigned count;

	for (count = 0; count < BATCH; count++) {
		struct packet *p = &d->packets[d->next % SLOTS];
		ssize_t length;

		if (d->next - d->first == SLOTS) {
			uint8_t dropped[PACKET_BYTES];

			if (read(d->in, dropped, sizeof dropped) <= 0)
				break;
			d->counters.overflows++;
			continue;
		}
		length = read(d->in, p->octets, sizeof p->octets);
		if (length <= 0)
			break;
		p->length = (size_t)length;
		d->counters.offered++;
		d->counters.offered_bytes += p->length;
		p->due_ns = pass(d, o, p->length, now_ns());
		if (p->due_ns)
			d->next++;
	}
	return count;
}

/* Write what is due; returns how many packets. */
static unsigned give(struct direction *d)
{
	uint64_t now = now_ns();
	unsigned count = 0;

	while (d->first != d->next && d->packets[d->first % SLOTS].due_ns <= now) {
		const struct packet *p = &d->packets[d->first % SLOTS];
		uint64_t late_ns = now - p->due_ns;

		if (write(d->out, p->octets, p->length) > 0)
			d->counters.delivered++;
		d->counters.late += late_ns > LATE_NS;
		if (late_ns / 1000 > d->counters.latest_us)
			d->counters.latest_us = late_ns / 1000;
		d->first++;
		count++;
	}
	return count;
}

/* Until a packet comes or one is due. */
static void rest(const struct direction *both, const struct options *o)
{
	struct pollfd readable[2] = {{.fd = both[0].in, .events = POLLIN}, {.fd = both[1].in, .events = POLLIN}};
	uint64_t now = now_ns(), wait_ns = IDLE_NS;
	struct timespec timeout;

	for (int i = 0; i < 2; i++) {
		const struct direction *d = &both[i];

		if (d->first != d->next) {
			uint64_t due = d->packets[d->first % SLOTS].due_ns;
			uint64_t left = due > now ? due - now : 0;

			if (left < wait_ns)
				wait_ns = left;
		}
	}
	if (wait_ns < (uint64_t)(o->coalesce_us * 1000))
		wait_ns = (uint64_t)(o->coalesce_us * 1000);
	if (wait_ns < SPIN_NS)
		return;
	timeout.tv_sec = 0;
	timeout.tv_nsec = (long)wait_ns;
	ppoll(readable, 2, &timeout, NULL);
}

/* A TUN device in a namespace; this process stays in that namespace. */
static int open_tun(const char *netns, const char *device)
{
	struct ifreq request;
	char path[256];
	int namespace, tun;

	snprintf(path, sizeof path, "/var/run/netns/%s", netns);
	namespace = open(path, O_RDONLY | O_CLOEXEC);
	if (namespace < 0 || setns(namespace, CLONE_NEWNET))
		fail(path);
	close(namespace);
	tun = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (tun < 0)
		fail("/dev/net/tun");
	memset(&request, 0, sizeof request);
	request.ifr_flags = IFF_TUN | IFF_NO_PI;
	snprintf(request.ifr_name, sizeof request.ifr_name, "%s", device);
	if (ioctl(tun, TUNSETIFF, &request))
		fail(device);
	return tun;
}

static void parse(struct options *o, const char *argument)
{
	const struct {
		const char *name;
		double *value;
	} known[] = {
		{"rate_mbit", &o->rate_mbit},     {"rtt_ms", &o->rtt_ms},         {"loss", &o->loss},
		{"queue_bytes", &o->queue_bytes}, {"jitter_ms", &o->jitter_ms},   {"ring_frames", &o->ring_frames},
		{"service_us", &o->service_us},   {"seed", &o->seed},             {"overhead_bytes", &o->overhead_bytes},
		{"coalesce_us", &o->coalesce_us},
	};
	const char *equals = strchr(argument, '=');

	for (size_t i = 0; equals && i < sizeof known / sizeof known[0]; i++) {
		size_t length = (size_t)(equals - argument);

		if (strlen(known[i].name) == length && !strncmp(argument, known[i].name, length)) {
			char *end;

			*known[i].value = strtod(equals + 1, &end);
			if (end != equals + 1 && !*end && *known[i].value >= 0)
				return;
		}
	}
	fprintf(stderr, "linkemu: what is %s?\n", argument);
	exit(EXIT_FAILURE);
}

static void print_counters(const char *name, const struct counters *c)
{
	printf("\"%s\": {\"offered\": %" PRIu64 ", \"offered_bytes\": %" PRIu64 ", \"queue_drops\": %" PRIu64
	       ", \"lost\": %" PRIu64 ", \"ring_drops\": %" PRIu64 ", \"overflows\": %" PRIu64 ", \"delivered\": %" PRIu64
	       ", \"late\": %" PRIu64 ", \"latest_us\": %" PRIu64 "}",
	       name, c->offered, c->offered_bytes, c->queue_drops, c->lost, c->ring_drops, c->overflows, c->delivered,
	       c->late, c->latest_us);
}

int main(int argc, char **argv)
{
	static struct direction both[2]; /* A to B, B to A */
	struct options o = {.queue_bytes = 131072, .overhead_bytes = 38};
	struct sched_param priority = {.sched_priority = 10};
	struct sigaction action = {.sa_handler = stop};

	if (argc < 4) {
		fprintf(stderr, "usage: linkemu NETNS_A NETNS_B DEVICE [name=value ...]\n");
		return EXIT_FAILURE;
	}
	for (int i = 4; i < argc; i++)
		parse(&o, argv[i]);
	if (o.ring_frames > RING_MAX) {
		fprintf(stderr, "linkemu: a ring has at most %d frames\n", RING_MAX);
		return EXIT_FAILURE;
	}
	for (unsigned i = 0; i < 2; i++) {
		both[i].packets = calloc(SLOTS, sizeof *both[i].packets);
		if (!both[i].packets)
			fail("memory");
		both[i].random = 2 * (uint64_t)o.seed + i;
	}
	both[0].has_ring = o.ring_frames > 0;
	both[0].in = both[1].out = open_tun(argv[1], argv[3]);
	both[0].out = both[1].in = open_tun(argv[2], argv[3]);

	/* Each is an improvement of the timing; it works without. */
	prctl(PR_SET_TIMERSLACK, 1000ul, 0ul, 0ul, 0ul);
	sched_setscheduler(0, SCHED_FIFO, &priority);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	puts("ready");
	fflush(stdout);

	while (!stopped) {
		unsigned moved = take(&both[0], &o) + take(&both[1], &o);

		moved += give(&both[0]) + give(&both[1]);
		if (!moved)
			rest(both, &o);
	}
	putchar('{');
	print_counters("a_to_b", &both[0].counters);
	printf(", ");
	print_counters("b_to_a", &both[1].counters);
	puts("}");
	return EXIT_SUCCESS;
}
