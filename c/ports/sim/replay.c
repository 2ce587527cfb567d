/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * Plays transcripts (transcript.py has their form) to the core and holds it to every message, program, erase and light
 * in them: whatever machine this runs on, the core does what it did on the one that wrote them. REPLAY FILE…
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "unbrickd_crypto.h"

#define MAX_PARTS (UNBRICKD_MAX_COMPONENTS + 1)
#define MAX_TARGETS 8

static struct {
	const uint8_t *at, *end;
	uint32_t entries;
} tape;

static uint8_t *parts[256];
static uint32_t part_bytes[256];

static void fail(const char *why)
{
	fprintf(stderr, "entry %u: %s\n", tape.entries, why);
	exit(1);
}

/* The next entry, which must be of that letter. */
static const uint8_t *expect(char letter, uint32_t *length)
{
	const uint8_t *entry = tape.at + 5;

	if (tape.end - tape.at < 5 || tape.at[0] != (uint8_t)letter)
		fail("the core does something else");
	*length = ub_u32(tape.at + 1);
	tape.at = entry + *length;
	tape.entries++;
	return entry;
}

static void expect_same(const uint8_t *entry, const void *octets, uint32_t length)
{
	if (memcmp(entry, octets, length))
		fail("the core says or writes other bytes");
}

static uint8_t *flash_at(uint8_t part, uint32_t offset, uint32_t length)
{
	if (!parts[part] || offset > part_bytes[part] || length > part_bytes[part] - offset)
		fail("beyond the flash");
	return parts[part] + offset;
}

static int flash_read(void *app, uint8_t part, uint32_t offset, uint8_t *to, uint32_t length)
{
	(void)app;
	memcpy(to, flash_at(part, offset, length), length);
	return 0;
}

static bool stops(void)
{
	uint32_t length;

	if (tape.at == tape.end || *tape.at != 'x')
		return false;
	expect('x', &length);
	return true;
}

static int flash_program(void *app, uint8_t part, uint32_t offset, const uint8_t *from, uint32_t length)
{
	const uint8_t *entry;
	uint32_t size;

	(void)app;
	if (stops())
		return UNBRICKD_E_STOP;
	entry = expect('p', &size);
	if (size != 5 + length || entry[0] != part || ub_u32(entry + 1) != offset)
		fail("the core programs elsewhere");
	expect_same(entry + 5, from, length);
	memcpy(flash_at(part, offset, length), from, length);
	return 0;
}

static int flash_erase(void *app, uint8_t part, uint32_t offset, uint32_t length)
{
	const uint8_t *entry;
	uint32_t size;

	(void)app;
	if (stops())
		return UNBRICKD_E_STOP;
	entry = expect('e', &size);
	if (entry[0] != part || ub_u32(entry + 1) != offset || ub_u32(entry + 5) != length)
		fail("the core erases elsewhere");
	memset(flash_at(part, offset, length), 0xFF, length);
	return 0;
}

static void net_send(void *app, const struct unbrickd_peer *to, const uint8_t *message, uint32_t length)
{
	uint32_t size;
	const uint8_t *entry = expect('s', &size);

	(void)app;
	if (size != 24 + length)
		fail("the core says something else");
	expect_same(entry, to->octets, 24);
	expect_same(entry + 24, message, length);
}

static void random_octets(void *app, uint8_t *to, uint32_t length)
{
	uint32_t size;
	const uint8_t *entry = expect('n', &size);

	(void)app;
	if (size != length)
		fail("the core draws something else");
	memcpy(to, entry, length);
}

static void show(void *app, enum unbrickd_light light)
{
	uint32_t size;

	(void)app;
	if (*expect('l', &size) != light)
		fail("another light");
}

static const struct unbrickd_io IO = {
	.read = flash_read,
	.program = flash_program,
	.erase = flash_erase,
	.send = net_send,
	.random = random_octets,
	.light = show,
	.sha256_begin = unbrickd_sha256_begin,
	.sha256_add = unbrickd_sha256_add,
	.sha256_end = unbrickd_sha256_end,
	.crc32 = unbrickd_crc32,
	.aes256_ctr = unbrickd_aes256_ctr,
	.verify_signature = unbrickd_rsa_verify,
};

