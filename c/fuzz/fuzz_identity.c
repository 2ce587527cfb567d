/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* What lies in the protected sector; its digest is set right where there is room for it. */
#include "device.h"

int LLVMFuzzerTestOneInput(const uint8_t *octets, size_t size)
{
	const struct ub_identity *found = &bare.identity;
	uint8_t *copy;

	if (size > 2000)
		return 0;
	copy = malloc(size ? size : 1);
	check(copy);
	memcpy(copy, octets, size);
	if (size >= 140) {
		uint32_t end = 108 + ub_u16(copy + 6);

		if (end + 32 <= size)
			ub_sha256(&bare, copy, end, copy + end);
	}
	if (!ub_decode_identity(&bare, copy, (uint32_t)size)) {
		check(found->maker_key + found->maker_key_bytes + 32 <= copy + size);
		ub_derive_keys(&bare);
	}
	free(copy);
	(void)switched_off_device;
	return 0;
}
