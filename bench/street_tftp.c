// SPDX-License-Identifier: Apache-2.0
/*
 * A street of devices that all ask at once, by TFTP as bootloaders speak it: one block, one acknowledgement (RFC 1350,
 * block size by RFC 2348), a socket for each device, in one process, or several. Linux only.
 *
 *   street_tftp ADDRESS PORT FILE NAME COUNT LIMIT_S
 *
 * When stdin says so, each device gets NAME from ADDRESS; every byte is compared with FILE. It says its last word again after SILENCE_US.
 * At LIMIT_S all stop, and what had come counts. Prints one line of JSON.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <fcntl.h>
#include <unistd.h>

#include "street.h"

enum {
	BLOCK_BYTES = 1468, /* U-Boot's CONFIG_TFTP_BLOCKSIZE */
	MAX_EVENTS = 256,
	TICK_MS = 100,
	RRQ = 1,
	DATA = 3,
	ACK = 4,
	ERROR = 5,
	OACK = 6
};

#define SILENCE_US 5000000u /* U-Boot's, net/tftp.c; sooner and fbtftp, which forks for each request, serves half as much */

struct device {
	uint64_t heard_us, done_us;
	uint32_t blocks;
	bool answered, wrong;
	int socket;
};

static struct device *devices;
static const uint8_t *image;
static uint32_t count, left, image_bytes;
static struct sockaddr_in server;
static char ask[512];
static size_t ask_bytes;

/* To whoever answered, or to the server's port. What does not leave is lost, and said again. */
static void say(const struct device *d, const void *octets, size_t length)
{
	const struct sockaddr *to = d->answered ? NULL : (const struct sockaddr *)&server;

	(void)!sendto(d->socket, octets, length, MSG_DONTWAIT, to, to ? sizeof server : 0);
}

/* Whoever answers first is whom the device hears from now on (RFC 1350, section 4), as in U-Boot. */
static ssize_t receive(struct device *d, uint8_t *message, size_t size)
{
	struct sockaddr_in from;
	socklen_t length = sizeof from;
	ssize_t came = recvfrom(d->socket, message, size, MSG_DONTWAIT, (struct sockaddr *)&from, &length);

	if (came > 0 && !d->answered)
		d->answered = !connect(d->socket, (struct sockaddr *)&from, sizeof from);
	return came;
}

static void acknowledge(const struct device *d)
{
	const uint8_t ack[4] = {0, ACK, (uint8_t)(d->blocks >> 8), (uint8_t)d->blocks};

	say(d, ack, sizeof ack);
}

static void end(struct device *d, uint64_t done_us)
{
	d->done_us = done_us;
	d->wrong = !done_us;
	close(d->socket); /* which takes it out of the set that is waited for, too (epoll(7)) */
	left--;
}

static void take(struct device *d, const uint8_t *message, ssize_t length)
{
	uint32_t at = d->blocks * BLOCK_BYTES, expected = image_bytes - at;

	if (length < 4 || (message[1] != DATA && message[1] != OACK && message[1] != ERROR))
		return;
	if (message[1] == ERROR) {
		end(d, 0);
		return;
	}
	d->heard_us = now_us();
	if (message[1] == DATA) {
		if ((message[2] << 8 | message[3]) != (int)(uint16_t)(d->blocks + 1))
			return; /* one that is there already; it is not acknowledged twice (RFC 1123, 4.2.3.1) */
		expected = expected < BLOCK_BYTES ? expected : BLOCK_BYTES;
		if ((uint32_t)length - 4 != expected || memcmp(message + 4, image + at, expected)) {
			end(d, 0);
			return;
		}
		d->blocks++;
	}
	acknowledge(d);
	if (message[1] == DATA && expected < BLOCK_BYTES)
		end(d, d->heard_us);
}

static void run(int readiness, uint64_t deadline_us)
{
	while (left) {
		struct epoll_event ready[MAX_EVENTS];
		int i, came = epoll_wait(readiness, ready, MAX_EVENTS, TICK_MS);
		uint64_t now = now_us();
		uint32_t n;

		if (now >= deadline_us)
			return;
		for (i = 0; i < came; i++) {
			struct device *d = ready[i].data.ptr;
			uint8_t message[2048];

			take(d, message, receive(d, message, sizeof message));
		}
		if (came == MAX_EVENTS)
			continue;
		for (n = 0; n < count; n++) {
			struct device *d = &devices[n];

			if (d->done_us || d->wrong || now < d->heard_us + SILENCE_US)
				continue;
			d->heard_us = now;
			if (d->answered)
				acknowledge(d);
			else
				say(d, ask, ask_bytes);
		}
	}
}

static void load(const char *path)
{
	int file = open(path, O_RDONLY | O_CLOEXEC);
	struct stat about;

	if (file < 0 || fstat(file, &about))
		fail(path);
	image_bytes = (uint32_t)about.st_size;
	image = mmap(NULL, image_bytes, PROT_READ, MAP_PRIVATE, file, 0);
	if (image == MAP_FAILED)
		fail(path);
}

int main(int argc, char **argv)
{
	int readiness = epoll_create1(EPOLL_CLOEXEC);
	uint64_t started_us, ended_us, payload = 0;
	uint32_t i;

	if (argc != 7 || inet_pton(AF_INET, argv[1], &server.sin_addr) != 1) {
		fprintf(stderr, "usage: street_tftp ADDRESS PORT FILE NAME COUNT LIMIT_S\n");
		return EXIT_FAILURE;
	}
	server.sin_family = AF_INET;
	server.sin_port = htons((uint16_t)atoi(argv[2]));
	load(argv[3]);
	ask_bytes = (size_t)snprintf(ask, sizeof ask, "%c%c%s%coctet%cblksize%c%d%c", 0, RRQ, argv[4], 0, 0, 0, BLOCK_BYTES, 0);
	count = left = (uint32_t)atoi(argv[5]);
	devices = calloc(count, sizeof *devices);
	if (!devices)
		fail("memory");
	started_us = wait_for_the_others();
	for (i = 0; i < count; i++) {
		struct epoll_event interest = {.events = EPOLLIN, .data = {.ptr = &devices[i]}};

		devices[i].heard_us = started_us;
		devices[i].socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (devices[i].socket < 0 || epoll_ctl(readiness, EPOLL_CTL_ADD, devices[i].socket, &interest))
			fail("socket");
		say(&devices[i], ask, ask_bytes);
	}
	run(readiness, started_us + (uint64_t)(atof(argv[6]) * 1e6));
	printf("{\"seconds\": [");
	ended_us = now_us();
	for (i = 0; i < count; i++) {
		payload += devices[i].done_us ? image_bytes : devices[i].blocks * BLOCK_BYTES;
		print_seconds(i, started_us, devices[i].done_us);
	}
	printf("], ");
	print_totals(started_us, ended_us, payload, used_s());
	puts("}");
	return EXIT_SUCCESS;
}
