/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * A small device for fuzzing: flash in RAM that refuses what NOR flash refuses, an identity, software, a boot record.
 * For programs of one target each, so it is all in this header.
 */
#ifndef UNBRICKD_FUZZ_DEVICE_H
#define UNBRICKD_FUZZ_DEVICE_H

#include <stdlib.h>

#include "internal.h"
#include "unbrickd_crypto.h"

#define FIRMWARE 1
#define CONFIG 2
#define RECORD_BYTES 4096
#define FIRMWARE_BYTES 2048
#define CONFIG_BYTES 512
#define FIRMWARE_IMAGE 1900	/* the last erase block is partly filled */
#define CONFIG_IMAGE 300
#define DOCUMENT_BYTES (64 + 108 + 4 * 32 + 108 + 2 * 2 * 32 + 32)

static struct {
	uint8_t record[RECORD_BYTES], firmware[FIRMWARE_BYTES], config[CONFIG_BYTES];
} flash, whole;

static uint8_t identity[108 + 32], document[DOCUMENT_BYTES], good_seal[32], document_digest[32], config_cipher[CONFIG_IMAGE];
static uint64_t memory[16 * 1024 / 8 + 4096];
static uint32_t randomness;
static struct unbrickd_peer everybody;

static void check(bool holds)
{
	if (!holds)
		abort();
}

static uint8_t *at(uint8_t part, uint32_t offset, uint32_t length)
{
	uint8_t *base = part == 0 ? flash.record : part == FIRMWARE ? flash.firmware : flash.config;
	uint32_t size = part == 0 ? RECORD_BYTES : part == FIRMWARE ? FIRMWARE_BYTES : CONFIG_BYTES;

	check(part <= CONFIG && offset <= size && length <= size - offset);
	return base + offset;
}

static int device_read(void *app, uint8_t part, uint32_t offset, uint8_t *to, uint32_t length)
{
	(void)app;
	memcpy(to, at(part, offset, length), length);
	return 0;
}

static int device_program(void *app, uint8_t part, uint32_t offset, const uint8_t *from, uint32_t length)
{
	uint8_t *to = at(part, offset, length);
	uint32_t i;

	(void)app;
	check(length > 0 && length <= 256);
	for (i = 0; i < length; i++)
		check(to[i] == 0xFF);
	memcpy(to, from, length);
	return 0;
}

static int device_erase(void *app, uint8_t part, uint32_t offset, uint32_t length)
{
	(void)app;
	check(length == (part == 0 ? 1024 : part == FIRMWARE ? 512 : 256) && offset % length == 0);
	memset(at(part, offset, length), 0xFF, length);
	return 0;
}

static void device_random(void *app, uint8_t *to, uint32_t length)
{
	(void)app;
	while (length--)
		*to++ = (uint8_t)((randomness = randomness * 1664525 + 1013904223) >> 24);
}

static int device_verify(void *app, const uint8_t *key, uint32_t key_length, const uint8_t digest[32],
			 const uint8_t *signature, uint32_t length)
{
	(void)app, (void)key, (void)key_length, (void)digest, (void)signature, (void)length;
	return -1;
}

static void nobody_hears(void *app, const struct unbrickd_peer *to, const uint8_t *message, uint32_t length)
{
	(void)app, (void)to, (void)message, (void)length;
}

static struct unbrickd_io io = {
	.read = device_read,
	.program = device_program,
	.erase = device_erase,
	.send = nobody_hears,
	.random = device_random,
	.sha256_begin = unbrickd_sha256_begin,
	.sha256_add = unbrickd_sha256_add,
	.sha256_end = unbrickd_sha256_end,
	.crc32 = unbrickd_crc32,
	.aes256_ctr = unbrickd_aes256_ctr,
	.verify_signature = device_verify,
};

static const struct unbrickd_component components[] = {
	{ FIRMWARE, UNBRICKD_FIRMWARE, false, { 1, { { 4, 512 } } } },
	{ CONFIG, UNBRICKD_CONFIGURATION, true, { 1, { { 2, 256 } } } },
};

static const struct unbrickd_config config = {
	.io = &io,
	.identity = identity,
	.identity_bytes = sizeof(identity),
	.record = { 1, { { 4, 1024 } } },
	.components = components,
	.component_count = 2,
	.targets = &everybody,
	.target_count = 1,
	.max_message_bytes = 1452,
	.boot_limit = 3,
	.wait_ms = 60000,
};

