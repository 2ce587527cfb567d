/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* SHA-256, FIPS 180-4. */
#include <string.h>

#include "unbrickd_crypto.h"

/* How struct unbrickd_sha256 is used: eight words of state, the length, and the block that is being filled. */
struct context {
	uint32_t state[8];
	uint64_t length;
	uint8_t block[64];
};

typedef char context_fits[sizeof(struct context) <= sizeof(struct unbrickd_sha256) ? 1 : -1];

static const uint32_t K[64] = {
	0x428A2F98, 0x71374491, 0xB5C0FBCF, 0xE9B5DBA5, 0x3956C25B, 0x59F111F1, 0x923F82A4, 0xAB1C5ED5,
	0xD807AA98, 0x12835B01, 0x243185BE, 0x550C7DC3, 0x72BE5D74, 0x80DEB1FE, 0x9BDC06A7, 0xC19BF174,
	0xE49B69C1, 0xEFBE4786, 0x0FC19DC6, 0x240CA1CC, 0x2DE92C6F, 0x4A7484AA, 0x5CB0A9DC, 0x76F988DA,
	0x983E5152, 0xA831C66D, 0xB00327C8, 0xBF597FC7, 0xC6E00BF3, 0xD5A79147, 0x06CA6351, 0x14292967,
	0x27B70A85, 0x2E1B2138, 0x4D2C6DFC, 0x53380D13, 0x650A7354, 0x766A0ABB, 0x81C2C92E, 0x92722C85,
	0xA2BFE8A1, 0xA81A664B, 0xC24B8B70, 0xC76C51A3, 0xD192E819, 0xD6990624, 0xF40E3585, 0x106AA070,
	0x19A4C116, 0x1E376C08, 0x2748774C, 0x34B0BCB5, 0x391C0CB3, 0x4ED8AA4A, 0x5B9CCA4F, 0x682E6FF3,
	0x748F82EE, 0x78A5636F, 0x84C87814, 0x8CC70208, 0x90BEFFFA, 0xA4506CEB, 0xBEF9A3F7, 0xC67178F2,
};

static uint32_t rotate(uint32_t x, unsigned by)
{
	return x >> by | x << (32 - by);
}

/* One round; the eight words keep their places and change their names: the caller's next round begins with h. */
static inline void turn(uint32_t a, uint32_t b, uint32_t c, uint32_t *d, uint32_t e, uint32_t f, uint32_t g, uint32_t *h,
			uint32_t added)
{
	*h += (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + (g ^ (e & (f ^ g))) + added;
	*d += *h;
	*h += (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) | (c & (a | b)));
}

static void compress(uint32_t state[8], const uint8_t *block)
{
	uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
	uint32_t w[64], i;

	for (i = 0; i < 16; i++)
		w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
		       block[4 * i + 3];
	for (; i < 64; i++)
		w[i] = w[i - 16] + w[i - 7] + (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) +
		       (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
	for (i = 0; i < 64; i += 8) {
		turn(a, b, c, &d, e, f, g, &h, K[i] + w[i]);
		turn(h, a, b, &c, d, e, f, &g, K[i + 1] + w[i + 1]);
		turn(g, h, a, &b, c, d, e, &f, K[i + 2] + w[i + 2]);
		turn(f, g, h, &a, b, c, d, &e, K[i + 3] + w[i + 3]);
		turn(e, f, g, &h, a, b, c, &d, K[i + 4] + w[i + 4]);
		turn(d, e, f, &g, h, a, b, &c, K[i + 5] + w[i + 5]);
		turn(c, d, e, &f, g, h, a, &b, K[i + 6] + w[i + 6]);
		turn(b, c, d, &e, f, g, h, &a, K[i + 7] + w[i + 7]);
	}
	state[0] += a;
	state[1] += b;
	state[2] += c;
	state[3] += d;
	state[4] += e;
	state[5] += f;
	state[6] += g;
	state[7] += h;
}

void unbrickd_sha256_begin(struct unbrickd_sha256 *hash)
{
	static const uint32_t initial[8] = {
		0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19,
	};
	struct context *c = (struct context *)(void *)hash;

	memcpy(c->state, initial, sizeof(initial));
	c->length = 0;
}

void unbrickd_sha256_add(struct unbrickd_sha256 *hash, const uint8_t *from, uint32_t length)
{
	struct context *c = (struct context *)(void *)hash;

	while (length) {
		uint32_t at = (uint32_t)(c->length % 64), size = 64 - at;

		if (size > length)
			size = length;
		c->length += size;
		if (size == 64) {
			compress(c->state, from);
		} else {
			memcpy(c->block + at, from, size);
			if (at + size == 64)
				compress(c->state, c->block);
		}
		from += size;
		length -= size;
	}
}

void unbrickd_sha256_end(struct unbrickd_sha256 *hash, uint8_t digest[32])
{
	static const uint8_t padding[64] = { 0x80 };
	struct context *c = (struct context *)(void *)hash;
	uint64_t bits = c->length * 8;
	uint8_t octets[8];
	uint32_t i;

	for (i = 0; i < 8; i++)
		octets[i] = (uint8_t)(bits >> (56 - 8 * i));
	unbrickd_sha256_add(hash, padding, 1 + (uint32_t)(119 - c->length % 64) % 64);
	unbrickd_sha256_add(hash, octets, sizeof(octets));
	for (i = 0; i < 32; i++)
		digest[i] = (uint8_t)(c->state[i / 4] >> (24 - 8 * (i % 4)));
}
