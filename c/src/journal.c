/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* The slots behind a boot record, and what they add up to: spec/flash-format.md §7.1. Knows no flash. */
#include "internal.h"

#define CRC_AT 28

void ub_encode_slot(struct unbrickd *ub, enum ub_entry entry, uint32_t sequence, uint32_t index,
		    uint8_t slot[UB_SLOT])
{
	memset(slot, 0, UB_SLOT);
	slot[0] = (uint8_t)entry;
	ub_put_u32(slot + 4, sequence);
	ub_put_u32(slot + 8, index);
	ub_put_u32(slot + CRC_AT, ub->io->crc32(0, slot, CRC_AT));
}

static bool is_free(const uint8_t slot[UB_SLOT])
{
	uint32_t i;

	for (i = 0; i < UB_SLOT; i++) {
		if (slot[i] != 0xFF)
			return false;
	}
	return true;
}

void ub_count_slot(struct unbrickd *ub, struct ub_journal *j, const uint8_t slot[UB_SLOT], uint32_t sequence)
{
	uint32_t index = j->slots++;

	if (is_free(slot))
		return;
	j->next = index + 1;
	/* Torn, or left by an older record: it is passed over and means nothing. */
	if (ub_u32(slot + 4) != sequence || ub_u32(slot + 8) != index ||
	    ub_u32(slot + CRC_AT) != ub->io->crc32(0, slot, CRC_AT))
		return;
	switch (slot[0]) {
	case UB_ATTEMPT:
		j->failed[false]++;
		j->failed[true]++;
		break;
	case UB_GOOD:
		j->says_good = true;
		j->failed[false] = 0;
		/* fall through */
	case UB_UP:
		j->failed[true] = 0;
		break;
	default:
		break;
	}
}
