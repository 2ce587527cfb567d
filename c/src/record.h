/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* What reading and writing of the boot record share: record.c and record_write.c. */
#ifndef UNBRICKD_RECORD_H
#define UNBRICKD_RECORD_H

#include "internal.h"

#define HEAD 32
#define NUMBERS_AT 8
#define MAC UB_DIGEST
#define FLAG_GOOD 0x01

/* One copy as it was read; its MAC holds if it is valid. */
struct copy {
	bool valid, counts;
	bool good, is_good;	/* the flag; by flag or journal */
	uint32_t numbers[UB_NUMBERS];
	uint32_t journal_at;	/* from the start of the half */
	uint8_t mac[MAC];
	struct ub_journal journal;
};

/* Both copies, and what counts: that of the higher sequence. */
struct survey {
	struct copy copy[2];
	const struct copy *best;	/* NULL: neither is valid */
	bool is_good;
	uint32_t failed_boots;
};

/* Where the journal behind such a document begins, and how many slots it has. */
uint32_t ub_journal_start(uint32_t document_bytes);
uint32_t ub_journal_slots(const struct unbrickd *ub, uint32_t document_bytes);
/* Read both copies, verify their MACs, judge. The document in memory stays. */
void ub_survey(struct unbrickd *ub, struct survey *s);
/* The same, and what counts into ub->record, its document into ub->document. */
void ub_survey_and_load(struct unbrickd *ub, struct survey *s);

#endif
