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
	const uint8_t *end = octets + length;

	while (octets < end) {
		uint8_t first = *octets++, lowest = 0x80, highest = 0xBF;
		int more = (first >= 0xC2) + (first >= 0xE0) + (first >= 0xF0);

		if (first < 0x80)
			continue;
		if (!more || first > 0xF4 || end - octets < more)
			return false;
		/* Not overlong, no surrogate, not beyond Unicode (RFC 3629 §4): the second octet tells. */
		if (first == 0xE0)
			lowest = 0xA0;
		if (first == 0xF0)
			lowest = 0x90;
		if (first == 0xED)
			highest = 0x9F;
		if (first == 0xF4)
			highest = 0x8F;
		for (; more; more--, lowest = 0x80, highest = 0xBF) {
			uint8_t next = *octets++;

			if (next < lowest || next > highest)
				return false;
		}
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
