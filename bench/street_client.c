// SPDX-License-Identifier: Apache-2.0
/*
 * A street of devices that all ask at once, or a part of it: the recovery core of c/ as many times as there are devices,
 * each with a socket and a flash of its own, in one process. Linux only.
 *
 *   street_client ADDRESS PORT FOLDER FIRST COUNT LIMIT_S RECORD_BYTES CONFIG_BYTES FIRMWARE_BYTES AHEAD_BYTES RING_FRAMES
 *
 * FOLDER/devices is what bench/street_cargo.py wrote: for each device its identity (IDENTITY_BYTES), boot record and
 * configuration; FOLDER/firmware is the image that all of them ran. FIRST: how many devices to pass over there. The
 * firmware of every device is erased, the rest is sound. All are switched on and check their flash; when the last has,
 * and stdin says so, the clock starts, and all look for the server. A device is done when its boot record says so: every erase block was verified, programmed
 * and read back. Then it is switched off.
 *
 * The firmware's flash is a bit for each page: erased, or as in the image, which all devices share. Another byte
 * is refused, so that a device whose flash would be wrong never gets done. AHEAD_BYTES and RING_FRAMES are what each
 * device says of itself (unbrickd.h). Prints one line of JSON.
 */
#define _GNU_SOURCE
#define OPENSSL_API_COMPAT 0x10100000L /* SHA256_Init and its like, which need no heap */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <openssl/sha.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include "street.h"
#include "unbrickd.h"
#include "unbrickd_crypto.h"

enum {
	IDENTITY_BYTES = 2048,
	SMALL_ERASE_BLOCK = 4096,  /* of boot record and configuration */
	LARGE_ERASE_BLOCK = 65536, /* of the firmware */
	PAGE = 256,                /* which is erased, or as in the image */
	PROGRAM = 4096,            /* what the core programs at once, as a driver with a buffer of its own takes it */
	FIRMWARE = 1,              /* component ids */
	CONFIG = 2,
	MAX_EVENTS = 256,
	MESSAGE_BYTES = 1452,
	RECEIVE_BUFFER_BYTES = 1 << 20,
	MOST_RECEIVED = 65535,
	LINGER_MS = 20,
	RECEIVES = 4, /* of one device before the others have their turn */
	TYPE_AT = 3,  /* of a message (spec/protocol.md §2) */
	TRANSFER_AT = 6,
	SENT_AT = 20, /* of DataEnd (§4.12) */
	BLOCK_OVERHEAD = 24, /* of DataBlock (§2, §4.11) */
	DATA_BLOCK = 10,
	DATA_END = 11
};

struct device {
	struct unbrickd *core;
	struct unbrickd_config config;
	struct unbrickd_component components[2];
	uint8_t *record, *config_flash, *programmed; /* programmed: a bit for each page of the firmware */
	uint64_t wake_us, done_us;
	uint32_t setbacks, blocks_sent; /* the latter as the server says, in this transfer */
	uint16_t transfer;
	int socket;
};

struct street {
	struct device *devices;
	uint32_t count, left, record_bytes, config_bytes, firmware_bytes;
	uint64_t received, sent;                   /* messages */
	uint64_t received_bytes, sent_bytes;
	uint64_t blocks, block_bytes, blocks_sent; /* that came, their payload, and what the server says it sent */
	uint32_t ahead_bytes, ring_frames;
	struct sockaddr_in server;
	uint8_t *firmware;
};

static struct street street;

static void *allocate(size_t size)
{
	void *memory = calloc(1, size);

	if (!memory)
		fail("memory");
	return memory;
}

/* The flash */

static uint8_t *small_flash(const struct device *d, uint8_t part)
{
	return part == CONFIG ? d->config_flash : d->record;
}

static int flash_read(void *app, uint8_t part, uint32_t offset, uint8_t *to, uint32_t length)
{
	const struct device *d = app;

	if (d->done_us)
		return UNBRICKD_E_STOP;
	if (part != FIRMWARE) {
		memcpy(to, small_flash(d, part) + offset, length);
		return 0;
	}
	while (length) {
		uint32_t page = offset / PAGE, size = PAGE - offset % PAGE;

		if (page % 8 == 0 && length >= 8 * PAGE && d->programmed[page / 8] == 0xFF)
			size = 8 * PAGE; /* only for speed */
		size = size < length ? size : length;
		if (d->programmed[page / 8] >> page % 8 & 1)
			memcpy(to, street.firmware + offset, size);
		else
			memset(to, 0xFF, size);
		to += size;
		offset += size;
		length -= size;
	}
	return 0;
}

