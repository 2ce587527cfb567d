/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* Numbers in octets, octets that must be text or the same. Knows no field of any structure. */
#include "internal.h"

uint32_t ub_pieces(uint32_t a, uint32_t b)
{
	return a / b + (a % b != 0);
}

uint16_t ub_u16(const uint8_t *at)
{
	return (uint16_t)(at[0] << 8 | at[1]);
}

uint32_t ub_u32(const uint8_t *at)
{
	return (uint32_t)ub_u16(at) << 16 | ub_u16(at + 2);
}

void ub_put_u32(uint8_t *at, uint32_t value)
{
	at[0] = (uint8_t)(value >> 24);
	at[1] = (uint8_t)(value >> 16);
	at[2] = (uint8_t)(value >> 8);
	at[3] = (uint8_t)value;
}

bool ub_is_utf8(const uint8_t *octets, uint32_t length)
{
	uint32_t at = 0;

	while (at < length) {
		uint8_t first = octets[at++];
		uint32_t code, lowest, more;

		if (first < 0x80)
			continue;
		if (first < 0xC0 || first > 0xF4)
			return false;
		more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;
		lowest = more == 3 ? 0x10000 : more == 2 ? 0x800 : 0x80;
		code = first & (0x3Fu >> more);
		if (length - at < more)
			return false;
		while (more--) {
			uint8_t next = octets[at++];

			if ((next & 0xC0) != 0x80)
				return false;
			code = code << 6 | (next & 0x3F);
		}
		/* Overlong, a surrogate, or beyond Unicode (RFC 3629 §3). */
		if (code < lowest || (code >= 0xD800 && code < 0xE000) || code > 0x10FFFF)
			return false;
	}
	return true;
}

bool ub_same(const uint8_t *a, const uint8_t *b, uint32_t length)
{
	uint8_t differ = 0;

	while (length--)
		differ |= (uint8_t)(*a++ ^ *b++);
	return differ == 0;
}
