/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* What is found in flash, and what is decided (R16, R17, R21). No network, no waiting; writes nothing. */
#include "internal.h"

const struct unbrickd_component *ub_find_component(const struct unbrickd *ub, uint8_t id)
{
	uint32_t i;

	for (i = 0; i < ub->config->component_count; i++) {
		if (ub->config->components[i].id == id)
			return &ub->config->components[i];
	}
	return NULL;
}

static bool takes(const struct unbrickd_component *component, const struct ub_manifest *m)
{
	return component && component->kind == m->kind && component->sealed == m->sealed &&
	       ub_covers(&component->geometry, m);
}

uint32_t ub_content_bytes(const struct ub_manifest *m, struct ub_erase_block block)
{
	return ub_min(block.size, m->length - block.offset);
}

void ub_digest(struct unbrickd *ub, const struct ub_manifest *m, uint32_t index, const uint8_t *octets, uint32_t length,
	       uint8_t digest[UB_DIGEST])
{
	if (m->sealed)
		ub_keyed_digest(ub, m->id, index, octets, length, digest);
	else
		ub_sha256(ub, octets, length, digest);
}

int ub_check_generation(struct unbrickd *ub, uint32_t rollback_floor)
{
	const struct ub_generation *g = &ub->generation;
	int error = ub_check_authority(ub, rollback_floor);
	bool has_firmware = false;
	uint32_t i;

	for (i = 0; i < g->count && !error; i++) {
		has_firmware = has_firmware || g->manifest[i].kind == UNBRICKD_FIRMWARE;
		if (!takes(ub_find_component(ub, g->manifest[i].id), &g->manifest[i]))
			error = UNBRICKD_E_LAYOUT;
	}
	return error ? error : has_firmware ? UNBRICKD_OK : UNBRICKD_E_LAYOUT;
}

/* Where the bits of a component begin in the map of damage. */
static uint32_t first_bit(const struct unbrickd *ub, const struct unbrickd_component *component)
{
	const struct unbrickd_component *before;
	uint32_t bit = 0;

	for (before = ub->config->components; before < component; before++)
		bit += ub_count_erase_blocks(&before->geometry);
	return bit;
}

bool ub_differs(const struct unbrickd *ub, uint32_t part, uint32_t index)
{
	uint32_t bit = first_bit(ub, ub_find_component(ub, ub->part[part].id)) + index;

	return ub->damage[bit / 8] >> bit % 8 & 1;
}

/* Flash that cannot be read counts as damaged. */
static bool holds(struct unbrickd *ub, const struct ub_manifest *m, struct ub_erase_block block)
{
	uint32_t length = ub_content_bytes(m, block);
	uint8_t digest[UB_DIGEST];

	if (ub_read(ub, m->id, block.offset, ub->erase_block, length))
		return false;
	ub_digest(ub, m, block.index, ub->erase_block, length, digest);
	return ub_same(digest, m->digests + block.index * UB_DIGEST, UB_DIGEST);
}

static void compare_part(struct unbrickd *ub, const struct unbrickd_component *component, const struct ub_manifest *m,
			 struct unbrickd_part *part)
{
	uint32_t i, first = first_bit(ub, component);

	for (i = 0; i < m->erase_blocks; i++) {
		struct ub_erase_block block = ub_find_erase_block(&component->geometry, i);
		uint32_t bit = first + i;

		ub->damage[bit / 8] &= (uint8_t) ~(1u << bit % 8);
		if (holds(ub, m, block))
			continue;
		ub->damage[bit / 8] |= (uint8_t)(1u << bit % 8);
		part->differing++;
		part->bytes += ub_content_bytes(m, block);
	}
}

void ub_compare(struct unbrickd *ub)
{
	uint32_t i;

	memset(ub->part, 0, sizeof(ub->part));
	for (i = 0; i < ub->generation.count; i++) {
		const struct ub_manifest *m = &ub->generation.manifest[i];
		const struct unbrickd_component *component = ub_find_component(ub, m->id);
		struct unbrickd_part *part = &ub->part[i];

		part->id = m->id;
		part->kind = m->kind;
		part->name = m->name;
		part->fits = takes(component, m);
		if (part->fits) {
			part->erase_blocks = m->erase_blocks;
			compare_part(ub, component, m, part);
		}
	}
}

/* What the boot record says of each component is wanted for the choice, when its document has made room for another. */
static void remember_recorded(struct unbrickd *ub)
{
	uint32_t i;

	ub->recorded_count = ub->generation.count;
	for (i = 0; i < ub->generation.count; i++) {
		const struct ub_manifest *m = &ub->generation.manifest[i];

		ub->recorded[i].id = m->id;
		memcpy(ub->recorded[i].version, m->version, UB_VERSION);
		ub_image_digest(ub, m, ub->recorded[i].image_digest);
	}
}

void ub_check_flash(struct unbrickd *ub)
{
	struct ub_findings *f = &ub->findings;
	bool has_firmware = false;
	uint32_t i;

	memset(f, 0, sizeof(*f));
	memset(ub->part, 0, sizeof(ub->part));
	ub->recorded_count = 0;
	if (!ub_record_load(ub)) {
		ub->generation.count = 0;
		return;
	}
	remember_recorded(ub);
	f->refused = ub_check_generation(ub, ub->record.rollback_floor);
	ub_compare(ub);
	f->bootable = !f->refused;
	for (i = 0; i < ub->generation.count; i++) {
		const struct unbrickd_part *part = &ub->part[i];

		f->damaged = f->damaged || part->differing;
		f->config_damaged = f->config_damaged || (part->kind == UNBRICKD_CONFIGURATION && part->differing);
		if (part->kind == UNBRICKD_FIRMWARE) {
			has_firmware = true;
			f->bootable = f->bootable && !part->differing;
		}
	}
	/* A damaged configuration does not bar it. */
	f->bootable = f->bootable && has_firmware;
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
	ub->decision.rejected_from = ub->record.rejected_from;
	ub->decision.rejected_to = ub->record.rejected_to;
}

void ub_decide(struct unbrickd *ub, bool button)
{
	struct ub_decision *d = &ub->decision;

	memset(d, 0, sizeof(*d));
	d->reason = UNBRICKD_RECORD_LOST;
	if (!ub->record.loaded)
		return;
	d->rejected_from = ub->record.rejected_from;
	d->rejected_to = ub->record.rejected_to;
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
