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

	for (; m < ub->generation.part + ub->generation.count; m++) {
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

	for (; m < ub->generation.part + ub->generation.count; m++) {
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
	uint32_t i;

	ub->recorded_count = (uint8_t)ub->generation.count;
	for (i = 0; i < ub->generation.count; i++) {
		const struct unbrickd_part *m = &ub->generation.part[i];

		ub->recorded[i].id = m->id;
		memcpy(ub->recorded[i].version, m->version, UB_VERSION);
		ub_image_digest(ub, m, ub->recorded[i].image_digest);
	}
}

void ub_check_flash(struct unbrickd *ub)
{
	struct ub_findings *f = &ub->findings;
	const struct unbrickd_part *m = ub->generation.part;

	memset(f, 0, sizeof(*f));
	if (!ub_record_load(ub)) {
		ub->generation.count = ub->recorded_count = 0;
		return;
	}
	remember_recorded(ub);
	f->refused = ub_check_generation(ub, ub->record.numbers[UB_ROLLBACK_FLOOR]);
	f->bootable = !f->refused;
	ub_compare(ub);
	for (; m < ub->generation.part + ub->generation.count; m++) {
		if (!m->differing)
			continue;
		f->damaged = true;
		/* A damaged configuration does not bar the boot. */
		f->config_damaged = f->config_damaged || m->kind == UNBRICKD_CONFIGURATION;
		f->bootable = f->bootable && m->kind != UNBRICKD_FIRMWARE;
	}
}

/*
 * The rejected generations with one more. There is one range, and what lies in it is never chosen. Below it, the range
 * grows down to there: what lies between was passed over as not held or not good. Right above, it grows by one. Further
 * above there may be good ones in between, so a new range begins.
 */
static void reject(struct ub_decision *d, uint32_t number)
{
	if (d->rejected_from <= number && number <= d->rejected_to)
		return;
	if (number < d->rejected_from) {
		d->rejected_from = number;
		return;
	}
	if (!d->rejected_to || number != d->rejected_to + 1)
		d->rejected_from = number;
	d->rejected_to = number;
}

void ub_named_again(struct unbrickd *ub)
{
	ub->decision.reason = UNBRICKD_DAMAGED;
	ub->decision.named = ub->record.number;
	ub->decision.rejected_from = ub->record.numbers[UB_REJECTED_FROM];
	ub->decision.rejected_to = ub->record.numbers[UB_REJECTED_TO];
}

void ub_decide(struct unbrickd *ub, bool button)
{
	struct ub_decision *d = &ub->decision;

	memset(d, 0, sizeof(*d));
	d->reason = UNBRICKD_RECORD_LOST;
	if (!ub->record.loaded)
		return;
	d->rejected_from = ub->record.numbers[UB_REJECTED_FROM];
	d->rejected_to = ub->record.numbers[UB_REJECTED_TO];
	/* The first of these that holds gives the reason. */
	if (button) {
		d->reason = UNBRICKD_BUTTON;
	} else if (ub->findings.refused) {
		d->reason = UNBRICKD_REFUSED;
		reject(d, ub->record.number);
	} else if (ub->record.failed_boots >= ub->config->boot_limit) {
		d->reason = UNBRICKD_BOOT_FAILED;
		reject(d, ub->record.number);
	} else if (ub->findings.damaged) {
		ub_named_again(ub);
	} else {
		memset(d, 0, sizeof(*d));
		d->reason = UNBRICKD_SOUND;
	}
}

void ub_check(struct unbrickd *ub, bool button, bool repaired)
{
	struct unbrickd_event *event;

	ub_check_flash(ub);
	ub_decide(ub, button);
	event = ub_event(ub, UNBRICKD_CHECKED, NULL);
	event->u.checked.reason = ub->decision.reason;
	event->u.checked.refused = (enum unbrickd_error)ub->findings.refused;
	event->u.checked.bootable = ub->findings.bootable;
	event->u.checked.record_repaired = repaired;
	event->u.checked.named = ub->decision.named;
	event->u.checked.rejected_from = ub->decision.rejected_from;
	event->u.checked.rejected_to = ub->decision.rejected_to;
	event->u.checked.part_count = (uint8_t)ub->generation.count;
	event->u.checked.parts = ub->generation.part;
	ub_tell(ub);
}