static uint8_t *add_manifest(uint8_t *to, uint8_t id, uint8_t kind, const char *name, uint32_t length, uint32_t blocks,
			     uint32_t size)
{
	to[0] = id;
	to[1] = kind;
	to[2] = id == CONFIG;
	to[3] = 1;
	memcpy(to + 4, name, strlen(name));
	memcpy(to + 20, "1.0", 3);
	ub_put_u32(to + 84, length);
	ub_put_u32(to + 92, blocks);
	ub_put_u32(to + 100, blocks);
	ub_put_u32(to + 104, size);
	return to + 108;
}

static void make_document(struct unbrickd *ub)
{
	const struct unbrickd_part sealed = { .id = CONFIG, .sealed = true };
	struct ub_hash hash;
	uint8_t *to = document + 64;
	uint32_t i;

	memcpy(document, "UBGN\1\2", 6);
	ub_put_u32(document + 8, DOCUMENT_BYTES);
	memcpy(document + 12, identity + 8, 16);
	ub_put_u32(document + 28, 7);
	memcpy(document + 32, "fuzz", 4);
	to = add_manifest(to, FIRMWARE, UNBRICKD_FIRMWARE, "firmware", FIRMWARE_IMAGE, 4, 512);
	for (i = 0; i < 4; i++, to += 32)
		ub_sha256(ub, flash.firmware + 512 * i, ub_min(512, FIRMWARE_IMAGE - 512 * i), to);
	to = add_manifest(to, CONFIG, UNBRICKD_CONFIGURATION, "config", CONFIG_IMAGE, 2, 256);
	memcpy(config_cipher, flash.config, CONFIG_IMAGE);
	for (i = 0; i < 2; i++, to += 32) {
		uint32_t length = ub_min(256, CONFIG_IMAGE - 256 * i);
		uint8_t counter[16];

		ub_digest_begin(ub, &sealed, i, &hash);
		ub_hash_add(&hash, flash.config + 256 * i, length);
		ub_hash_end(&hash, to);
		memcpy(counter, to, sizeof(counter));
		unbrickd_aes256_ctr(ub->keys[UB_KEY_ENC], counter, config_cipher + 256 * i, length);
		ub_sha256(ub, config_cipher + 256 * i, length, to + 64);
	}
	to += 64;
	ub_hash_begin(ub, &hash, ub->keys[UB_KEY_MANIFEST], 32);
	ub_hash_add(&hash, document, DOCUMENT_BYTES - 32);
	ub_hash_end(&hash, to);
	ub_sha256(ub, document, DOCUMENT_BYTES, document_digest);
	ub_good_seal(ub, 7, document_digest, good_seal);
}

/* For what needs no more of the core than the table of functions. */
static struct unbrickd bare = { .io = &io };

/* The core, just switched on, with the flash as the factory left it. The first call provisions it. */
static struct unbrickd *switched_off_device(void)
{
	struct unbrickd *ub;
	uint32_t i;

	randomness = 1;
	if (!identity[0]) {
		memcpy(identity, "UBID\1\2", 6);
		for (i = 8; i < 104; i++)
			identity[i] = (uint8_t)(i * 7);
		memset(identity + 24, 0, 32);
		memcpy(identity + 24, "fuzz", 4);
		ub_sha256(&bare, identity, 108, identity + 108);
		check(unbrickd_init(&ub, &config, memory, sizeof(memory)) == 0);
		memset(&flash, 0xFF, sizeof(flash));
		for (i = 0; i < FIRMWARE_IMAGE; i++)
			flash.firmware[i] = (uint8_t)(i * i >> 3);
		for (i = 0; i < CONFIG_IMAGE; i++)
			flash.config[i] = (uint8_t)(i * 5);
		make_document(ub);
		memcpy(ub->document, document, DOCUMENT_BYTES);
		ub->document_bytes = DOCUMENT_BYTES;
		ub->record.good = true;
		ub->record.numbers[UB_COUNTER] = 7;
		check(ub_record_commit(ub) == 0);
		whole = flash;
	}
	flash = whole;
	check(unbrickd_init(&ub, &config, memory, sizeof(memory)) == 0);
	return ub;
}

int LLVMFuzzerTestOneInput(const uint8_t *octets, size_t size);

#endif
