/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* Files and Linux MTD character devices (NOR) as flash. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <mtd/mtd-user.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "linux.h"

/* "0x20000", "128K", "8M"; *end is what follows. */
static uint32_t number(const char *text, char **end)
{
	unsigned long value = strtoul(text, end, 0);

	if (**end == 'K' || **end == 'M') {
		value <<= **end == 'K' ? 10 : 20;
		(*end)++;
	}
	return (uint32_t)value;
}

static bool ask_mtd(struct place *place, const char *path)
{
	struct mtd_info_user info;
	struct region_info_user region;
	int count = 0, i;

	if (ioctl(place->fd, MEMGETINFO, &info) || info.type != MTD_NORFLASH || !info.erasesize) {
		fprintf(stderr, "error: %s is no NOR flash\n", path);
		return false;
	}
	if (ioctl(place->fd, MEMGETREGIONCOUNT, &count) || count > UNBRICKD_MAX_RUNS)
		count = 0;
	place->geometry.run_count = (uint8_t)(count ? count : 1);
	place->geometry.run[0].count = info.size / info.erasesize;
	place->geometry.run[0].size_bytes = info.erasesize;
	for (i = 0; i < count; i++) {
		region.regionindex = (uint32_t)i;
		if (ioctl(place->fd, MEMGETREGIONINFO, &region))
			return false;
		place->geometry.run[i].count = region.numblocks;
		place->geometry.run[i].size_bytes = region.erasesize;
	}
	return true;
}

bool open_place(struct place *place, const char *text, bool writable)
{
	uint32_t size = 0, erase_block = 0;
	char path[256], *at;
	struct stat status;

	memset(place, 0, sizeof(*place));
	snprintf(path, sizeof(path), "%s", text);
	at = strrchr(path, '@');
	if (at) {
		char *end;

		*at = '\0';
		place->offset = number(at + 1, &end);
		if (*end == '+')
			size = number(end + 1, &end);
		if (*end == '/')
			erase_block = number(end + 1, &end);
		if (*end || !size || !erase_block || size % erase_block) {
			fprintf(stderr, "error: %s: it must be FILE@OFFSET+SIZE/ERASEBLOCK or an MTD device\n", text);
			return false;
		}
	}
	place->fd = open(path, writable ? O_RDWR : O_RDONLY);
	if (place->fd < 0 || fstat(place->fd, &status)) {
		fprintf(stderr, "error: %s: %s\n", path, strerror(errno));
		return false;
	}
	place->is_mtd = S_ISCHR(status.st_mode);
	if (place->is_mtd)
		return ask_mtd(place, path);
	if (!size) {
		fprintf(stderr, "error: %s: a file needs @OFFSET+SIZE/ERASEBLOCK\n", path);
		return false;
	}
	place->geometry.run_count = 1;
	place->geometry.run[0].count = size / erase_block;
	place->geometry.run[0].size_bytes = erase_block;
	return true;
}

uint32_t size_of_place(const struct place *place)
{
	uint32_t i, size = 0;

	for (i = 0; i < place->geometry.run_count; i++)
		size += place->geometry.run[i].count * place->geometry.run[i].size_bytes;
	return size;
}

static bool is_within(const struct place *place, uint32_t offset, uint32_t length)
{
	uint32_t size = size_of_place(place);

	return offset <= size && length <= size - offset;
}

int read_place(const struct place *place, uint32_t offset, uint8_t *to, uint32_t length)
{
	if (!is_within(place, offset, length))
		return UNBRICKD_E_FLASH;
	while (length) {
		ssize_t count = pread(place->fd, to, length, (off_t)place->offset + offset);

		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0)
			return UNBRICKD_E_FLASH;
		to += count;
		offset += (uint32_t)count;
		length -= (uint32_t)count;
	}
	return UNBRICKD_OK;
}

int program_place(const struct place *place, uint32_t offset, const uint8_t *from, uint32_t length)
{
	if (!is_within(place, offset, length))
		return UNBRICKD_E_FLASH;
	while (length) {
		ssize_t count = pwrite(place->fd, from, length, (off_t)place->offset + offset);

		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0)
			return UNBRICKD_E_FLASH;
		from += count;
		offset += (uint32_t)count;
		length -= (uint32_t)count;
	}
	return UNBRICKD_OK;
}

int sync_place(const struct place *place)
{
	/* An MTD device waits for the chip each time, and knows no fdatasync. */
	return place->is_mtd || !fdatasync(place->fd) ? UNBRICKD_OK : UNBRICKD_E_FLASH;
}

int erase_place(const struct place *place, uint32_t offset, uint32_t length)
{
	struct erase_info_user erase = { offset, length };
	uint8_t blank[4096];

	if (!is_within(place, offset, length))
		return UNBRICKD_E_FLASH;
	if (place->is_mtd) {
		ioctl(place->fd, MEMUNLOCK, &erase);	/* many chips power up locked; others know no locks */
		return ioctl(place->fd, MEMERASE, &erase) ? UNBRICKD_E_FLASH : UNBRICKD_OK;
	}
	memset(blank, 0xFF, sizeof(blank));
	while (length) {
		uint32_t size = length < sizeof(blank) ? length : (uint32_t)sizeof(blank);
		int error = program_place(place, offset, blank, size);

		if (error)
			return error;
		offset += size;
		length -= size;
	}
	return UNBRICKD_OK;
}
