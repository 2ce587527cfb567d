/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* What lies in the protected sector; its digest is set right where there is room for it. */
#include "device.h"

int LLVMFuzzerTestOneInput(const uint8_t *octets, size_t size)
{
	struct ub_identity found;
	struct ub_keys keys;
	uint8_t *copy;

	if (size > 2000)
		return 0;
	copy = malloc(size ? size : 1);
	check(copy);
	memcpy(copy, octets, size);
	if (size >= 140) {
		uint32_t end = 108 + ub_u16(copy + 6);

		if (end + 32 <= size)
			ub_sha256(&io, copy, end, copy + end);
	}
	if (!ub_decode_identity(&io, copy, (uint32_t)size, &found)) {
		check(found.maker_key + found.maker_key_bytes + 32 <= copy + size);
		ub_derive_keys(&io, &found, &keys);
	}
	free(copy);
	(void)switched_off_device;
	return 0;
}
