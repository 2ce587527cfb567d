/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * The boot record: two copies with a journal each, and the order of writes that makes every change whole or not there.
 * spec/flash-format.md §7. Knows nothing of images, nor of what a failed boot leads to.
 */
#include "internal.h"

#define HEAD 32
#define MAC UB_DIGEST
#define FLAG_GOOD 0x01

/* Copy A or B: half of the record partition, in whole erase blocks. */
struct half {
	uint32_t first_block, blocks;
	uint32_t offset, size;
};

/* One copy as it was read; its MAC holds if it is valid. */
struct copy {
	bool valid, counts, good;
	uint32_t sequence, counter, rollback_floor, rejected_from, rejected_to;
	uint32_t document_bytes, journal_at;	/* journal_at: from the start of the half */
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

static struct half half_of(const struct unbrickd_config *config, uint32_t which)
{
	uint32_t blocks = ub_count_erase_blocks(&config->record) / 2;
	uint32_t size = ub_find_erase_block(&config->record, blocks).offset;
	struct half half = { which * blocks, blocks, which * size, size };

	return half;
}

static uint32_t journal_start(uint32_t document_bytes)
{
	return ub_pieces(HEAD + document_bytes + MAC, UB_SLOT) * UB_SLOT;
}

static uint32_t slots_of(const struct unbrickd_config *config, uint32_t document_bytes)
{
	uint32_t size = half_of(config, 0).size, start = journal_start(document_bytes);

	return start < size ? (size - start) / UB_SLOT : 0;
}

/* The longest document that the record takes; 0 if it is not two equal halves. */
uint32_t ub_record_capacity(const struct unbrickd_config *config)
{
	uint32_t around = HEAD + MAC + UB_MIN_SLOTS * UB_SLOT;
	struct half half = half_of(config, 0);

	if (!half.blocks || ub_find_erase_block(&config->record, 2 * half.blocks).offset != 2 * half.size ||
	    half.size < around + UB_SLOT)
		return 0;
	return half.size / UB_SLOT * UB_SLOT - around;
}

/* Reading. */

/* All of `length` bytes through the hash, by way of the erase block's buffer. */
static int hash_flash(struct unbrickd *ub, struct unbrickd_sha256 *hash, uint32_t offset, uint32_t length)
{
	while (length) {
		uint32_t size = ub_min(length, ub->erase_block_bytes);
		int error = ub_read(ub, UB_RECORD_PART, offset, ub->erase_block, size);

		if (error)
			return error;
		ub->io->sha256_add(hash, ub->erase_block, size);
		offset += size;
		length -= size;
	}
	return UNBRICKD_OK;
}

static int read_journal(struct unbrickd *ub, struct copy *copy, const struct half *half)
{
	uint32_t at = copy->journal_at, chunk = ub->erase_block_bytes / UB_SLOT * UB_SLOT;

	memset(&copy->journal, 0, sizeof(copy->journal));
	while (half->size >= UB_SLOT && at <= half->size - UB_SLOT) {
		uint32_t i, size = ub_min((half->size - at) / UB_SLOT * UB_SLOT, chunk);
		int error = ub_read(ub, UB_RECORD_PART, half->offset + at, ub->erase_block, size);

		if (error)
			return error;
		for (i = 0; i < size; i += UB_SLOT)
			ub_count_slot(ub->io, &copy->journal, ub->erase_block + i, copy->sequence);
		at += size;
	}
	return UNBRICKD_OK;
}

static void read_copy(struct unbrickd *ub, const struct half *half, struct copy *copy)
{
	uint8_t head[HEAD], mac[MAC];
	struct ub_hmac hmac;

	memset(copy, 0, sizeof(*copy));
	if (ub_read(ub, UB_RECORD_PART, half->offset, head, HEAD) || memcmp(head, "UBBR", 4) || head[4] != 1)
		return;
	copy->good = head[5] & FLAG_GOOD;
	copy->sequence = ub_u32(head + 8);
	copy->counter = ub_u32(head + 12);
	copy->rollback_floor = ub_u32(head + 16);
	copy->rejected_from = ub_u32(head + 20);
	copy->rejected_to = ub_u32(head + 24);
	copy->document_bytes = ub_u32(head + 28);
	if (half->size < HEAD + MAC || copy->document_bytes > half->size - HEAD - MAC ||
	    copy->rejected_from > copy->rejected_to)
		return;
	copy->journal_at = journal_start(copy->document_bytes);
	ub_hmac_begin(ub->io, &hmac, ub->keys.record, UB_DIGEST);
	ub->io->sha256_add(&hmac.hash, head, HEAD);
	if (hash_flash(ub, &hmac.hash, half->offset + HEAD, copy->document_bytes))
		return;
	ub_hmac_end(ub->io, &hmac, mac);
	/* A copy that cannot be read is a torn copy: the other one is there for this. */
	if (ub_read(ub, UB_RECORD_PART, half->offset + HEAD + copy->document_bytes, copy->mac, MAC) ||
	    !ub_same(mac, copy->mac, MAC) || read_journal(ub, copy, half))
		return;
	copy->valid = true;
}

static uint32_t failed_boots(const struct copy *copy, bool is_good)
{
	return is_good ? copy->journal.failed_if_good : copy->journal.failed_if_not;
}

static bool copy_is_good(const struct copy *copy)
{
	return copy->good || copy->journal.says_good;
}

static void judge(struct survey *s)
{
	struct copy *copy;

	s->best = NULL;
	s->is_good = false;
	s->failed_boots = 0;
	for (copy = s->copy; copy < s->copy + 2; copy++) {
		if (copy->valid && (!s->best || copy->sequence > s->best->sequence))
			s->best = copy;
	}
	for (copy = s->copy; copy < s->copy + 2; copy++) {
		/* One key, so equal MACs are equal records. */
		copy->counts = copy->valid && !memcmp(copy->mac, s->best->mac, MAC);
		s->is_good = s->is_good || (copy->counts && copy_is_good(copy));
	}
	for (copy = s->copy; copy < s->copy + 2; copy++) {
		if (copy->counts)
			s->failed_boots = ub_max(s->failed_boots, failed_boots(copy, s->is_good));
	}
}

static void survey(struct unbrickd *ub, struct survey *s)
{
	uint32_t i;

	for (i = 0; i < 2; i++) {
		struct half half = half_of(ub->config, i);

		read_copy(ub, &half, &s->copy[i]);
	}
	judge(s);
}

static int open_document_of(struct unbrickd *ub, const struct survey *s)
{
	struct half half = half_of(ub->config, s->best == &s->copy[1]);
	uint32_t length = s->best->document_bytes;
	int error;

	ub->holds_record = false;
	if (length > ub->document_room)
		return UNBRICKD_E_CAPACITY;
	error = ub_read(ub, UB_RECORD_PART, half.offset + HEAD, ub->document, length);
	if (error)
		return error;
	ub->document_bytes = length;
	return ub_open_document(ub->io, &ub->keys, &ub->identity, ub->document, length, &ub->generation);
}

/* A copy is valid only if its document is, too. */
static void survey_and_open(struct unbrickd *ub, struct survey *s)
{
	survey(ub, s);
	while (s->best && open_document_of(ub, s)) {
		s->copy[s->best == &s->copy[1]].valid = false;
		judge(s);
	}
	ub->holds_record = s->best != NULL;
}

static void load(struct unbrickd *ub, struct survey *s)
{
	struct ub_record *record = &ub->record;

	memset(record, 0, sizeof(*record));
	survey_and_open(ub, s);
	if (!s->best)
		return;
	record->loaded = true;
	record->good = s->best->good;
	record->is_good = s->is_good;
	record->sequence = s->best->sequence;
	record->counter = s->best->counter;
	record->rollback_floor = s->best->rollback_floor;
	record->rejected_from = s->best->rejected_from;
	record->rejected_to = s->best->rejected_to;
	record->document_bytes = s->best->document_bytes;
	record->failed_boots = s->failed_boots;
	record->number = ub->generation.number;
	ub_sha256(ub->io, ub->document, ub->document_bytes, record->digest);
}

bool ub_record_load(struct unbrickd *ub)
{
	struct survey s;

	load(ub, &s);
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
	ub_sha256(ub->io, ub->document, ub->document_bytes, digest);
	ub->holds_record = !memcmp(digest, ub->record.digest, UB_DIGEST);
	return ub->holds_record ? UNBRICKD_OK : UNBRICKD_E_NO_RECORD;
}

/* Writing. */

/* A copy to be written, and the entries its journal begins with. */
struct image {
	uint8_t head[HEAD], mac[MAC];
	uint32_t sequence, journal_at, attempts;
	bool entry_good;
};

static void make_image(struct unbrickd *ub, const struct ub_record *record, struct image *image)
{
	struct ub_hmac hmac;

	memset(image->head, 0, HEAD);
	memcpy(image->head, "UBBR", 4);
	image->head[4] = 1;
	image->head[5] = record->good ? FLAG_GOOD : 0;
	ub_put_u32(image->head + 8, record->sequence);
	ub_put_u32(image->head + 12, record->counter);
	ub_put_u32(image->head + 16, record->rollback_floor);
	ub_put_u32(image->head + 20, record->rejected_from);
	ub_put_u32(image->head + 24, record->rejected_to);
	ub_put_u32(image->head + 28, ub->document_bytes);
	image->sequence = record->sequence;
	image->journal_at = journal_start(ub->document_bytes);
	ub_hmac_begin(ub->io, &hmac, ub->keys.record, UB_DIGEST);
	ub->io->sha256_add(&hmac.hash, image->head, HEAD);
	ub->io->sha256_add(&hmac.hash, ub->document, ub->document_bytes);
	ub_hmac_end(ub->io, &hmac, image->mac);
}

/* What of a piece that lies at `at` falls into the erase block's buffer, which begins at `begin`. */
static void put(struct unbrickd *ub, uint32_t begin, uint32_t size, uint32_t at, const uint8_t *piece, uint32_t length)
{
	uint32_t from = ub_max(begin, at), to = ub_min(begin + size, at + length);

	if (from < to)
		memcpy(ub->erase_block + (from - begin), piece + (from - at), to - from);
}

static void fill_erase_block(struct unbrickd *ub, const struct image *image, uint32_t begin, uint32_t size)
{
	uint32_t i, entries = image->attempts + image->entry_good;

	memset(ub->erase_block, 0xFF, size);
	put(ub, begin, size, 0, image->head, HEAD);
	put(ub, begin, size, HEAD, ub->document, ub->document_bytes);
	put(ub, begin, size, HEAD + ub->document_bytes, image->mac, MAC);
	for (i = 0; i < entries; i++) {
		enum ub_entry entry = i == 0 && image->entry_good ? UB_GOOD : UB_ATTEMPT;
		uint8_t slot[UB_SLOT];

		ub_encode_slot(ub->io, entry, image->sequence, i, slot);
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
	struct half half = half_of(ub->config, which);
	uint32_t i = half.blocks;
	int error = ub_write_erase_block(ub, UB_RECORD_PART, ub_find_erase_block(g, half.first_block), NULL, 0);

	while (!error && i--) {
		struct ub_erase_block block = ub_find_erase_block(g, half.first_block + i);

		fill_erase_block(ub, image, block.offset - half.offset, block.size);
		error = ub_write_erase_block(ub, UB_RECORD_PART, block, ub->erase_block, block.size);
	}
	return error;
}

/* The document in ub->document with these numbers and the next sequence. */
static int write_both(struct unbrickd *ub, const struct survey *s, const struct ub_record *numbers, uint32_t attempts)
{
	struct ub_record record = *numbers;
	struct image image;
	uint32_t i;

	if (ub->document_bytes > ub_record_capacity(ub->config))
		return UNBRICKD_E_CAPACITY;
	record.sequence = s->best ? s->best->sequence + 1 : 1;
	make_image(ub, &record, &image);
	image.attempts = attempts;
	image.entry_good = false;
	/* The copy that does not count goes first: until it is whole, the other one is all there is (§7.2). */
	for (i = 0; i < 2; i++) {
		uint32_t first = s->copy[0].counts && !s->copy[1].counts;
		int error = write_copy(ub, first ^ i, &image);

		if (error)
			return error;
	}
	return UNBRICKD_OK;
}

/* The same record with an emptier journal; carries over at most half a journal of failed boots (§7.1). */
static int renew(struct unbrickd *ub, const struct survey *s, bool is_good, uint32_t failed)
{
	struct ub_record record = ub->record;

	record.good = is_good;
	return write_both(ub, s, &record, ub_min(failed, slots_of(ub->config, ub->document_bytes) / 2));
}

int ub_record_commit(struct unbrickd *ub, const struct ub_record *numbers)
{
	struct survey s;

	survey(ub, &s);
	return write_both(ub, &s, numbers, 0);
}

int ub_record_repair(struct unbrickd *ub)
{
	bool behind[2];
	struct image image;
	struct survey s;
	int error = UNBRICKD_OK;
	uint32_t i;

	load(ub, &s);
	if (!s.best)
		return 0;
	for (i = 0; i < 2; i++) {
		const struct copy *copy = &s.copy[i];

		behind[i] = !copy->counts || copy_is_good(copy) != s.is_good ||
			    failed_boots(copy, copy_is_good(copy)) != s.failed_boots;
	}
	if (!behind[0] && !behind[1])
		return 0;
	make_image(ub, &ub->record, &image);
	image.attempts = s.failed_boots;
	image.entry_good = s.is_good && !ub->record.good;
	if (image.attempts + image.entry_good > slots_of(ub->config, ub->document_bytes)) {
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
	uint32_t at = half_of(ub->config, which).offset + copy->journal_at + copy->journal.next * UB_SLOT;
	uint8_t slot[UB_SLOT], back[UB_SLOT];
	int error;

	ub_encode_slot(ub->io, entry, copy->sequence, copy->journal.next, slot);
	error = ub_program(ub, UB_RECORD_PART, at, slot, UB_SLOT);
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

	load(ub, &s);
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
