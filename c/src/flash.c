/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * Erase blocks: where they are, and writing them so that it is believed only when read back. Knows nothing of what is
 * written. spec/flash-format.md §1.
 */
#include "internal.h"

#define PAGE 256	/* program page of serial NOR flash (W25Q128JV datasheet §8.2.13) */
#define MAX_TRIES 2	/* a second try helps against a disturbed erase; what fails twice is worn out */
#define MAX_ERASE_BLOCKS 65536u

uint32_t ub_count_erase_blocks(const struct unbrickd_geometry *g)
{
	uint32_t i, count = 0;
	uint64_t total = 0;

	if (g->run_count < 1 || g->run_count > UNBRICKD_MAX_RUNS)
		return 0;
	for (i = 0; i < g->run_count; i++) {
		const struct unbrickd_run *run = &g->run[i];

		if (run->count < 1 || run->count > MAX_ERASE_BLOCKS || run->size_bytes < 256 ||
		    run->size_bytes > 4u << 20 || run->size_bytes % 16)
			return 0;
		count += run->count;
		total += (uint64_t)run->count * run->size_bytes;
	}
	return count <= MAX_ERASE_BLOCKS && total <= UINT32_MAX ? count : 0;
}

uint32_t ub_largest_erase_block(const struct unbrickd_geometry *g)
{
	uint32_t i, largest = 0;

	for (i = 0; i < g->run_count; i++)
		largest = ub_max(largest, g->run[i].size_bytes);
	return largest;
}

struct ub_erase_block ub_find_erase_block(const struct unbrickd_geometry *g, uint32_t index)
{
	struct ub_erase_block block = { index, 0, 0 };
	uint32_t i;

	for (i = 0; i < g->run_count; i++) {
		uint32_t within = ub_min(index, g->run[i].count);

		block.size = g->run[i].size_bytes;
		block.offset += within * block.size;
		index -= within;
		if (within < g->run[i].count)
			break;
	}
	return block;
}

bool ub_covers(const struct unbrickd_geometry *g, const struct ub_manifest *m)
{
	uint32_t i, left = m->length;

	for (i = 0; left && i < g->run_count; i++) {
		const struct unbrickd_run *run = &g->run[i];
		uint32_t count = ub_min(run->count, ub_pieces(left, run->size_bytes));

		if (i >= m->run_count || ub_u32(m->runs + 8 * i) != count ||
		    ub_u32(m->runs + 8 * i + 4) != run->size_bytes)
			return false;
		left -= ub_min(left, count * run->size_bytes);
	}
	return left == 0 && i == m->run_count;
}

/* After UNBRICKD_E_STOP nothing is called any more, so every loop above comes to its end at once. */
static int result(struct unbrickd *ub, int error)
{
	if (error == UNBRICKD_E_STOP)
		ub->stopped = true;
	return error && error != UNBRICKD_E_STOP ? UNBRICKD_E_FLASH : error;
}

int ub_read(struct unbrickd *ub, uint8_t part, uint32_t offset, uint8_t *to, uint32_t length)
{
	return ub->stopped ? UNBRICKD_E_STOP : result(ub, ub->io->read(ub->config->app, part, offset, to, length));
}

int ub_program(struct unbrickd *ub, uint8_t part, uint32_t offset, const uint8_t *from, uint32_t length)
{
	return ub->stopped ? UNBRICKD_E_STOP : result(ub, ub->io->program(ub->config->app, part, offset, from, length));
}

static int erase(struct unbrickd *ub, uint8_t part, uint32_t offset, uint32_t length)
{
	return ub->stopped ? UNBRICKD_E_STOP : result(ub, ub->io->erase(ub->config->app, part, offset, length));
}

/* What byte `at` of the erase block is to be. */
static uint8_t wanted(const uint8_t *octets, uint32_t length, uint32_t at)
{
	return at < length ? octets[at] : 0xFF;
}

struct state {
	bool right, blank;
};

/* What cannot be read is neither: erasing may mend it. */
static struct state look(struct unbrickd *ub, uint8_t part, struct ub_erase_block block, const uint8_t *octets,
			 uint32_t length)
{
	struct state is = { true, true };
	uint8_t page[PAGE];
	uint32_t at, i;

	for (at = 0; at < block.size && (is.right || is.blank); at += PAGE) {
		uint32_t size = ub_min(PAGE, block.size - at);

		if (ub_read(ub, part, block.offset + at, page, size))
			is.right = is.blank = false;
		for (i = 0; i < size && (is.right || is.blank); i++) {
			is.right = is.right && page[i] == wanted(octets, length, at + i);
			is.blank = is.blank && page[i] == 0xFF;
		}
	}
	return is;
}

/* From the last page to the first, so that what begins with a magic is not there before all of it is. */
static int program_pages(struct unbrickd *ub, uint8_t part, struct ub_erase_block block, const uint8_t *octets,
			 uint32_t length)
{
	uint32_t page = ub_pieces(length, PAGE);

	while (page--) {
		uint32_t at = page * PAGE, i, size = ub_min(PAGE, block.size - at);
		uint8_t padded[PAGE];
		bool blank = true;
		int error;

		for (i = 0; i < size; i++) {
			padded[i] = wanted(octets, length, at + i);
			blank = blank && padded[i] == 0xFF;
		}
		if (blank)
			continue;
		error = ub_program(ub, part, block.offset + at, padded, size);
		if (error)
			return error;
	}
	return UNBRICKD_OK;
}

int ub_write_erase_block(struct unbrickd *ub, uint8_t part, struct ub_erase_block block, const uint8_t *octets,
			 uint32_t length)
{
	struct state is = look(ub, part, block, octets, length);
	uint32_t tries;

	for (tries = 0; tries < MAX_TRIES && !is.right; tries++) {
		int error = UNBRICKD_OK;

		if (!is.blank) {
			error = erase(ub, part, block.offset, block.size);
			is = look(ub, part, block, octets, length);
		}
		if (!error && is.blank) {
			error = program_pages(ub, part, block, octets, length);
			is = look(ub, part, block, octets, length);
		}
		if (error)
			return error;
	}
	return is.right ? UNBRICKD_OK : UNBRICKD_E_VERIFY;
}
