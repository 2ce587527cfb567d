/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* unbrickd-recover: the core as a program, for a rescue system, or to try it where a debugger is. */
#define _GNU_SOURCE
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "linux.h"
#include "unbrickd_crypto.h"

enum exit_code { EXIT_BOOTS = 0, EXIT_USAGE = 2, EXIT_NO_SERVER = 3, EXIT_DAMAGED = 5, EXIT_FLASH = 7 };

static const char USAGE[] =
	"usage: unbrickd-recover --identity PLACE --record PLACE --component ID:KIND:PLACE… [options]\n"
	"\n"
	"Checks the flash of a device and fetches what is damaged from its owner's PC, as its bootloader does.\n"
	"\n"
	"PLACE  FILE@OFFSET+SIZE/ERASEBLOCK (numbers may end in K or M), or an MTD device such as /dev/mtd3\n"
	"KIND   firmware, config, sealed-config or other\n"
	"\n"
	"  --server ADDRESS[,PORT]  ask this server; else broadcast on every link; may be repeated\n"
	"  --check                  check only: write nothing, ask nobody\n"
	"  --button                 restore the newest good state whatever flash holds\n"
	"  --wait SECONDS           give up after so long (default: never)\n"
	"  --ring FRAMES            as a device whose network driver takes so many at once\n"
	"\n"
	"Exit code: 0 what is in flash is verified and would boot, 3 no server helped in time, 5 damaged (with --check),\n"
	"7 the flash cannot be opened or written. Each run without --check counts as an attempt to boot.\n";

struct program {
	struct place record, parts[UNBRICKD_MAX_COMPONENTS];
	struct unbrickd_component components[UNBRICKD_MAX_COMPONENTS];
	struct unbrickd_peer targets[MAX_TARGETS];
	struct unbrickd_config config;
	uint8_t identity[UNBRICKD_MAX_IDENTITY];
	int socket;
	bool check_only;
	bool sound;
};

static volatile sig_atomic_t stop_asked;	/* the one thing that a signal can reach */

static void on_signal(int number)
{
	(void)number;
	stop_asked = 1;
}

static uint64_t now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

/* The table of functions. */

static const struct place *place_of(const struct program *p, uint8_t part)
{
	uint32_t i;

	for (i = 0; part && i < p->config.component_count; i++) {
		if (p->components[i].id == part)
			return &p->parts[i];
	}
	return &p->record;
}

static int flash_read(void *app, uint8_t part, uint32_t offset, uint8_t *to, uint32_t length)
{
	return stop_asked ? UNBRICKD_E_STOP : read_place(place_of(app, part), offset, to, length);
}

/*
 * The boot record says what is in the components, so before each write to it what was written to them must be on the
 * disk, and after it the record itself: its erase blocks are written in an order that matters. The components' own
 * writes need not wait: a power cut among them leaves what does not match its digest, and is restored again.
 */
static int sync_parts(const struct program *p)
{
	uint32_t i;
	int error = UNBRICKD_OK;

	for (i = 0; !error && i < p->config.component_count; i++)
		error = sync_place(&p->parts[i]);
	return error;
}

static int begin_write(const struct program *p, uint8_t part)
{
	return stop_asked ? UNBRICKD_E_STOP : part ? UNBRICKD_OK : sync_parts(p);
}

static int end_write(const struct program *p, uint8_t part, int error)
{
	return error || part ? error : sync_place(&p->record);
}

static int flash_program(void *app, uint8_t part, uint32_t offset, const uint8_t *from, uint32_t length)
{
	int error = begin_write(app, part);

	return error ? error : end_write(app, part, program_place(place_of(app, part), offset, from, length));
}

static int flash_erase(void *app, uint8_t part, uint32_t offset, uint32_t length)
{
	int error = begin_write(app, part);

	return error ? error : end_write(app, part, erase_place(place_of(app, part), offset, length));
}

static void net_send(void *app, const struct unbrickd_peer *to, const uint8_t *message, uint32_t length)
{
	struct program *p = app;

	send_to(p->socket, to, message, length);
}

static void random_octets(void *app, uint8_t *to, uint32_t length)
{
	(void)app;
	while (length) {
		ssize_t count = getrandom(to, length, 0);

		if (count > 0) {
			to += count;
			length -= (uint32_t)count;
		}
	}
}