static struct unbrickd_component components[UNBRICKD_MAX_COMPONENTS];
static struct unbrickd_peer targets[MAX_TARGETS];
static struct unbrickd_config config;
static uint8_t identity[UNBRICKD_MAX_IDENTITY];

static const uint8_t *read_runs(const uint8_t *from, struct unbrickd_geometry *geometry)
{
	uint32_t i;

	geometry->run_count = *from++;
	for (i = 0; i < geometry->run_count; i++, from += 8) {
		geometry->run[i].count = ub_u32(from);
		geometry->run[i].size_bytes = ub_u32(from + 4);
	}
	return from;
}

static void read_configuration(void)
{
	uint32_t length, i;
	const uint8_t *from = expect('C', &length);

	config.io = &IO;
	config.max_message_bytes = ub_u16(from);
	config.ring_frames = ub_u16(from + 2);
	config.boot_limit = from[4];
	config.wait_ms = ub_u32(from + 5);
	config.target_count = from[9];
	config.component_count = from[10];
	config.identity_bytes = ub_u16(from + 11);
	from += 13;
	if (config.identity_bytes > sizeof(identity) || config.target_count > MAX_TARGETS ||
	    config.component_count > UNBRICKD_MAX_COMPONENTS)
		fail("no configuration");
	memcpy(identity, from, config.identity_bytes);
	config.identity = identity;
	from += config.identity_bytes;
	for (i = 0; i < config.target_count; i++, from += 24)
		memcpy(targets[i].octets, from, 24);
	config.targets = targets;
	from = read_runs(from, &config.record);
	for (i = 0; i < config.component_count; i++) {
		components[i].id = from[0];
		components[i].kind = from[1];
		components[i].sealed = from[2];
		from = read_runs(from + 3, &components[i].geometry);
	}
	config.components = components;
}

static void read_flash(void)
{
	while (tape.at < tape.end && *tape.at == 'F') {
		uint32_t length;
		const uint8_t *from = expect('F', &length);

		free(parts[from[0]]);
		part_bytes[from[0]] = length - 1;
		parts[from[0]] = malloc(length);
		if (!parts[from[0]])
			fail("out of memory");
		memcpy(parts[from[0]], from + 1, length - 1);
	}
}

static uint64_t u64(const uint8_t *at)
{
	return (uint64_t)ub_u32(at) << 32 | ub_u32(at + 4);
}

/* One power-on, up to the next or the end. */
static void play(void)
{
	struct unbrickd *core;
	const uint8_t *entry;
	uint32_t length, size;
	uint8_t *memory;

	read_configuration();
	read_flash();
	size = unbrickd_memory_bytes(&config);
	memory = malloc(size);
	if (!memory || unbrickd_init(&core, &config, memory, size))
		fail("the core cannot be set up");
	entry = expect('P', &length);
	unbrickd_power_on(core, entry[8], u64(entry));
	while (tape.at < tape.end && *tape.at != 'C') {
		if (*tape.at == 'R') {
			struct unbrickd_peer from;

			entry = expect('R', &length);
			memcpy(from.octets, entry + 8, 24);
			unbrickd_receive(core, &from, entry + 32, length - 32, u64(entry));
		} else {
			uint64_t wake_us;

			entry = expect('L', &length);
			unbrickd_poll(core, u64(entry), &wake_us);
		}
	}
	free(memory);
}

int main(int count, char **arguments)
{
	uint32_t power_ons = 0;
	long size;
	uint8_t *octets;
	FILE *file = count == 2 ? fopen(arguments[1], "rb") : NULL;

	if (!file || fseek(file, 0, SEEK_END) || (size = ftell(file)) < 0 || fseek(file, 0, SEEK_SET)) {
		fprintf(stderr, "usage: replay TRANSCRIPT\n");
		return 2;
	}
	octets = malloc((size_t)size);
	if (!octets || fread(octets, 1, (size_t)size, file) != (size_t)size)
		return 2;
	tape.at = octets;
	tape.end = octets + size;
	for (; tape.at < tape.end; power_ons++)
		play();
	printf("%u power-ons, %u entries: the same\n", power_ons, tape.entries);
	return 0;
}
