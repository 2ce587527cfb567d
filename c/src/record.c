/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * Reading the boot record: two copies with a journal each, and which of them counts. spec/flash-format.md §7. Knows
 * nothing of images, nor of what a failed boot leads to.
 */
#include "record.h"

uint32_t ub_journal_start(uint32_t document_bytes)
{
	return ub_pieces(HEAD + document_bytes + MAC, UB_SLOT) * UB_SLOT;
}

uint32_t ub_journal_slots(const struct unbrickd *ub, uint32_t document_bytes)
{
	uint32_t start = ub_journal_start(document_bytes);

	return start < ub->half_bytes ? (ub->half_bytes - start) / UB_SLOT : 0;
}

uint32_t ub_half_bytes(const struct unbrickd_geometry *record)
{
	uint32_t blocks = ub_count_erase_blocks(record);
	struct ub_erase_block half, end;

	if (!blocks || blocks % 2)
		return 0;
	ub_find_erase_block(record, blocks / 2, &half);
	ub_find_erase_block(record, blocks, &end);
	return end.offset == 2 * half.offset ? half.offset : 0;
}

uint32_t ub_record_capacity(uint32_t half_bytes)
{
	uint32_t around = HEAD + MAC + UB_MIN_SLOTS * UB_SLOT;

	return half_bytes < around + UB_SLOT ? 0 : half_bytes / UB_SLOT * UB_SLOT - around;
}

/* All of `length` bytes through the hash, by way of the erase block's buffer. */
static int hash_flash(struct unbrickd *ub, struct ub_hash *hash, uint32_t offset, uint32_t length)
{
	while (length) {
		uint32_t size = ub_min(length, ub->buffer_bytes);
		int error = ub_read(ub, UB_RECORD_PART, offset, ub->buffer, size);

		if (error)
			return error;
		ub_hash_add(hash, ub->buffer, size);
		offset += size;
		length -= size;
	}
	return UNBRICKD_OK;
}

static int read_journal(struct unbrickd *ub, struct copy *copy, uint32_t half_at)
{
	uint32_t at = copy->journal_at, chunk = ub->buffer_bytes / UB_SLOT * UB_SLOT;

	while (at <= ub->half_bytes - UB_SLOT) {
		uint32_t i, size = ub_min((ub->half_bytes - at) / UB_SLOT * UB_SLOT, chunk);
		int error = ub_read(ub, UB_RECORD_PART, half_at + at, ub->buffer, size);

		if (error)
			return error;
		for (i = 0; i < size; i += UB_SLOT)
			ub_count_slot(ub, &copy->journal, ub->buffer + i, copy->numbers[UB_SEQUENCE]);
		at += size;
	}
	return UNBRICKD_OK;
}

static void read_copy(struct unbrickd *ub, uint32_t half_at, struct copy *copy)
{
	uint8_t head[HEAD], mac[MAC];
	struct ub_hash hash;
	uint32_t i;

	memset(copy, 0, sizeof(*copy));
	if (ub_read(ub, UB_RECORD_PART, half_at, head, HEAD) || memcmp(head, "UBBR", 4) || head[4] != 1)
		return;
	copy->good = head[5] & FLAG_GOOD;
	for (i = 0; i < UB_NUMBERS; i++)
		copy->numbers[i] = ub_u32(head + NUMBERS_AT + 4 * i);
	if (copy->numbers[UB_DOCUMENT_BYTES] > ub->half_bytes - HEAD - MAC ||
	    copy->numbers[UB_REJECTED_FROM] > copy->numbers[UB_REJECTED_TO])
		return;
	copy->journal_at = ub_journal_start(copy->numbers[UB_DOCUMENT_BYTES]);
	ub_hash_begin(ub, &hash, ub->keys[UB_KEY_RECORD], UB_DIGEST);
	ub_hash_add(&hash, head, HEAD);
	if (hash_flash(ub, &hash, half_at + HEAD, copy->numbers[UB_DOCUMENT_BYTES]))
		return;
	ub_hash_end(&hash, mac);
	/* A copy that cannot be read is a torn copy: the other one is there for this. */
	if (ub_read(ub, UB_RECORD_PART, half_at + HEAD + copy->numbers[UB_DOCUMENT_BYTES], copy->mac, MAC) ||
	    !ub_same(mac, copy->mac, MAC) || read_journal(ub, copy, half_at))
		return;
	copy->is_good = copy->good || copy->journal.says_good;
	copy->valid = true;
}

