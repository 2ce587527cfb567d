/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * Writing the boot record: the order of writes that makes every change whole or not there. spec/flash-format.md §7.2.
 * One writer at a time.
 */
#include "record.h"

/* A copy to be written, and the entries its journal begins with. */
struct image {
	uint8_t head[HEAD], mac[MAC];
	uint32_t sequence, journal_at, attempts;
	bool entry_good;
};

static void make_image(struct unbrickd *ub, uint32_t sequence, struct image *image)
{
	struct ub_hash hash;
	uint32_t i;

	memset(image->head, 0, HEAD);
	memcpy(image->head, "UBBR", 4);
	image->head[4] = 1;
	image->head[5] = ub->record.good ? FLAG_GOOD : 0;
	ub->record.numbers[UB_SEQUENCE] = sequence;
	ub->record.numbers[UB_DOCUMENT_BYTES] = ub->document_bytes;
	for (i = 0; i < UB_NUMBERS; i++)
		ub_put_u32(image->head + NUMBERS_AT + 4 * i, ub->record.numbers[i]);
	image->sequence = sequence;
	image->journal_at = ub_journal_start(ub->document_bytes);
	ub_hash_begin(ub, &hash, ub->keys[UB_KEY_RECORD], UB_DIGEST);
	ub_hash_add(&hash, image->head, HEAD);
	ub_hash_add(&hash, ub->document, ub->document_bytes);
	ub_hash_end(&hash, image->mac);
}

/* What of a piece that lies at `at` falls into the erase block's buffer, which begins at `begin`. */
static void put(struct unbrickd *ub, uint32_t begin, uint32_t size, uint32_t at, const uint8_t *piece, uint32_t length)
{
	uint32_t from = ub_max(begin, at), to = ub_min(begin + size, at + length);

	if (from < to)
		memcpy(ub->buffer + (from - begin), piece + (from - at), to - from);
}

static void fill_erase_block(struct unbrickd *ub, const struct image *image, uint32_t begin, uint32_t size)
{
	uint32_t i, entries = image->attempts + image->entry_good;

	memset(ub->buffer, 0xFF, size);
	put(ub, begin, size, 0, image->head, HEAD);
	put(ub, begin, size, HEAD, ub->document, ub->document_bytes);
	put(ub, begin, size, HEAD + ub->document_bytes, image->mac, MAC);
	for (i = 0; i < entries; i++) {
		enum ub_entry entry = i == 0 && image->entry_good ? UB_GOOD : UB_ATTEMPT;
		uint8_t slot[UB_SLOT];

		ub_encode_slot(ub, entry, image->sequence, i, slot);
		put(ub, begin, size, image->journal_at + i * UB_SLOT, slot, UB_SLOT);
	}
}

/*
 * From the first erasure until the magic, which is programmed last, the copy is not valid. Erasing the head first keeps
 * an old record from outliving parts of its journal; programming it last keeps the new one from counting before its
 * journal is there.
 */
static int write_copy(struct unbrickd *ub, uint32_t which, const struct image *image)
{
	const struct unbrickd_geometry *g = &ub->config->record;
	uint32_t i = ub_count_erase_blocks(g) / 2, first = which * i;
	struct ub_erase_block block;
	int error;

	ub_find_erase_block(g, first, &block);
	error = ub_write_erase_block(ub, UB_RECORD_PART, &block, NULL);
	while (!error && i--) {
		ub_find_erase_block(g, first + i, &block);
		fill_erase_block(ub, image, block.offset - which * ub->half_bytes, block.size);
		error = ub_write_erase_block(ub, UB_RECORD_PART, &block, ub->buffer);
	}
	return error;
}

/* The document in ub->document with the numbers in ub->record and the next sequence. */
static int write_both(struct unbrickd *ub, const struct survey *s, uint32_t attempts)
{
	uint32_t first = s->copy[0].counts && !s->copy[1].counts;
	struct image image;
	int error;

	if (ub->document_bytes > ub_record_capacity(ub->half_bytes))
		return UNBRICKD_E_CAPACITY;
	make_image(ub, s->best ? s->best->numbers[UB_SEQUENCE] + 1 : 1, &image);
	image.attempts = attempts;
	image.entry_good = false;
	/* The copy that does not count goes first: until it is whole, the other one is all there is (§7.2). */
	error = write_copy(ub, first, &image);
	return error ? error : write_copy(ub, !first, &image);
}

/* The same record with an emptier journal; carries over at most half a journal of failed boots (§7.1). */
static int renew(struct unbrickd *ub, const struct survey *s, bool is_good, uint32_t failed)
{
	ub->record.good = is_good;
	return write_both(ub, s, ub_min(failed, ub_journal_slots(ub, ub->document_bytes) / 2));
}

int ub_record_commit(struct unbrickd *ub)
{
	struct survey s;

	ub_survey(ub, &s);
	return write_both(ub, &s, 0);
}

int ub_record_repair(struct unbrickd *ub)
{
	bool behind[2];
	struct image image;
	struct survey s;
	int error = UNBRICKD_OK;
	uint32_t i;

	ub_survey_and_load(ub, &s);
	if (!s.best)
		return 0;
	for (i = 0; i < 2; i++) {
		const struct copy *copy = &s.copy[i];

		behind[i] = !copy->counts || ub_copy_is_good(copy) != s.is_good ||
			    ub_failed_boots(copy, ub_copy_is_good(copy)) != s.failed_boots;
	}
	if (!behind[0] && !behind[1])
		return 0;
	make_image(ub, s.best->numbers[UB_SEQUENCE], &image);
	image.attempts = s.failed_boots;
	image.entry_good = s.is_good && !ub->record.good;
	if (image.attempts + image.entry_good > ub_journal_slots(ub, ub->document_bytes)) {
		error = renew(ub, &s, s.is_good, s.failed_boots);
	} else {
		for (i = 0; i < 2 && !error; i++) {
			if (behind[i])
				error = write_copy(ub, i, &image);
		}
	}
	return error ? error : 1;
}

/* Program the next free slot of a copy; whether it reads back. */
static int append(struct unbrickd *ub, const struct copy *copy, uint32_t which, enum ub_entry entry, bool *taken)
{
	uint32_t at = which * ub->half_bytes + copy->journal_at + copy->journal.next * UB_SLOT;
	uint8_t slot[UB_SLOT], back[UB_SLOT];
	int error;

	ub_encode_slot(ub, entry, copy->numbers[UB_SEQUENCE], copy->journal.next, slot);
	error = ub_program_pages(ub, UB_RECORD_PART, at, slot, UB_SLOT);
	if (!error)
		error = ub_read(ub, UB_RECORD_PART, at, back, UB_SLOT);
	*taken = *taken && !error && !memcmp(slot, back, UB_SLOT);
	return error;
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
		if (s.copy[i].counts) {
			int error = append(ub, &s.copy[i], i, entry, &taken);

			if (error)
				return error;
		}
	}
	if (!full && taken)
		return UNBRICKD_OK;
	is_good = s.is_good || entry == UB_GOOD;
	failed = entry == UB_ATTEMPT ? s.failed_boots + 1 : is_good ? 0 : s.failed_boots;
	return renew(ub, &s, is_good, failed);
}
