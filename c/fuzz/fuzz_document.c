/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* A generation document, as if its MAC held: decoded, named, compared with a layout. */
#include "device.h"

int LLVMFuzzerTestOneInput(const uint8_t *octets, size_t size)
{
	struct unbrickd_generation g;
	uint8_t digest[32], *copy;
	uint32_t i, length = (uint32_t)size;

	if (size > 20000)
		return 0;
	copy = malloc(size ? size : 1);
	check(copy);
	memcpy(copy, octets, size);
	if (size >= 12)
		ub_put_u32(copy + 8, length);
	if (!ub_decode_document(copy, length, &g)) {
		check(g.part_count >= 1 && g.part_count <= UNBRICKD_MAX_COMPONENTS);
		for (i = 0; i < g.part_count; i++) {
			ub_image_digest(&bare, &g.part[i], digest);
			ub_covers(&components[i % 2].geometry, &g.part[i].geometry);
		}
	}
	free(copy);
	(void)switched_off_device;
	return 0;
}
