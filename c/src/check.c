/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* What is found in flash, and what is decided (R16, R17, R21). No network, no waiting; writes nothing. */
#include "internal.h"

static bool fits(const struct unbrickd *ub, const struct unbrickd_part *m)
{
	uint32_t i;

	for (i = 0; i < ub->config->component_count; i++) {
		const struct unbrickd_component *c = &ub->config->components[i];

		if (c->id == m->id)
			return c->kind == m->kind && c->sealed == m->sealed && ub_covers(&c->geometry, &m->geometry);
	}
	return false;
}

uint32_t ub_content_bytes(const struct unbrickd_part *m, const struct ub_erase_block *block)
{
	return ub_min(block->size, m->length - block->offset);
}

int ub_check_generation(struct unbrickd *ub, uint32_t rollback_floor)
{
	int error = ub_check_authority(ub, rollback_floor);
	struct unbrickd_part *m = ub->generation.part;
	bool has_firmware = false, all_fit = true;

	for (; m < ub->generation.part + ub->generation.part_count; m++) {
		has_firmware = has_firmware || m->kind == UNBRICKD_FIRMWARE;
		m->fits = fits(ub, m);
		all_fit = all_fit && m->fits;
	}
	return error || (has_firmware && all_fit) ? error : UNBRICKD_E_LAYOUT;
}

bool ub_differs(const struct unbrickd *ub, const struct unbrickd_part *m, uint32_t index)
{
	uint32_t bit = m->damage_at + index;

	return ub->damage[bit / 8] >> bit % 8 & 1;
}

/* Flash that cannot be read counts as damaged. */
static bool holds(struct unbrickd *ub, const struct unbrickd_part *m, const struct ub_erase_block *block)
{
	uint32_t length = ub_content_bytes(m, block);
	uint8_t digest[UB_DIGEST];
	struct ub_hash hash;

	if (ub_read(ub, m->id, block->offset, ub->buffer, length))
		return false;
	ub_digest_begin(ub, m, block->index, &hash);
	ub_hash_add(&hash, ub->buffer, length);
	ub_hash_end(&hash, digest);
	return ub_same(digest, m->digests + block->index * UB_DIGEST, UB_DIGEST);
}

void ub_compare(struct unbrickd *ub)
{
	struct unbrickd_part *m = ub->generation.part;
	uint32_t bit = 0, i;

	for (; m < ub->generation.part + ub->generation.part_count; m++) {
		m->damage_at = bit;
		m->differing = m->bytes = 0;
		for (i = 0; m->fits && i < m->erase_blocks; i++, bit++) {
			uint8_t *damage = &ub->damage[bit / 8], mask = (uint8_t)(1u << bit % 8);
			struct ub_erase_block block;

			ub_find_erase_block(&m->geometry, i, &block);
			*damage &= (uint8_t)~mask;
			if (holds(ub, m, &block))
				continue;
			*damage |= mask;
			m->differing++;
			m->bytes += ub_content_bytes(m, &block);
		}
	}
	ub->is_compared = true;
}

/* What the boot record says of each component is wanted for the choice, when its document has made room for another. */
static void remember_recorded(struct unbrickd *ub)
{
	const struct unbrickd_part *m = ub->generation.part;
	struct ub_recorded *to = ub->recorded;

	ub->recorded_count = (uint8_t)ub->generation.part_count;
	for (; m < ub->generation.part + ub->generation.part_count; m++, to++) {
		to->id = m->id;
		memcpy(to->version, m->version, UB_VERSION);
		ub_image_digest(ub, m, to->image_digest);
	}
}

void ub_check_flash(struct unbrickd *ub)
{
	struct unbrickd_checked *c = &ub->checked;
	const struct unbrickd_part *m = ub->generation.part;

	c->bootable = c->damaged = c->config_damaged = false;
	c->refused = UNBRICKD_OK;
	if (!ub_record_load(ub)) {
		ub->generation.part_count = ub->recorded_count = 0;
		return;
	}
	remember_recorded(ub);
	c->refused = ub_check_generation(ub, ub->record.numbers[UB_ROLLBACK_FLOOR]);
	c->bootable = !c->refused;
	ub_compare(ub);
	for (; m < ub->generation.part + ub->generation.part_count; m++) {
		if (!m->differing)
			continue;
		c->damaged = true;
		/* A damaged configuration does not bar the boot. */
		c->config_damaged = c->config_damaged || m->kind == UNBRICKD_CONFIGURATION;
		c->bootable = c->bootable && m->kind != UNBRICKD_FIRMWARE;
	}
}

/*
 * The rejected generations with one more. There is one range, and what lies in it is never chosen. Below it, the range
 * grows down to there: what lies between was passed over as not held or not good. Right above, it grows by one. Further
 * above there may be good ones in between, so a new range begins.
 */
static void reject(struct unbrickd_checked *c, uint32_t number)
{
	if (c->rejected_from <= number && number <= c->rejected_to)
		return;
	if (number < c->rejected_from) {
		c->rejected_from = number;
		return;
	}
	if (!c->rejected_to || number != c->rejected_to + 1)
		c->rejected_from = number;
	c->rejected_to = number;
}

void ub_decide(struct unbrickd *ub, enum unbrickd_reason reason)
{
	struct unbrickd_checked *c = &ub->checked;

	c->reason = reason;
	c->named = c->rejected_from = c->rejected_to = 0;
	if (reason == UNBRICKD_SOUND || reason == UNBRICKD_RECORD_LOST)
		return;
	c->rejected_from = ub->record.numbers[UB_REJECTED_FROM];
	c->rejected_to = ub->record.numbers[UB_REJECTED_TO];
	if (reason == UNBRICKD_DAMAGED)
		c->named = ub->record.number;
	else if (reason != UNBRICKD_BUTTON)
		reject(c, ub->record.number);
}

/* The first of these that holds. */
static enum unbrickd_reason reason_of(const struct unbrickd *ub, bool button)
{
	if (!ub->record.loaded)
		return UNBRICKD_RECORD_LOST;
	if (button)
		return UNBRICKD_BUTTON;
	if (ub->checked.refused)
		return UNBRICKD_REFUSED;
	if (ub->record.failed_boots >= ub->config->boot_limit)
		return UNBRICKD_BOOT_FAILED;
	return ub->checked.damaged ? UNBRICKD_DAMAGED : UNBRICKD_SOUND;
}

void ub_check(struct unbrickd *ub, bool button, bool repaired)
{
	ub_check_flash(ub);
	ub_decide(ub, reason_of(ub, button));
	ub->checked.record_repaired = repaired;
	ub_event(ub, UNBRICKD_CHECKED, NULL)->u.checked = &ub->checked;
	ub_tell(ub);
}
