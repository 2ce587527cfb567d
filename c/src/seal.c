/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * The identity, the keys that come from it, and what is authenticated under them. Knows neither flash nor network.
 * spec/flash-format.md §2, §4.1 and §5.
 */
#include "internal.h"

#define IDENTITY_HEAD 108
#define MAX_MAKER_KEY 1024
#define POLICY_MAKER 1
#define POLICY_OWNER 2

/* RFC 2104; none of our keys is longer than a block. */
void ub_hash_begin(const struct unbrickd *ub, struct ub_hash *hash, const uint8_t *key, uint32_t key_length)
{
	uint8_t inner[sizeof(hash->outer)];
	uint32_t i;

	hash->io = ub->io;
	hash->has_key = key != NULL;
	hash->io->sha256_begin(&hash->state);
	if (!key)
		return;
	for (i = 0; i < sizeof(inner); i++) {
		uint8_t octet = i < key_length ? key[i] : 0;

		inner[i] = octet ^ 0x36;
		hash->outer[i] = octet ^ 0x5C;
	}
	ub_hash_add(hash, inner, sizeof(inner));
}

void ub_hash_add(struct ub_hash *hash, const void *from, uint32_t length)
{
	hash->io->sha256_add(&hash->state, from, length);
}

void ub_hash_add_u32(struct ub_hash *hash, uint32_t value)
{
	uint8_t octets[4];

	ub_put_u32(octets, value);
	ub_hash_add(hash, octets, sizeof(octets));
}

void ub_hash_end(struct ub_hash *hash, uint8_t digest[UB_DIGEST])
{
	hash->io->sha256_end(&hash->state, digest);
	if (hash->has_key) {
		hash->io->sha256_begin(&hash->state);
		ub_hash_add(hash, hash->outer, sizeof(hash->outer));
		ub_hash_add(hash, digest, UB_DIGEST);
		hash->io->sha256_end(&hash->state, digest);
	}
}

void ub_sha256(const struct unbrickd *ub, const uint8_t *from, uint32_t length, uint8_t digest[UB_DIGEST])
{
	struct ub_hash hash;

	ub_hash_begin(ub, &hash, NULL, 0);
	ub_hash_add(&hash, from, length);
	ub_hash_end(&hash, digest);
}

int ub_decode_identity(struct unbrickd *ub, const uint8_t *octets, uint32_t length)
{
	struct ub_identity *identity = &ub->identity;
	uint8_t digest[UB_DIGEST];
	uint32_t end;

	if (length < IDENTITY_HEAD + UB_DIGEST || memcmp(octets, "UBID", 4) || octets[4] != 1)
		return UNBRICKD_E_IDENTITY;
	identity->maker_key_bytes = ub_u16(octets + 6);
	end = IDENTITY_HEAD + identity->maker_key_bytes;
	if (identity->maker_key_bytes > MAX_MAKER_KEY || end + UB_DIGEST > length)
		return UNBRICKD_E_IDENTITY;
	ub_sha256(ub, octets, end, digest);
	if (!ub_same(digest, octets + end, UB_DIGEST))
		return UNBRICKD_E_IDENTITY;
	if (octets[5] != POLICY_MAKER && octets[5] != POLICY_OWNER)
		return UNBRICKD_E_IDENTITY;
	/* What is not the lenient policy is the strict one, and that needs a key. */
	identity->maker_signs = octets[5] != POLICY_OWNER;
	if (identity->maker_signs && !identity->maker_key_bytes)
		return UNBRICKD_E_IDENTITY;
	identity->device_id = octets + 8;
	identity->model = octets + 24;
	identity->device_key = octets + 56;
	identity->recovery_secret = octets + 88;
	identity->rollback_floor = ub_u32(octets + 104);
	identity->maker_key = octets + IDENTITY_HEAD;
	return UNBRICKD_OK;
}

/* §2.1: K(label), and S(label), which names the device. */
void ub_derive_keys(struct unbrickd *ub)
{
	static const char labels[UB_KEYS][9] = { "manifest", "record", "good", "siv", "enc" };
	const struct ub_identity *identity = &ub->identity;
	struct ub_hash hash;
	uint32_t i;

	for (i = 0; i < UB_KEYS; i++) {
		bool names_device = i >= UB_KEY_SIV;

		ub_hash_begin(ub, &hash, names_device ? identity->recovery_secret : identity->device_key,
			      names_device ? 16 : 32);
		ub_hash_add(&hash, "unbrickd ", 9);
		ub_hash_add(&hash, labels[i], (uint32_t)strlen(labels[i]));
		ub_hash_add(&hash, " v1", 3);
		if (names_device)
			ub_hash_add(&hash, identity->device_id, UB_DEVICE_ID);
		ub_hash_end(&hash, ub->keys[i]);
	}
}

void ub_good_seal(struct unbrickd *ub, uint32_t number, const uint8_t *document_digest, uint8_t seal[UB_DIGEST])
{
	struct ub_hash hash;

	ub_hash_begin(ub, &hash, ub->keys[UB_KEY_GOOD], UB_DIGEST);
	ub_hash_add(&hash, ub->identity.device_id, UB_DEVICE_ID);
	ub_hash_add_u32(&hash, number);
	ub_hash_add(&hash, document_digest, UB_DIGEST);
	ub_hash_end(&hash, seal);
}

void ub_digest_begin(const struct unbrickd *ub, const struct unbrickd_part *m, uint32_t index, struct ub_hash *hash)
{
	ub_hash_begin(ub, hash, m->sealed ? ub->keys[UB_KEY_SIV] : NULL, UB_DIGEST);
	if (m->sealed) {
		ub_hash_add(hash, &m->id, 1);
		ub_hash_add_u32(hash, index);
	}
}