static void tell_checked(const struct unbrickd_event *event)
{
	static const char *const reasons[] = {
		"everything matches its manifest", "flash does not match its manifest",
		"the boot record is lost",	   "this firmware may not run here",
		"the button was held",		   "it failed to boot too often",
	};
	uint32_t i;

	printf("%s\n", reasons[event->u.checked->reason]);
	if (event->u.checked->refused)
		printf("  %s\n", unbrickd_words(event->u.checked->refused));
	for (i = 0; i < event->generation->part_count; i++) {
		const struct unbrickd_part *part = &event->generation->part[i];

		if (part->differing)
			printf("  %.16s: %u of %u erase blocks\n", (const char *)part->name, part->differing,
			       part->erase_blocks);
	}
}

static void tell_offer(const struct unbrickd_event *event)
{
	uint32_t i;

	printf("restoring generation %u\n", event->generation->number);
	for (i = 0; i < event->generation->part_count; i++) {
		const struct unbrickd_part *part = &event->generation->part[i];

		printf("  %.16s: %u of %u erase blocks, %u bytes\n", (const char *)part->name, part->differing,
		       part->erase_blocks, part->bytes);
	}
}

static void tell(void *app, const struct unbrickd_event *event)
{
	struct program *p = app;
	char server[64] = "the flash";

	if (event->server)
		name_peer(event->server, server);
	switch (event->kind) {
	case UNBRICKD_CHECKED:
		p->sound = event->u.checked->reason == UNBRICKD_SOUND;
		tell_checked(event);
		break;
	case UNBRICKD_SERVER_FOUND:
		printf("found a server at %s\n", server);
		break;
	case UNBRICKD_SERVER_GIVEN_UP:
		printf("%s does not help: %s %.*s\n", server, unbrickd_words(event->u.given_up.why),
		       event->u.given_up.text_bytes, (const char *)event->u.given_up.text);
		break;
	case UNBRICKD_OFFER_TAKEN:
		tell_offer(event);
		break;
	case UNBRICKD_ERASE_BLOCK_RESTORED:
		break;
	case UNBRICKD_RESTORED:
		printf("restored generation %u, %u bytes\n", event->generation->number, event->u.payload_bytes);
		break;
	case UNBRICKD_BOOTING:
		printf("would boot generation %u, firmware %.64s%s\n", event->u.booting->generation,
		       (const char *)event->u.booting->firmware_version,
		       event->u.booting->config_default ? ", without its configuration" : "");
		break;
	}
	fflush(stdout);
}

static const struct unbrickd_io IO = {
	.read = flash_read,
	.program = flash_program,
	.erase = flash_erase,
	.send = net_send,
	.random = random_octets,
	.event = tell,
	.sha256_begin = unbrickd_sha256_begin,
	.sha256_add = unbrickd_sha256_add,
	.sha256_end = unbrickd_sha256_end,
	.crc32 = unbrickd_crc32,
	.aes256_ctr = unbrickd_aes256_ctr,
	.verify_signature = unbrickd_rsa_verify,
};

/* Options. */

static bool add_component(struct program *p, char *text)
{
	static const char *const kinds[] = { "firmware", "config", "sealed-config", "other" };
	static const uint8_t values[] = { UNBRICKD_FIRMWARE, UNBRICKD_CONFIGURATION, UNBRICKD_CONFIGURATION, UNBRICKD_OTHER };
	uint8_t n = p->config.component_count;
	struct unbrickd_component *component = &p->components[n];
	char *kind = strchr(text, ':'), *place = kind ? strchr(kind + 1, ':') : NULL;
	uint32_t i;

	if (n == UNBRICKD_MAX_COMPONENTS || !place)
		return false;
	*kind++ = *place++ = '\0';
	for (i = 0; i < 4 && strcmp(kind, kinds[i]); i++)
		;
	if (i == 4 || !open_place(&p->parts[n], place, !p->check_only))
		return false;
	component->id = (uint8_t)strtoul(text, NULL, 10);
	component->kind = values[i];
	component->sealed = i == 2;
	component->geometry = p->parts[n].geometry;
	p->config.component_count++;
	return true;
}

static bool read_identity(struct program *p, const char *text)
{
	struct place place;

	if (!open_place(&place, text, false))
		return false;
	p->config.identity_bytes = size_of_place(&place);
	if (p->config.identity_bytes > sizeof(p->identity))
		p->config.identity_bytes = sizeof(p->identity);
	p->config.identity = p->identity;
	return !read_place(&place, 0, p->identity, p->config.identity_bytes);
}

static int fail(const char *why)
{
	fprintf(stderr, "error: %s\n\n%s", why, USAGE);
	return EXIT_USAGE;
}