static void judge(struct survey *s)
{
	uint32_t failed[2] = { 0, 0 };
	struct copy *copy;

	s->best = NULL;
	s->is_good = false;
	for (copy = s->copy; copy < s->copy + 2; copy++) {
		if (copy->valid && (!s->best || copy->numbers[UB_SEQUENCE] > s->best->numbers[UB_SEQUENCE]))
			s->best = copy;
	}
	for (copy = s->copy; copy < s->copy + 2; copy++) {
		/* One key, so equal MACs are equal records. */
		copy->counts = copy->valid && !memcmp(copy->mac, s->best->mac, MAC);
		if (!copy->counts)
			continue;
		s->is_good = s->is_good || copy->is_good;
		failed[false] = ub_max(failed[false], copy->journal.failed[false]);
		failed[true] = ub_max(failed[true], copy->journal.failed[true]);
	}
	s->failed_boots = failed[s->is_good];
}

void ub_survey(struct unbrickd *ub, struct survey *s)
{
	uint32_t i;

	for (i = 0; i < 2; i++)
		read_copy(ub, i * ub->half_bytes, &s->copy[i]);
	judge(s);
}

static int open_document_of(struct unbrickd *ub, const struct survey *s)
{
	uint32_t half_at = s->best == &s->copy[1] ? ub->half_bytes : 0;
	uint32_t length = s->best->numbers[UB_DOCUMENT_BYTES];
	int error;

	ub->holds_record = ub->is_compared = false;
	if (length > ub->document_room)
		return UNBRICKD_E_CAPACITY;
	error = ub_read(ub, UB_RECORD_PART, half_at + HEAD, ub->document, length);
	if (error)
		return error;
	ub->document_bytes = length;
	return ub_open_document(ub);
}

/* A copy is valid only if its document is, too. */
static void survey_and_open(struct unbrickd *ub, struct survey *s)
{
	ub_survey(ub, s);
	while (s->best && open_document_of(ub, s)) {
		s->copy[s->best == &s->copy[1]].valid = false;
		judge(s);
	}
	ub->holds_record = s->best != NULL;
}

void ub_survey_and_load(struct unbrickd *ub, struct survey *s)
{
	struct ub_record *record = &ub->record;

	memset(record, 0, sizeof(*record));
	survey_and_open(ub, s);
	if (!s->best)
		return;
	record->loaded = true;
	record->good = s->best->good;
	record->is_good = s->is_good;
	memcpy(record->numbers, s->best->numbers, sizeof(record->numbers));
	record->failed_boots = s->failed_boots;
	record->number = ub->generation.number;
	ub_sha256(ub, ub->document, ub->document_bytes, record->digest);
}

bool ub_record_load(struct unbrickd *ub)
{
	struct survey s;

	ub_survey_and_load(ub, &s);
	return ub->record.loaded;
}

int ub_record_reopen(struct unbrickd *ub)
{
	uint8_t digest[UB_DIGEST];
	struct survey s;

	if (ub->holds_record)
		return UNBRICKD_OK;
	survey_and_open(ub, &s);
	if (!s.best)
		return UNBRICKD_E_NO_RECORD;
	ub_sha256(ub, ub->document, ub->document_bytes, digest);
	ub->holds_record = !memcmp(digest, ub->record.digest, UB_DIGEST);
	return ub->holds_record ? UNBRICKD_OK : UNBRICKD_E_NO_RECORD;
}
