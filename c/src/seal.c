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

void ub_sha256(struct unbrickd *ub, const uint8_t *from, uint32_t length, uint8_t digest[UB_DIGEST])
{
	struct unbrickd_sha256 hash;

	ub->io->sha256_begin(&hash);
	ub->io->sha256_add(&hash, from, length);
	ub->io->sha256_end(&hash, digest);
}

/* RFC 2104; none of our keys is longer than a block. */
void ub_hmac_begin(struct unbrickd *ub, struct ub_hmac *mac, const uint8_t *key, uint32_t key_length)
{
	uint8_t inner[sizeof(mac->outer)];
	uint32_t i;

	for (i = 0; i < sizeof(inner); i++) {
		uint8_t octet = i < key_length ? key[i] : 0;

		inner[i] = octet ^ 0x36;
		mac->outer[i] = octet ^ 0x5C;
	}
	ub->io->sha256_begin(&mac->hash);
	ub->io->sha256_add(&mac->hash, inner, sizeof(inner));
}

void ub_hmac_end(struct unbrickd *ub, struct ub_hmac *mac, uint8_t digest[UB_DIGEST])
{
	uint8_t inner[UB_DIGEST];

	ub->io->sha256_end(&mac->hash, inner);
	ub->io->sha256_begin(&mac->hash);
	ub->io->sha256_add(&mac->hash, mac->outer, sizeof(mac->outer));
	ub->io->sha256_add(&mac->hash, inner, sizeof(inner));
	ub->io->sha256_end(&mac->hash, digest);
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

/* device_id: NULL for a key of the device, K(label); else S(label). */
static void derive(struct unbrickd *ub, const uint8_t *secret, uint32_t secret_bytes, const char *label,
		   const uint8_t *device_id, uint8_t key[UB_DIGEST])
{
	struct ub_hmac mac;

	ub_hmac_begin(ub, &mac, secret, secret_bytes);
	ub->io->sha256_add(&mac.hash, (const uint8_t *)label, (uint32_t)strlen(label));
	if (device_id)
		ub->io->sha256_add(&mac.hash, device_id, UB_DEVICE_ID);
	ub_hmac_end(ub, &mac, key);
}

void ub_derive_keys(struct unbrickd *ub)
{
	const struct ub_identity *identity = &ub->identity;
	struct ub_keys *keys = &ub->keys;

	derive(ub, identity->device_key, 32, "unbrickd manifest v1", NULL, keys->manifest);
	derive(ub, identity->device_key, 32, "unbrickd record v1", NULL, keys->record);
	derive(ub, identity->device_key, 32, "unbrickd good v1", NULL, keys->good);
	derive(ub, identity->recovery_secret, 16, "unbrickd siv v1", identity->device_id, keys->siv);
	derive(ub, identity->recovery_secret, 16, "unbrickd enc v1", identity->device_id, keys->enc);
}

void ub_good_seal(struct unbrickd *ub, uint32_t number, const uint8_t *document_digest, uint8_t seal[UB_DIGEST])
{
	struct ub_hmac mac;
	uint8_t octets[4];

	ub_put_u32(octets, number);
	ub_hmac_begin(ub, &mac, ub->keys.good, UB_DIGEST);
	ub->io->sha256_add(&mac.hash, ub->identity.device_id, UB_DEVICE_ID);
	ub->io->sha256_add(&mac.hash, octets, sizeof(octets));
	ub->io->sha256_add(&mac.hash, document_digest, UB_DIGEST);
	ub_hmac_end(ub, &mac, seal);
}

void ub_digest_begin(struct unbrickd *ub, const struct ub_manifest *m, uint32_t index, struct ub_hmac *mac)
{
	uint8_t place[5];

	if (!m->sealed) {
		ub->io->sha256_begin(&mac->hash);
		return;
	}
	place[0] = m->id;
	ub_put_u32(place + 1, index);
	ub_hmac_begin(ub, mac, ub->keys.siv, UB_DIGEST);
	ub->io->sha256_add(&mac->hash, place, sizeof(place));
}

void ub_digest_end(struct unbrickd *ub, const struct ub_manifest *m, struct ub_hmac *mac, uint8_t digest[UB_DIGEST])
{
	if (m->sealed)
		ub_hmac_end(ub, mac, digest);
	else
		ub->io->sha256_end(&mac->hash, digest);
}