static int run(struct program *p, bool button, uint64_t deadline_us)
{
	uint32_t memory_bytes = unbrickd_memory_bytes(&p->config);
	void *memory = malloc(memory_bytes ? memory_bytes : 1);
	uint64_t wake_us = 0;
	struct unbrickd *core;
	int error = unbrickd_init(&core, &p->config, memory, memory_bytes);

	if (error)
		return fail(unbrickd_words(error));
	if (p->check_only) {
		unbrickd_check(core);
		return p->sound ? EXIT_BOOTS : EXIT_DAMAGED;
	}
	error = unbrickd_power_on(core, button, now_us());
	while (!error && !unbrickd_boots(core)) {
		static uint8_t message[2048];
		struct unbrickd_peer from;
		uint64_t now = now_us(), until_us;
		int length;

		if (stop_asked || now >= deadline_us)
			return EXIT_NO_SERVER;
		error = unbrickd_poll(core, now, &wake_us);
		if (error || unbrickd_boots(core))
			break;
		until_us = wake_us < deadline_us ? wake_us : deadline_us;
		now = now_us();
		length = receive_from(p->socket, &from, message, sizeof(message),
				      until_us <= now ? 0 : until_us - now > 1000000 ? 1000 : (int)((until_us - now + 999) / 1000));
		if (length >= 0)
			error = unbrickd_receive(core, &from, message, (uint32_t)length, now_us());
	}
	if (error)
		return EXIT_NO_SERVER;
	return sync_parts(p) ? EXIT_FLASH : EXIT_BOOTS;	/* mended damage alone writes no record */
}

int main(int count, char **arguments)
{
	static const struct option options[] = {
		{ "identity", required_argument, NULL, 'i' }, { "record", required_argument, NULL, 'r' },
		{ "component", required_argument, NULL, 'c' }, { "server", required_argument, NULL, 's' },
		{ "check", no_argument, NULL, 'k' },	       { "button", no_argument, NULL, 'b' },
		{ "wait", required_argument, NULL, 'w' },      { "ring", required_argument, NULL, 'f' },
		{ "help", no_argument, NULL, 'h' },	       { NULL, 0, NULL, 0 },
	};
	static struct program p;
	uint64_t deadline_us = UNBRICKD_NEVER;
	bool button = false, identity = false, record = false;
	struct sigaction stop = { .sa_handler = on_signal };
	int option;

	p.config.io = &IO;
	p.config.app = &p;
	p.config.components = p.components;
	p.config.targets = p.targets;
	p.config.max_message_bytes = 1452;
	p.config.ahead_bytes = 240 << 10;	/* no multiple of an erase block, so that tests meet the end of the ring within one */
	p.config.program_bytes = 4096;
	p.config.boot_limit = 3;
	p.config.wait_ms = 60000;
	/* --check is looked for first, so that then nothing is opened for writing. */
	for (option = 1; option < count; option++)
		p.check_only = p.check_only || !strcmp(arguments[option], "--check");
	while ((option = getopt_long(count, arguments, "", options, NULL)) != -1) {
		switch (option) {
		case 'i':
			identity = read_identity(&p, optarg);
			if (!identity)
				return EXIT_FLASH;
			break;
		case 'r':
			record = open_place(&p.record, optarg, !p.check_only);
			if (!record)
				return EXIT_FLASH;
			p.config.record = p.record.geometry;
			break;
		case 'c':
			if (!add_component(&p, optarg))
				return fail("a component is ID:KIND:PLACE");
			break;
		case 's':
			if (p.config.target_count == MAX_TARGETS || !parse_target(&p.targets[p.config.target_count++], optarg))
				return fail("a server is a numeric address");
			break;
		case 'b':
			button = true;
			break;
		case 'w':
			deadline_us = now_us() + strtoul(optarg, NULL, 10) * 1000000;
			break;
		case 'f':
			p.config.ring_frames = (uint16_t)strtoul(optarg, NULL, 10);
			break;
		case 'k':
			break;
		case 'h':
			fputs(USAGE, stdout);
			return 0;
		default:
			return fail("an option that is not known");
		}
	}
	if (!identity || !record || !p.config.component_count)
		return fail("identity, record and at least one component are needed");
	if (!p.config.target_count)
		p.config.target_count = find_targets(p.targets);
	p.socket = open_socket();
	if (p.socket < 0) {
		perror("error: no socket");
		return EXIT_NO_SERVER;
	}
	sigaction(SIGINT, &stop, NULL);
	sigaction(SIGTERM, &stop, NULL);
	return run(&p, button, deadline_us);
}
