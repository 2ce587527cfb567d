/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * Erase blocks: where they are, and writing them so that it is believed only when read back. Knows nothing of what is
 * written. spec/flash-format.md §1.
 */
#include "internal.h"

#define PAGE UB_PAGE	/* program page of serial NOR flash (W25Q128JV datasheet §8.2.13) */
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

void ub_find_erase_block(const struct unbrickd_geometry *g, uint32_t index, struct ub_erase_block *block)
{
	uint32_t i;

	block->index = index;
	block->offset = block->size = 0;
	for (i = 0; i < g->run_count; i++) {
		uint32_t within = ub_min(index, g->run[i].count);

		block->size = g->run[i].size_bytes;
		block->offset += within * block->size;
		index -= within;
		if (within < g->run[i].count)
			break;
	}
}

bool ub_covers(const struct unbrickd_geometry *flash, const struct unbrickd_geometry *image)
{
	uint32_t i, last = image->run_count - 1u;

	for (i = 0; i <= last; i++) {
		const struct unbrickd_run *there = &flash->run[i], *wanted = &image->run[i];

		if (i >= flash->run_count || there->size_bytes != wanted->size_bytes || there->count < wanted->count ||
		    (there->count > wanted->count && i < last))
			return false;
	}
	return true;
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

static int erase(struct unbrickd *ub, uint8_t part, uint32_t offset, uint32_t length)
{
	return ub->stopped ? UNBRICKD_E_STOP : result(ub, ub->io->erase(ub->config->app, part, offset, length));
}

static bool is_blank(const uint8_t *octets, uint32_t length)
{
	while (length && *octets == 0xFF) {
		octets++;
		length--;
	}
	return !length;
}

int ub_program_pages(struct unbrickd *ub, uint8_t part, uint32_t offset, const uint8_t *from, uint32_t length)
{
	uint32_t most = ub->config->program_bytes ? ub->config->program_bytes : PAGE;
	int error = UNBRICKD_OK;

	while (length && !error) {
		uint32_t size = ub_min(length, most - offset % most);

		if (!is_blank(from, size))
			error = ub->stopped ? UNBRICKD_E_STOP :
					      result(ub, ub->io->program(ub->config->app, part, offset, from, size));
		offset += size;
		from += size;
		length -= size;
	}
	return error;
}

int ub_read_back(struct unbrickd *ub, uint8_t part, uint32_t offset, const uint8_t *octets, uint32_t length)
{
	uint32_t page[PAGE / 4], wanted[PAGE / 4], differs = 0;
	int error = UNBRICKD_OK;

	/* Compared by words, as a bootloader's memcmp goes by bytes. What a shorter last page lacks is that before, equal. */
	memset(page, 0xFF, sizeof(page));
	memset(wanted, 0xFF, sizeof(wanted));
	while (length && !error) {
		uint32_t size = ub_min(length, PAGE), i;

		error = ub_read(ub, part, offset, (uint8_t *)page, size);
		if (octets) {
			memcpy(wanted, octets, size);
			octets += size;
		}
		for (i = 0; i < PAGE / 4; i++) /* no branch, so that a compiler may take several at once */
			differs |= page[i] ^ wanted[i];
		if (differs && !error)
			error = UNBRICKD_E_VERIFY;
		offset += size;
		length -= size;
	}
	return error;
}

enum state { NEITHER, BLANK, RIGHT };

/* How the erase block compares with what it is to hold. What cannot be read is neither: erasing may mend it. */
static enum state look(struct unbrickd *ub, uint8_t part, const struct ub_erase_block *block, const uint8_t *octets)
{
	if (!ub_read_back(ub, part, block->offset, octets, block->size))
		return RIGHT;
	return octets && !ub_read_back(ub, part, block->offset, NULL, block->size) ? BLANK : NEITHER;
}

/* From the last page to the first, so that what begins with a magic is not there before all of it is. */
static int program_descending(struct unbrickd *ub, uint8_t part, const struct ub_erase_block *block,
			      const uint8_t *octets)
{
	uint32_t page = ub_pieces(block->size, PAGE);
	int error = UNBRICKD_OK;

	while (page-- && !error) {
		uint32_t at = page * PAGE;

		error = ub_program_pages(ub, part, block->offset + at, octets + at, ub_min(PAGE, block->size - at));
	}
	return error;
}

int ub_write_erase_block(struct unbrickd *ub, uint8_t part, const struct ub_erase_block *block, const uint8_t *octets)
{
	enum state is = look(ub, part, block, octets);
	int error = UNBRICKD_OK;
	uint32_t tries;

	for (tries = 0; tries < MAX_TRIES && is != RIGHT && !error; tries++) {
		if (is == NEITHER) {
			error = erase(ub, part, block->offset, block->size);
			is = look(ub, part, block, octets);
		}
		if (is == BLANK && !error) {
			error = program_descending(ub, part, block, octets);
			is = look(ub, part, block, octets);
		}
	}
	return error ? error : is == RIGHT ? UNBRICKD_OK : UNBRICKD_E_VERIFY;
}
