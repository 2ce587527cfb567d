/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* CRC-32 of IEEE 802.3, four bits at a time: a table of 64 bytes. */
#include "unbrickd_crypto.h"

static const uint32_t NIBBLE[16] = {
	0x00000000, 0x1DB71064, 0x3B6E20C8, 0x26D930AC, 0x76DC4190, 0x6B6B51F4, 0x4DB26158, 0x5005713C,
	0xEDB88320, 0xF00F9344, 0xD6D6A3E8, 0xCB61B38C, 0x9B64C2B0, 0x86D3D2D4, 0xA00AE278, 0xBDBDF21C,
};

uint32_t unbrickd_crc32(uint32_t crc, const uint8_t *from, uint32_t length)
{
	crc = ~crc;
	while (length--) {
		crc ^= *from++;
		crc = crc >> 4 ^ NIBBLE[crc & 15];
		crc = crc >> 4 ^ NIBBLE[crc & 15];
	}
	return ~crc;
}
