/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * The record partition with anything in it: pieces of the input over a whole one, and where the input says so the MAC
 * of a copy set right. It is loaded, repaired, marked and renewed; afterwards it must be whole or lost.
 */
#include "device.h"

static void set_mac_right(struct unbrickd *ub, uint32_t half)
{
	uint8_t *copy = flash.record + half;
	uint32_t length = ub_u32(copy + 28);
	struct ub_hash hash;

	if (length > 2048 - 64)
		return;
	ub_hash_begin(ub, &hash, ub->keys[UB_KEY_RECORD], 32);
	ub_hash_add(&hash, copy, 32 + length);
	ub_hash_end(&hash, copy + 32 + length);
}

int LLVMFuzzerTestOneInput(const uint8_t *octets, size_t size)
{
	struct unbrickd *ub = switched_off_device();
	uint32_t i, marks;
	bool loaded;

	if (!size)
		return 0;
	marks = *octets++ % 60;	/* more than a journal has slots */
	size--;
	/* (where, how many, bytes …) */
	while (size >= 4) {
		uint32_t where = ub_u16(octets) % RECORD_BYTES, count = octets[2];

		octets += 3;
		size -= 3;
		for (i = 0; i < count && size && where < RECORD_BYTES; i++, size--)
			flash.record[where++] = *octets++;
		if (size && *octets & 1)
			set_mac_right(ub, *octets & 2 ? 2048 : 0);
	}
	loaded = ub_record_load(ub);
	ub_record_repair(ub);
	for (i = 0; i < marks; i++) {
		int error = ub_record_mark(ub, i % 7 == 6 ? UB_UP : UB_ATTEMPT);

		check(loaded ? !error : error == UNBRICKD_E_NO_RECORD);
	}
	check(ub_record_load(ub) == loaded);
	ub_check_flash(ub);
	return 0;
}
