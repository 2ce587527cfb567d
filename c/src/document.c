/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * The generation document: the manifests backed up together, and whether their firmware may run here. Knows no flash.
 * spec/flash-format.md §3 and §4. Every count is bounded before it is used; names and versions are taken as they are, as
 * the agent of this very device sealed them.
 */
#include "internal.h"

#define HEAD 64
#define DEVICE_ID_AT 12
#define MODEL_AT 32
#define MANIFEST_HEAD 100
#define RUN 8
#define MAX_DOCUMENT (4u << 20)
#define MAX_SIGNATURE 512
#define FLAG_SEALED 0x01

/* Its length, or 0 if it is none: the runs add up to the erase blocks, and the image fills all of those but maybe the last. */
static uint32_t decode_manifest(const uint8_t *head, uint32_t left, struct unbrickd_part *m)
{
	uint32_t i, bytes, digests;
	struct ub_erase_block last;

	if (left < MANIFEST_HEAD)
		return 0;
	m->id = head[0];
	m->kind = head[1];
	m->sealed = head[2] & FLAG_SEALED;
	m->geometry.run_count = head[3];
	m->name = head + 4;
	m->version = head + 20;
	m->length = ub_u32(head + 84);
	m->rollback_index = ub_u32(head + 88);
	m->erase_blocks = ub_u32(head + 92);
	m->signature_bytes = ub_u16(head + 96);
	bytes = MANIFEST_HEAD + (uint32_t)m->geometry.run_count * RUN;
	if (!m->id || !ub_is_kind(m->kind) || m->geometry.run_count > UNBRICKD_MAX_RUNS ||
	    m->signature_bytes > MAX_SIGNATURE || left < bytes)
		return 0;
	m->runs = head + MANIFEST_HEAD;
	for (i = 0; i < m->geometry.run_count; i++) {
		m->geometry.run[i].count = ub_u32(m->runs + i * RUN);
		m->geometry.run[i].size_bytes = ub_u32(m->runs + i * RUN + 4);
	}
	if (!m->erase_blocks || ub_count_erase_blocks(&m->geometry) != m->erase_blocks)
		return 0;
	digests = m->erase_blocks * UB_DIGEST;
	if (left - bytes < m->signature_bytes + digests * (m->sealed ? 2 : 1))
		return 0;
	m->signature = head + bytes;
	m->digests = m->signature + m->signature_bytes;
	m->transfer_digests = m->sealed ? m->digests + digests : m->digests;
	ub_find_erase_block(&m->geometry, m->erase_blocks - 1, &last);
	if (m->length <= last.offset || m->length - last.offset > last.size)
		return 0;
	return (uint32_t)(m->transfer_digests + digests - head);
}

int ub_decode_document(const uint8_t *document, uint32_t length, struct unbrickd_generation *g)
{
	uint32_t i, bytes, left;
	const uint8_t *at;

	if (length < HEAD + UB_DIGEST || length > MAX_DOCUMENT || memcmp(document, "UBGN", 4) || document[4] != 1 ||
	    ub_u32(document + 8) != length)
		return UNBRICKD_E_DOCUMENT;
	g->part_count = document[5];
	g->number = ub_u32(document + 28);
	if (g->part_count < 1 || g->part_count > UNBRICKD_MAX_COMPONENTS || !g->number)
		return UNBRICKD_E_DOCUMENT;
	at = document + HEAD;
	left = length - HEAD - UB_DIGEST;
	for (i = 0; i < g->part_count; i++) {
		bytes = decode_manifest(at, left, &g->part[i]);
		if (!bytes || (i && g->part[i].id <= g->part[i - 1].id))
			return UNBRICKD_E_DOCUMENT;
		at += bytes;
		left -= bytes;
	}
	return left ? UNBRICKD_E_DOCUMENT : UNBRICKD_OK;
}

int ub_open_document(struct unbrickd *ub)
{
	uint32_t length = ub->document_bytes - UB_DIGEST;
	uint8_t digest[UB_DIGEST];
	struct ub_hash mac;
	int error;

	if (ub->document_bytes < UB_DIGEST)
		return UNBRICKD_E_MAC;
	/* The MAC first: what this device did not seal is not even looked at. */
	ub_hash_begin(ub, &mac, ub->keys[UB_KEY_MANIFEST], UB_DIGEST);
	ub_hash_add(&mac, ub->document, length);
	ub_hash_end(&mac, digest);
	if (!ub_same(digest, ub->document + length, UB_DIGEST))
		return UNBRICKD_E_MAC;
	error = ub_decode_document(ub->document, ub->document_bytes, &ub->generation);
	if (error)
		return error;
	if (memcmp(ub->document + DEVICE_ID_AT, ub->identity.device_id, UB_DEVICE_ID) ||
	    memcmp(ub->document + MODEL_AT, ub->identity.model, UB_MODEL))
		return UNBRICKD_E_MAC;
	return UNBRICKD_OK;
}

void ub_image_digest(struct unbrickd *ub, const struct unbrickd_part *m, uint8_t digest[UB_DIGEST])
{
	struct ub_hash hash;

	ub_hash_begin(ub, &hash, NULL, 0);
	ub_hash_add(&hash, "unbrickd image v1", 17);
	ub_hash_add_u32(&hash, m->length);
	ub_hash_add_u32(&hash, m->geometry.run_count);
	ub_hash_add(&hash, m->runs, (uint32_t)m->geometry.run_count * RUN);
	ub_hash_add(&hash, m->transfer_digests, m->erase_blocks * UB_DIGEST);
	ub_hash_end(&hash, digest);
}

/* §3.3: by the maker, over label, model, version, rollback index and image digest. */
static bool is_signed(struct unbrickd *ub, const struct unbrickd_part *m)
{
	const struct ub_identity *identity = &ub->identity;
	uint8_t digest[UB_DIGEST];
	struct ub_hash hash;

	/* The image digest of a sealed component names ciphertext: a signature on it would not speak of the flash. */
	if (m->sealed || !m->signature_bytes)
		return false;
	ub_image_digest(ub, m, digest);
	ub_hash_begin(ub, &hash, NULL, 0);
	ub_hash_add(&hash, "unbrickd firmware v1", 20);
	ub_hash_add(&hash, identity->model, UB_MODEL);
	ub_hash_add(&hash, m->version, UB_VERSION);
	ub_hash_add_u32(&hash, m->rollback_index);
	ub_hash_add(&hash, digest, sizeof(digest));
	ub_hash_end(&hash, digest);
	return !ub->io->verify_signature(ub->config->app, identity->maker_key, identity->maker_key_bytes, digest,
					 m->signature, m->signature_bytes);
}

int ub_check_authority(struct unbrickd *ub, uint32_t rollback_floor)
{
	const struct unbrickd_part *m, *end = ub->generation.part + ub->generation.part_count;
	uint32_t floor = ub_max(rollback_floor, ub->identity.rollback_floor);

	for (m = ub->generation.part; m < end; m++) {
		if (m->kind == UNBRICKD_FIRMWARE && m->rollback_index < floor)
			return UNBRICKD_E_ROLLBACK;
	}
	for (m = ub->generation.part; m < end; m++) {
		if (m->kind == UNBRICKD_FIRMWARE && ub->identity.maker_signs && !is_signed(ub, m))
			return UNBRICKD_E_SIGNATURE;
	}
	return UNBRICKD_OK;
}
