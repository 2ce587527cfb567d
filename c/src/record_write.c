/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * Writing the boot record: the order of writes that makes every change whole or not there. spec/flash-format.md §7.2.
 * One writer at a time.
 */
#include "record.h"

/* What is to be written: which copies, and the entries their journals begin with. */
struct image {
	bool wanted[2], entry_good;
	uint32_t sequence, attempts;
	uint8_t head[HEAD], mac[MAC];
	uint32_t at, begin, size;	/* of the next piece; of the erase block in the buffer */
};

/* The document in ub->document with the numbers in ub->record. */
static void make_image(struct unbrickd *ub, struct image *image)
{
	struct ub_hash hash;
	uint32_t i;

	memset(image->head, 0, HEAD);
	memcpy(image->head, "UBBR", 4);
	image->head[4] = 1;
	image->head[5] = ub->record.good ? FLAG_GOOD : 0;
	ub->record.numbers[UB_SEQUENCE] = image->sequence;
	ub->record.numbers[UB_DOCUMENT_BYTES] = ub->document_bytes;
	for (i = 0; i < UB_NUMBERS; i++)
		ub_put_u32(image->head + NUMBERS_AT + 4 * i, ub->record.numbers[i]);
	ub_hash_begin(ub, &hash, ub->keys[UB_KEY_RECORD], UB_DIGEST);
	ub_hash_add(&hash, image->head, HEAD);
	ub_hash_add(&hash, ub->document, ub->document_bytes);
	ub_hash_end(&hash, image->mac);
}

/* The next piece of the copy: what of it falls into the erase block in the buffer. */
static void put(struct unbrickd *ub, struct image *image, const uint8_t *piece, uint32_t length)
{
	uint32_t from = ub_max(image->begin, image->at), to = ub_min(image->begin + image->size, image->at + length);

	if (from < to)
		memcpy(ub->buffer + (from - image->begin), piece + (from - image->at), to - from);
	image->at += length;
}

static void fill_erase_block(struct unbrickd *ub, struct image *image)
{
	uint32_t i, entries = image->attempts + image->entry_good;

	memset(ub->buffer, 0xFF, image->size);
	image->at = 0;
	put(ub, image, image->head, HEAD);
	put(ub, image, ub->document, ub->document_bytes);
	put(ub, image, image->mac, MAC);
	image->at = ub_journal_start(ub->document_bytes);
	for (i = 0; i < entries; i++) {
		uint8_t slot[UB_SLOT];

		ub_encode_slot(ub, i == 0 && image->entry_good ? UB_GOOD : UB_ATTEMPT, image->sequence, i, slot);
		put(ub, image, slot, UB_SLOT);
	}
}

/*
 * From the first erasure until the magic, which is programmed last, the copy is not valid. Erasing the head first keeps
 * an old record from outliving parts of its journal; programming it last keeps the new one from counting before its
 * journal is there.
 */
static int write_copy(struct unbrickd *ub, uint32_t which, struct image *image)
{
	const struct unbrickd_geometry *g = &ub->config->record;
	uint32_t i = ub_count_erase_blocks(g) / 2, first = which * i;
	struct ub_erase_block block;
	int error;

	ub_find_erase_block(g, first, &block);
	error = ub_write_erase_block(ub, UB_RECORD_PART, &block, NULL);
	while (!error && i--) {
		ub_find_erase_block(g, first + i, &block);
		image->begin = block.offset - which * ub->half_bytes;
		image->size = block.size;
		fill_erase_block(ub, image);
		error = ub_write_erase_block(ub, UB_RECORD_PART, &block, ub->buffer);
	}
	return error;
}

static int write(struct unbrickd *ub, const struct survey *s, struct image *image)
{
	/* The copy that does not count goes first: until it is whole, the other one is all there is (§7.2). */
	uint32_t i, which = s->copy[0].counts && !s->copy[1].counts;
	int error = UNBRICKD_OK;

	make_image(ub, image);
	for (i = 0; i < 2 && !error; i++, which = !which) {
		if (image->wanted[which])
			error = write_copy(ub, which, image);
	}
	return error;
}

