/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * Bringing flash to the generation in ub->document: what differs, erase block by erase block, and the boot record last
 * (R21 to R23). Knows no network. Nothing is programmed that is not, to the byte, what the manifest says, and nothing
 * counts before it was read back. A power cut anywhere leaves the boot record as it was.
 */
#include "internal.h"

#define STEP 4096u	/* what is written in one step, while the network waits: a few ms of NOR flash */

static enum unbrickd_choice choose(struct unbrickd *ub, const struct unbrickd_part *m)
{
	uint8_t digest[UB_DIGEST];
	uint32_t i;

	if (!m->differing)
		return UNBRICKD_KEEP;
	for (i = 0; i < ub->recorded_count; i++) {
		const struct ub_recorded *recorded = &ub->recorded[i];

		if (recorded->id != m->id)
			continue;
		ub_image_digest(ub, m, digest);
		if (!memcmp(recorded->image_digest, digest, UB_DIGEST))
			return UNBRICKD_IS_DAMAGED;
		if (m->kind == UNBRICKD_FIRMWARE && memcmp(recorded->version, m->version, UB_VERSION))
			return UNBRICKD_VERSION_DIFFERS;
		return UNBRICKD_CONTENT_DIFFERS;
	}
	return UNBRICKD_IS_DAMAGED;
}

int ub_install_begin(struct unbrickd *ub)
{
	int error = ub_check_generation(ub, ub->record.numbers[UB_ROLLBACK_FLOOR]);
	struct unbrickd_part *m = ub->generation.part;

	if (error)
		return error;
	if (!ub->is_compared)
		ub_compare(ub);
	for (; m < ub->generation.part + ub->generation.part_count; m++)
		m->choice = (uint8_t)choose(ub, m);
	ub_event(ub, UNBRICKD_OFFER_TAKEN, &ub->server.peer)->u.is_named = ub->generation.number == ub->checked.named;
	ub_tell(ub);
	return UNBRICKD_OK;
}

/* The erase block at the head, deciphered in place, is what the manifest says. */
static bool verify_head(struct unbrickd *ub, const struct unbrickd_part *m)
{
	const uint8_t *wanted = m->digests + ub->receiver.head.index * UB_DIGEST;
	uint32_t at, piece, length = ub->receiver.head.length;
	uint8_t digest[UB_DIGEST], counter[16];
	struct ub_hash hash;

	memcpy(counter, wanted, sizeof(counter));
	ub_digest_begin(ub, m, ub->receiver.head.index, &hash);
	for (at = 0; at < length; at += piece) {
		uint8_t *octets;

		piece = length - at;
		octets = ub_receiver_head(&ub->receiver, at, &piece);
		if (m->sealed)
			ub->io->aes256_ctr(ub->keys[UB_KEY_ENC], counter, octets, piece);
		ub_hash_add(&hash, octets, piece);
	}
	ub_hash_end(&hash, digest);
	return ub_same(digest, wanted, UB_DIGEST);
}

/* Verify it; make room for it in flash. */
static int begin_writing(struct unbrickd *ub, const struct unbrickd_part *m, const struct ub_erase_block *block)
{
	if (!verify_head(ub, m))
		return UNBRICKD_E_DIGEST;
	ub->flash_changed = true;
	ub->is_compared = false;
	ub->fetch.is_writing = true;
	ub->fetch.written = 0;
	return ub_write_erase_block(ub, m->id, block, NULL);
}

/* Program a piece of it, and read that back. Ascending: what of an erase block is written makes room in the ring. */
static int write_piece(struct unbrickd *ub, const struct unbrickd_part *m, const struct ub_erase_block *block)
{
	struct ub_fetch *f = &ub->fetch;
	uint32_t length = ub_min(STEP, ub->receiver.head.length - f->written);
	uint8_t *octets = ub_receiver_head(&ub->receiver, f->written, &length);
	int error;

	/* The image ends within a page: fill that. Behind the last of a stream there is room. */
	if (f->written + length == ub->receiver.head.length) {
		uint32_t fill = ub_min(ub_pieces(length, UB_PAGE) * UB_PAGE, block->size - f->written) - length;

		memset(octets + length, 0xFF, fill);
		length += fill;
	}
	error = ub_program_pages(ub, m->id, block->offset + f->written, octets, length);
	if (!error)
		error = ub_read_back(ub, m->id, block->offset + f->written, octets, length);
	if (error == UNBRICKD_E_VERIFY && !f->is_second_try) {
		f->is_second_try = true;
		f->is_writing = false;
		ub_receiver_reject(&ub->receiver);
		return UNBRICKD_OK;
	}
	if (error)
		return error;
	f->written += length;
	ub->receiver.released += length;
	return UNBRICKD_OK;
}

int ub_install_step(struct unbrickd *ub)
{
	const struct unbrickd_part *m = ub->fetch.part;
	struct ub_erase_block block;

	ub_find_erase_block(&m->geometry, ub->receiver.head.index, &block);
	return ub->fetch.is_writing ? write_piece(ub, m, &block) : begin_writing(ub, m, &block);
}

bool ub_install_is_written(const struct unbrickd *ub)
{
	return ub->fetch.is_writing && ub->fetch.written >= ub->receiver.head.length;
}

int ub_install_finish(struct unbrickd *ub)
{
	const struct unbrickd_generation *g = &ub->generation;
	struct ub_record *next = &ub->record;
	uint32_t i;

	/* Where only damage was mended, the record is right as it stands, its journal of boots included. */
	if (ub->checked.reason == UNBRICKD_DAMAGED && ub->holds_record)
		return UNBRICKD_OK;
	next->good = true;
	next->numbers[UB_COUNTER] = ub_max(next->numbers[UB_COUNTER], g->number);
	for (i = 0; i < g->part_count; i++) {
		if (g->part[i].kind == UNBRICKD_FIRMWARE)
			next->numbers[UB_ROLLBACK_FLOOR] = ub_max(next->numbers[UB_ROLLBACK_FLOOR], g->part[i].rollback_index);
	}
	next->numbers[UB_REJECTED_FROM] = ub->checked.rejected_from;
	next->numbers[UB_REJECTED_TO] = ub->checked.rejected_to;
	return ub_record_commit(ub);
}
