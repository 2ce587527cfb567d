/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* Any datagram; unless its first byte is odd, with the header set right, so that the body is reached. */
#include "device.h"

int LLVMFuzzerTestOneInput(const uint8_t *octets, size_t size)
{
	uint8_t *datagram;
	struct ub_message m;
	uint32_t length;

	if (size < 1 || size > 2000)
		return 0;
	length = (uint32_t)size - 1;
	datagram = malloc(length ? length : 1);
	check(datagram);
	memcpy(datagram, octets + 1, length);
	if (!(octets[0] & 1) && length >= UB_HEADER) {
		memcpy(datagram, "uB\1", 3);
		datagram[4] = (uint8_t)(length >> 8);
		datagram[5] = (uint8_t)length;
		ub_put_u32(datagram + 12, 0);
		ub_put_u32(datagram + 12, unbrickd_crc32(0, datagram, length));
	}
	if (!ub_decode(&bare, datagram, length, &m) && m.type == UB_DATA_BLOCK)
		check(m.length > UB_DATA_BLOCK_PAYLOAD && m.body + m.length == datagram + length);
	free(datagram);
	(void)switched_off_device;
	return 0;
}