static int flash_program(void *app, uint8_t part, uint32_t offset, const uint8_t *from, uint32_t length)
{
	const struct device *d = app;
	uint32_t page = offset / PAGE, end = (offset + length) / PAGE;

	if (d->done_us)
		return UNBRICKD_E_STOP;
	if (part != FIRMWARE) {
		memcpy(small_flash(d, part) + offset, from, length);
		return 0;
	}
	if (offset % PAGE || length % PAGE || memcmp(from, street.firmware + offset, length))
		return UNBRICKD_E_FLASH;
	for (; page < end; page++)
		d->programmed[page / 8] |= (uint8_t)(1u << page % 8);
	return 0;
}

static int flash_erase(void *app, uint8_t part, uint32_t offset, uint32_t length)
{
	const struct device *d = app;

	if (d->done_us)
		return UNBRICKD_E_STOP;
	if (part == FIRMWARE)
		memset(d->programmed + offset / PAGE / 8, 0, length / PAGE / 8);
	else
		memset(small_flash(d, part) + offset, 0xFF, length);
	return 0;
}

/* The rest of the table of functions */

static void net_send(void *app, const struct unbrickd_peer *to, const uint8_t *message, uint32_t length)
{
	const struct device *d = app;

	street.sent++;
	street.sent_bytes += length;
	(void)to; /* there is one server, and the socket is connected to it */
	if (send(d->socket, message, length, MSG_DONTWAIT) < 0)
		return; /* lost, as it may be on the way; the core sends it again */
}

static void random_octets(void *app, uint8_t *to, uint32_t length)
{
	(void)app;
	if (getrandom(to, length, 0) != (ssize_t)length)
		fail("getrandom");
}

static void tell(void *app, const struct unbrickd_event *event)
{
	struct device *d = app;

	if (event->kind == UNBRICKD_RESTORED && !d->done_us) {
		d->done_us = now_us();
		street.left--;
	} else if (event->kind == UNBRICKD_SERVER_GIVEN_UP) {
		d->setbacks++;
	}
}

static void sha256_begin(struct unbrickd_sha256 *hash)
{
	SHA256_Init((SHA256_CTX *)(void *)hash);
}

static void sha256_add(struct unbrickd_sha256 *hash, const uint8_t *from, uint32_t length)
{
	SHA256_Update((SHA256_CTX *)(void *)hash, from, length);
}

static void sha256_end(struct unbrickd_sha256 *hash, uint8_t digest[32])
{
	SHA256_Final(digest, (SHA256_CTX *)(void *)hash);
}

static uint32_t crc(uint32_t before, const uint8_t *from, uint32_t length)
{
	return (uint32_t)crc32(before, from, length);
}

static const struct unbrickd_io IO = {
	.read = flash_read,
	.program = flash_program,
	.erase = flash_erase,
	.send = net_send,
	.random = random_octets,
	.event = tell,
	.sha256_begin = sha256_begin,
	.sha256_add = sha256_add,
	.sha256_end = sha256_end,
	.crc32 = crc,
	.aes256_ctr = unbrickd_aes256_ctr,
	.verify_signature = unbrickd_rsa_verify,
};

/* Getting ready */

static void read_exactly(int file, uint8_t *to, size_t length)
{
	while (length) {
		ssize_t count = read(file, to, length);

		if (count <= 0)
			fail("a file of the street is too short");
		to += count;
		length -= (size_t)count;
	}
}

static int open_file(const char *folder, const char *name)
{
	char path[512];
	int file;

	snprintf(path, sizeof path, "%s/%s", folder, name);
	file = open(path, O_RDONLY | O_CLOEXEC);
	if (file < 0)
		fail(path);
	return file;
}

static void load_firmware(const char *folder)
{
	int file = open_file(folder, "firmware");

	street.firmware = allocate(street.firmware_bytes);
	read_exactly(file, street.firmware, street.firmware_bytes);
	close(file);
}

static struct unbrickd_geometry equal_erase_blocks(uint32_t total, uint32_t size)
{
	return (struct unbrickd_geometry){.run_count = 1, .run = {{.count = (total + size - 1) / size, .size_bytes = size}}};
}

