/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * One UDP socket for IPv4 and IPv6. A peer is an IPv6 address, IPv4 mapped into it (RFC 4291 §2.5.5.2), the port and
 * the interface: 16, 2 and 4 octets.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "linux.h"

#define GROUP "ff02::7562"

int open_socket(void)
{
	struct sockaddr_in6 here = { .sin6_family = AF_INET6, .sin6_port = htons(UNBRICKD_DEVICE_PORT) };
	int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0), on = 1, off = 0;

	if (fd < 0)
		return -1;
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&here, sizeof(here))) {
		here.sin6_port = 0;
		if (bind(fd, (struct sockaddr *)&here, sizeof(here))) {
			close(fd);
			return -1;
		}
	}
	return fd;
}

static void make_peer(struct unbrickd_peer *peer, const struct in6_addr *address, uint16_t port, uint32_t scope)
{
	uint32_t i;

	memset(peer, 0, sizeof(*peer));
	memcpy(peer->octets, address, 16);
	peer->octets[16] = (uint8_t)(port >> 8);
	peer->octets[17] = (uint8_t)port;
	for (i = 0; i < 4; i++)
		peer->octets[18 + i] = (uint8_t)(scope >> 8 * i);
}

static struct sockaddr_in6 address_of(const struct unbrickd_peer *peer)
{
	struct sockaddr_in6 address = { .sin6_family = AF_INET6 };
	uint32_t i;

	memcpy(&address.sin6_addr, peer->octets, 16);
	address.sin6_port = htons((uint16_t)(peer->octets[16] << 8 | peer->octets[17]));
	for (i = 0; i < 4; i++)
		address.sin6_scope_id |= (uint32_t)peer->octets[18 + i] << 8 * i;
	return address;
}

static struct in6_addr mapped(struct in_addr ipv4)
{
	struct in6_addr address = { .s6_addr = { [10] = 0xFF, [11] = 0xFF } };

	memcpy(address.s6_addr + 12, &ipv4, 4);
	return address;
}

bool parse_target(struct unbrickd_peer *target, const char *text)
{
	char host[64], *comma;
	struct in6_addr address;
	struct in_addr ipv4;
	uint16_t port = UNBRICKD_SERVER_PORT;

	snprintf(host, sizeof(host), "%s", text);
	comma = strchr(host, ',');
	if (comma) {
		*comma = '\0';
		port = (uint16_t)strtoul(comma + 1, NULL, 10);
	}
	if (inet_pton(AF_INET, host, &ipv4) == 1)
		address = mapped(ipv4);
	else if (inet_pton(AF_INET6, host, &address) != 1)
		return false;
	make_peer(target, &address, port, 0);
	return true;
}

uint8_t find_targets(struct unbrickd_peer targets[MAX_TARGETS])
{
	struct ifaddrs *all, *each;
	struct in6_addr group;
	uint8_t count = 0;

	inet_pton(AF_INET6, GROUP, &group);
	if (getifaddrs(&all))
		return 0;
	for (each = all; each && count < MAX_TARGETS; each = each->ifa_next) {
		if (!each->ifa_addr || !(each->ifa_flags & IFF_UP) || (each->ifa_flags & IFF_LOOPBACK))
			continue;
		if (each->ifa_addr->sa_family == AF_INET && (each->ifa_flags & IFF_BROADCAST) && each->ifa_broadaddr) {
			struct in6_addr address = mapped(((struct sockaddr_in *)(void *)each->ifa_broadaddr)->sin_addr);

			make_peer(&targets[count++], &address, UNBRICKD_SERVER_PORT, 0);
		} else if (each->ifa_addr->sa_family == AF_INET6 && (each->ifa_flags & IFF_MULTICAST)) {
			uint32_t scope = ((struct sockaddr_in6 *)(void *)each->ifa_addr)->sin6_scope_id;

			if (scope)
				make_peer(&targets[count++], &group, UNBRICKD_SERVER_PORT, scope);
		}
	}
	freeifaddrs(all);
	return count;
}

void send_to(int fd, const struct unbrickd_peer *to, const uint8_t *message, uint32_t length)
{
	struct sockaddr_in6 address = address_of(to);

	/* What cannot be sent now is lost, as it may be on the way; it is sent again. */
	if (sendto(fd, message, length, MSG_DONTWAIT, (struct sockaddr *)&address, sizeof(address)) < 0)
		return;
}

int receive_from(int fd, struct unbrickd_peer *from, uint8_t *to, uint32_t size, int wait_ms)
{
	struct pollfd waiting = { .fd = fd, .events = POLLIN };
	struct sockaddr_in6 address;
	socklen_t address_length = sizeof(address);
	ssize_t length;

	if (poll(&waiting, 1, wait_ms) <= 0)
		return -1;
	length = recvfrom(fd, to, size, MSG_DONTWAIT, (struct sockaddr *)&address, &address_length);
	if (length < 0)
		return -1;
	make_peer(from, &address.sin6_addr, ntohs(address.sin6_port), address.sin6_scope_id);
	return (int)length;
}

const char *name_peer(const struct unbrickd_peer *peer, char *to)
{
	struct sockaddr_in6 address = address_of(peer);
	char host[INET6_ADDRSTRLEN];

	if (IN6_IS_ADDR_V4MAPPED(&address.sin6_addr))
		inet_ntop(AF_INET, address.sin6_addr.s6_addr + 12, host, sizeof(host));
	else
		inet_ntop(AF_INET6, &address.sin6_addr, host, sizeof(host));
	sprintf(to, "%s,%u", host, ntohs(address.sin6_port));
	return to;
}