/* A record with the next sequence, to both copies. */
static int write_next(struct unbrickd *ub, const struct survey *s, uint32_t attempts)
{
	struct image image;

	image.wanted[0] = image.wanted[1] = true;
	image.entry_good = false;
	image.sequence = s->best ? s->best->numbers[UB_SEQUENCE] + 1 : 1;
	image.attempts = attempts;
	return ub->document_bytes > ub_record_capacity(ub->half_bytes) ? UNBRICKD_E_CAPACITY : write(ub, s, &image);
}

/* The same record with an emptier journal; carries over at most half a journal of failed boots (§7.1). */
static int renew(struct unbrickd *ub, const struct survey *s, bool is_good, uint32_t failed)
{
	ub->record.good = is_good;
	return write_next(ub, s, ub_min(failed, ub_journal_slots(ub, ub->document_bytes) / 2));
}

int ub_record_commit(struct unbrickd *ub)
{
	struct survey s;

	ub_survey(ub, &s);
	return write_next(ub, &s, 0);
}

bool ub_record_repair(struct unbrickd *ub)
{
	struct image image;
	struct survey s;
	uint32_t i;

	ub_survey_and_load(ub, &s);
	if (!s.best)
		return false;
	for (i = 0; i < 2; i++) {
		const struct copy *copy = &s.copy[i];

		image.wanted[i] = !copy->counts || copy->is_good != s.is_good ||
				  copy->journal.failed[copy->is_good] != s.failed_boots;
	}
	if (!image.wanted[0] && !image.wanted[1])
		return false;
	image.sequence = s.best->numbers[UB_SEQUENCE];
	image.attempts = s.failed_boots;
	image.entry_good = s.is_good && !ub->record.good;
	if (image.attempts + image.entry_good > ub_journal_slots(ub, ub->document_bytes))
		return !renew(ub, &s, s.is_good, s.failed_boots);
	return !write(ub, &s, &image);
}

/* Program the next free slot of a copy. UNBRICKD_E_VERIFY: it does not read back. */
static int append(struct unbrickd *ub, const struct copy *copy, uint32_t which, enum ub_entry entry)
{
	uint32_t at = which * ub->half_bytes + copy->journal_at + copy->journal.next * UB_SLOT;
	uint8_t slot[UB_SLOT];
	int error;

	ub_encode_slot(ub, entry, copy->numbers[UB_SEQUENCE], copy->journal.next, slot);
	error = ub_program_pages(ub, UB_RECORD_PART, at, slot, UB_SLOT);
	return error ? error : ub_read_back(ub, UB_RECORD_PART, at, slot, UB_SLOT);
}

int ub_record_mark(struct unbrickd *ub, enum ub_entry entry)
{
	bool full = false, taken = true, is_good;
	uint32_t i, failed;
	struct survey s;

	ub_survey_and_load(ub, &s);
	if (!s.best)
		return UNBRICKD_E_NO_RECORD;
	for (i = 0; i < 2; i++)
		full = full || (s.copy[i].counts && s.copy[i].journal.next >= s.copy[i].journal.slots);
	for (i = 0; i < 2 && !full; i++) {
		int error = s.copy[i].counts ? append(ub, &s.copy[i], i, entry) : UNBRICKD_OK;

		if (error && error != UNBRICKD_E_VERIFY)
			return error;
		taken = taken && !error;
	}
	if (!full && taken)
		return UNBRICKD_OK;
	is_good = s.is_good || entry == UB_GOOD;
	failed = entry == UB_ATTEMPT ? s.failed_boots + 1 : is_good ? 0 : s.failed_boots;
	return renew(ub, &s, is_good, failed);
}