static void make_device(struct device *d, int file, const struct unbrickd_peer *server)
{
	uint8_t *identity = allocate(IDENTITY_BYTES);
	uint32_t memory_bytes;

	d->record = allocate(street.record_bytes);
	d->config_flash = allocate(street.config_bytes);
	read_exactly(file, identity, IDENTITY_BYTES);
	read_exactly(file, d->record, street.record_bytes);
	read_exactly(file, d->config_flash, street.config_bytes);
	d->components[0] = (struct unbrickd_component){FIRMWARE, UNBRICKD_FIRMWARE, false,
						       equal_erase_blocks(street.firmware_bytes, LARGE_ERASE_BLOCK)};
	d->components[1] = (struct unbrickd_component){CONFIG, UNBRICKD_CONFIGURATION, true,
						       equal_erase_blocks(street.config_bytes, SMALL_ERASE_BLOCK)};
	d->programmed = allocate(street.firmware_bytes / PAGE / 8 + LARGE_ERASE_BLOCK);
	d->config = (struct unbrickd_config){
		.io = &IO,
		.app = d,
		.identity = identity,
		.identity_bytes = UNBRICKD_MAX_IDENTITY,
		.record = equal_erase_blocks(street.record_bytes, SMALL_ERASE_BLOCK),
		.component_count = 2,
		.components = d->components,
		.target_count = 1,
		.targets = server,
		.max_message_bytes = MESSAGE_BYTES,
		.ring_frames = (uint16_t)street.ring_frames,
		.ahead_bytes = street.ahead_bytes,
		.program_bytes = PROGRAM,
		.boot_limit = 3,
		.wait_ms = 60000,
	};
	memory_bytes = unbrickd_memory_bytes(&d->config);
	if (!memory_bytes || unbrickd_init(&d->core, &d->config, allocate(memory_bytes), memory_bytes))
		fail("a device cannot be switched on");
}

