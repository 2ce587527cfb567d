/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * Bringing flash to the generation in ub->document: what differs, erase block by erase block, and the boot record last
 * (R21 to R23). Knows no network. Nothing is programmed that is not, to the byte, what the manifest says, and nothing
 * counts before it was read back. A power cut anywhere leaves the boot record as it was.
 */
#include "internal.h"

static enum unbrickd_choice choose(struct unbrickd *ub, const struct ub_manifest *m, const struct unbrickd_part *part)
{
	uint8_t digest[UB_DIGEST];
	uint32_t i;

	if (!part->differing)
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
	struct unbrickd_event *event;
	int error = ub_check_generation(ub, ub->record.rollback_floor);
	uint32_t i;

	if (error)
		return error;
	ub_compare(ub);
	for (i = 0; i < ub->generation.count; i++)
		ub->part[i].choice = (uint8_t)choose(ub, &ub->generation.manifest[i], &ub->part[i]);
	event = ub_event(ub, UNBRICKD_OFFER_TAKEN, &ub->server.peer);
	event->u.offer.generation = ub->generation.number;
	event->u.offer.is_named = ub->generation.number == ub->decision.named;
	event->u.offer.part_count = ub->generation.count;
	event->u.offer.parts = ub->part;
	ub_tell(ub);
	return UNBRICKD_OK;
}

int ub_install_erase_block(struct unbrickd *ub, uint32_t part, uint32_t index, uint32_t length)
{
	const struct ub_manifest *m = &ub->generation.manifest[part];
	const struct unbrickd_component *component = ub_find_component(ub, m->id);
	const uint8_t *wanted = m->digests + index * UB_DIGEST;
	uint8_t digest[UB_DIGEST];

	if (m->sealed)
		ub->io->aes256_ctr(ub->keys.enc, wanted, ub->erase_block, length);
	ub_digest(ub, m, index, ub->erase_block, length, digest);
	if (!ub_same(digest, wanted, UB_DIGEST))
		return UNBRICKD_E_DIGEST;
	return ub_write_erase_block(ub, m->id, ub_find_erase_block(&component->geometry, index), ub->erase_block, length);
}

int ub_install_finish(struct unbrickd *ub)
{
	const struct ub_generation *g = &ub->generation;
	struct ub_record *next = &ub->record;
	uint32_t i;

	/* Where only damage was mended, the record is right as it stands, its journal of boots included. */
	if (ub->decision.reason == UNBRICKD_DAMAGED && ub->holds_record)
		return UNBRICKD_OK;
	next->good = true;
	next->counter = ub_max(next->counter, g->number);
	for (i = 0; i < g->count; i++) {
		if (g->manifest[i].kind == UNBRICKD_FIRMWARE)
			next->rollback_floor = ub_max(next->rollback_floor, g->manifest[i].rollback_index);
	}
	next->rejected_from = ub->decision.rejected_from;
	next->rejected_to = ub->decision.rejected_to;
	return ub_record_commit(ub);
}