static void open_socket(struct device *d, int readiness)
{
	struct epoll_event interest = {.events = EPOLLIN, .data = {.ptr = d}};
	int bytes = RECEIVE_BUFFER_BYTES, on = 1;

	d->socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (d->socket < 0 || connect(d->socket, (struct sockaddr *)&street.server, sizeof street.server))
		fail("socket");
	/* A real device's driver has a ring; here the kernel's buffer stands for it, as long as the largest window. */
	setsockopt(d->socket, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
	setsockopt(d->socket, SOL_UDP, UDP_GRO, &on, sizeof on);
	if (epoll_ctl(readiness, EPOLL_CTL_ADD, d->socket, &interest))
		fail("epoll");
}

/* Running */

/* What came at once, and the length of each message in it but the last (udp(7): UDP_GRO). */
static ssize_t receive(int fd, uint8_t *to, uint32_t *each)
{
	union {
		char octets[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec vector = {.iov_base = to, .iov_len = MOST_RECEIVED};
	struct msghdr message = {
		.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	ssize_t length = recvmsg(fd, &message, MSG_DONTWAIT);
	struct cmsghdr *told;

	*each = MOST_RECEIVED;
	for (told = CMSG_FIRSTHDR(&message); length > 0 && told; told = CMSG_NXTHDR(&message, told)) {
		int size;

		if (told->cmsg_level != SOL_UDP || told->cmsg_type != UDP_GRO)
			continue;
		memcpy(&size, CMSG_DATA(told), sizeof size);
		*each = (uint32_t)size;
	}
	return length;
}

static void poll_device(struct device *d, uint64_t now)
{
	if (unbrickd_poll(d->core, now, &d->wake_us) || d->done_us)
		d->wake_us = UNBRICKD_NEVER;
}

/* Counts blocks, which came and which were sent, and tells the core. */
static void take(struct device *d, const uint8_t *message, uint32_t length, uint64_t now)
{
	struct unbrickd_peer server = {{0}};

	street.received++;
	street.received_bytes += length;
	if (length >= SENT_AT + 4 && message[TYPE_AT] == DATA_END) {
		uint16_t transfer = (uint16_t)(message[TRANSFER_AT] << 8 | message[TRANSFER_AT + 1]);
		const uint8_t *sent = message + SENT_AT;

		if (transfer == d->transfer)
			street.blocks_sent -= d->blocks_sent; /* said again, with more */
		d->transfer = transfer;
		d->blocks_sent = (uint32_t)sent[0] << 24 | (uint32_t)sent[1] << 16 | (uint32_t)sent[2] << 8 | sent[3];
		street.blocks_sent += d->blocks_sent;
	}
	if (length > BLOCK_OVERHEAD && message[TYPE_AT] == DATA_BLOCK) {
		street.blocks++;
		street.block_bytes += length - BLOCK_OVERHEAD;
	}
	unbrickd_receive(d->core, &server, message, length, now);
}

static void serve_device(struct device *d)
{
	static uint8_t came[MOST_RECEIVED];
	int turns;

	for (turns = 0; turns < RECEIVES; turns++) {
		uint32_t each, at, left;
		ssize_t length = receive(d->socket, came, &each);
		uint64_t now = now_us();

		if (length <= 0)
			break;
		for (at = 0, left = (uint32_t)length; left; at += each, left -= left < each ? left : each)
			take(d, came + at, left < each ? left : each, now);
	}
	poll_device(d, now_us());
}

static void run(int readiness, uint64_t deadline_us)
{
	while (street.left) {
		struct epoll_event ready[MAX_EVENTS];
		uint64_t now = now_us(), next_us = deadline_us;
		uint32_t i;
		int count;

		if (now >= deadline_us)
			return;
		for (i = 0; i < street.count; i++) {
			struct device *d = &street.devices[i];

			if (!d->done_us && d->wake_us <= now)
				poll_device(d, now);
			next_us = d->wake_us < next_us ? d->wake_us : next_us;
		}
		if (!street.left)
			return;
		count = epoll_wait(readiness, ready, MAX_EVENTS, next_us <= now ? 0 : (int)((next_us - now + 999) / 1000));
		for (i = 0; count > 0 && i < (uint32_t)count; i++)
			serve_device(ready[i].data.ptr);
	}
}

/* The server's DataEnd says what it sent; it may come when the last block was taken and all is done. */
static void hear_the_end(int readiness)
{
	uint64_t until_us = now_us() + LINGER_MS * 1000u;
	struct epoll_event ready[MAX_EVENTS];
	int i, count;

	while (now_us() < until_us && (count = epoll_wait(readiness, ready, MAX_EVENTS, LINGER_MS)) > 0) {
		for (i = 0; i < count; i++)
			serve_device(ready[i].data.ptr);
	}
}

static void print_result(uint64_t started_us, uint64_t ended_us, double cpu_s)
{
	uint64_t payload = 0;
	uint32_t i, setbacks = 0;
	double block_bytes = street.blocks ? (double)street.block_bytes / (double)street.blocks : 0;

	printf("{\"received\": %" PRIu64 ", \"sent\": %" PRIu64
	       ", \"received_bytes\": %" PRIu64 ", \"sent_bytes\": %" PRIu64
	       ", \"block_bytes_sent\": %.0f, \"seconds\": [",
	       street.received, street.sent, street.received_bytes, street.sent_bytes,
	       (double)street.blocks_sent * block_bytes);
	for (i = 0; i < street.count; i++) {
		const struct device *d = &street.devices[i];

		setbacks += d->setbacks;
		payload += d->done_us ? street.firmware_bytes : 0;
		print_seconds(i, started_us, d->done_us);
	}
	printf("], \"setbacks\": %" PRIu32 ", ", setbacks);
	print_totals(started_us, ended_us, payload, cpu_s);
	puts("}");
}

int main(int argc, char **argv)
{
	struct unbrickd_peer server = {{0}};
	int file, readiness = epoll_create1(EPOLL_CLOEXEC);
	uint64_t started_us, ended_us;
	double cpu_s;
	uint32_t i;

	if (argc != 12 || inet_pton(AF_INET, argv[1], &street.server.sin_addr) != 1) {
		fprintf(stderr, "usage: street_client ADDRESS PORT FOLDER FIRST COUNT LIMIT_S RECORD_BYTES CONFIG_BYTES "
				"FIRMWARE_BYTES AHEAD_BYTES RING_FRAMES\n");
		return EXIT_FAILURE;
	}
	street.server.sin_family = AF_INET;
	street.server.sin_port = htons((uint16_t)atoi(argv[2]));
	street.count = street.left = (uint32_t)atoi(argv[5]);
	street.record_bytes = (uint32_t)atoi(argv[7]);
	street.config_bytes = (uint32_t)atoi(argv[8]);
	street.firmware_bytes = (uint32_t)atoi(argv[9]);
	street.ahead_bytes = (uint32_t)atoi(argv[10]);
	street.ring_frames = (uint32_t)atoi(argv[11]);
	load_firmware(argv[3]);
	street.devices = allocate(street.count * sizeof *street.devices);
	file = open_file(argv[3], "devices");
	if (lseek(file, (off_t)atoi(argv[4]) * (IDENTITY_BYTES + street.record_bytes + street.config_bytes), SEEK_SET) < 0)
		fail("devices");
	for (i = 0; i < street.count; i++) {
		make_device(&street.devices[i], file, &server);
		open_socket(&street.devices[i], readiness);
		if (unbrickd_power_on(street.devices[i].core, false, now_us()) || unbrickd_boots(street.devices[i].core))
			fail("a device has nothing to restore");
	}
	close(file);
	cpu_s = used_s();
	started_us = wait_for_the_others();
	run(readiness, started_us + (uint64_t)(atof(argv[6]) * 1e6));
	ended_us = now_us();
	cpu_s = used_s() - cpu_s;
	hear_the_end(readiness);
	print_result(started_us, ended_us, cpu_s);
	return EXIT_SUCCESS;
}
