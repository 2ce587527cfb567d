/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * Verifying RSASSA-PKCS1-v1_5 over a SHA-256, keys of 2048 to 4096 bits: RFC 8017 §8.2.2 and §9.2, RFC 5280 §4.1.2.7.
 * Nothing here is secret, so nothing takes care of time.
 */
#include <string.h>

#include "unbrickd_crypto.h"

#define MAX_LIMBS 128
#define MAX_OCTETS (4 * MAX_LIMBS)

/* A number, its lowest limb first. */
struct number {
	uint32_t limbs[MAX_LIMBS];
};

struct key {
	struct number modulus;
	uint32_t exponent, count;	/* count: limbs of the modulus */
};

struct der {
	const uint8_t *at;
	uint32_t left;
};

/* Takes an element of that tag; its contents. False if there is none, or it is not whole. */
static bool take(struct der *from, uint8_t tag, struct der *contents)
{
	uint32_t length, octets = 0, i;

	if (from->left < 2 || from->at[0] != tag)
		return false;
	length = from->at[1];
	if (length & 0x80) {
		octets = length & 0x7F;
		if (octets < 1 || octets > 2 || from->left < 2 + octets)
			return false;
		for (length = 0, i = 0; i < octets; i++)
			length = length << 8 | from->at[2 + i];
	}
	if (from->left - 2 - octets < length)
		return false;
	contents->at = from->at + 2 + octets;
	contents->left = length;
	from->at = contents->at + length;
	from->left -= 2 + octets + length;
	return true;
}

static void read_number(struct number *n, const uint8_t *octets, uint32_t length)
{
	uint32_t i;

	memset(n, 0, sizeof(*n));
	for (i = 0; i < length; i++)
		n->limbs[i / 4] |= (uint32_t)octets[length - 1 - i] << 8 * (i % 4);
}

/* SubjectPublicKeyInfo of rsaEncryption. */
static bool read_key(const uint8_t *octets, uint32_t length, struct key *key)
{
	static const uint8_t rsa_encryption[] = { 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01 };
	struct der all = { octets, length }, info, algorithm, oid, null, bits, pair, modulus, exponent;
	uint32_t i;

	if (!take(&all, 0x30, &info) || !take(&info, 0x30, &algorithm) || !take(&algorithm, 0x06, &oid) ||
	    oid.left != sizeof(rsa_encryption) || memcmp(oid.at, rsa_encryption, oid.left) ||
	    !take(&algorithm, 0x05, &null) || null.left || algorithm.left || !take(&info, 0x03, &bits) || info.left ||
	    all.left || bits.left < 1 || bits.at[0] != 0)
		return false;
	bits.at++;
	bits.left--;
	if (!take(&bits, 0x30, &pair) || bits.left || !take(&pair, 0x02, &modulus) || !take(&pair, 0x02, &exponent) ||
	    pair.left)
		return false;
	while (modulus.left && !modulus.at[0]) {
		modulus.at++;
		modulus.left--;
	}
	if (modulus.left < 256 || modulus.left > MAX_OCTETS || modulus.left % 4 || !(modulus.at[0] & 0x80) ||
	    !(modulus.at[modulus.left - 1] & 1) || exponent.left < 1 || exponent.left > 4)
		return false;
	read_number(&key->modulus, modulus.at, modulus.left);
	key->count = modulus.left / 4;
	for (key->exponent = 0, i = 0; i < exponent.left; i++)
		key->exponent = key->exponent << 8 | exponent.at[i];
	return (key->exponent & 1) && key->exponent > 1;
}

static bool is_below(const struct number *a, const struct number *b, uint32_t count)
{
	while (count--) {
		if (a->limbs[count] != b->limbs[count])
			return a->limbs[count] < b->limbs[count];
	}
	return false;
}

static void subtract(struct number *a, const struct number *b, uint32_t count)
{
	uint64_t borrow = 0;
	uint32_t i;

	for (i = 0; i < count; i++) {
		uint64_t difference = (uint64_t)a->limbs[i] - b->limbs[i] - borrow;

		a->limbs[i] = (uint32_t)difference;
		borrow = difference >> 63;
	}
}

/* a = (a + b) mod modulus; both are below it, and its highest bit is set. */
static void add(struct number *a, const struct number *b, const struct key *key)
{
	uint64_t carry = 0;
	uint32_t i;

	for (i = 0; i < key->count; i++) {
		carry += (uint64_t)a->limbs[i] + b->limbs[i];
		a->limbs[i] = (uint32_t)carry;
		carry >>= 32;
	}
	if (carry || !is_below(a, &key->modulus, key->count))
		subtract(a, &key->modulus, key->count);
}

/* product = a × b mod modulus, bit by bit: a verification takes tens of milliseconds, and little code. */
static void multiply(struct number *product, const struct number *a, const struct number *b, const struct key *key)
{
	uint32_t bit = 32 * key->count;
	struct number twice;

	memset(product, 0, sizeof(*product));
	while (bit--) {
		twice = *product;
		add(product, &twice, key);
		if (a->limbs[bit / 32] >> bit % 32 & 1)
			add(product, b, key);
	}
}

static void power(struct number *result, const struct number *base, const struct key *key)
{
	struct number square;
	uint32_t bit = 31;

	while (!(key->exponent >> bit))
		bit--;
	*result = *base;
	while (bit--) {
		multiply(&square, result, result, key);
		*result = square;
		if (key->exponent >> bit & 1) {
			multiply(&square, result, base, key);
			*result = square;
		}
	}
}

/* EMSA-PKCS1-v1_5: what the signature must come out as, octet by octet from the end. */
static uint8_t encoded(uint32_t from_end, uint32_t length, const uint8_t digest[32])
{
	static const uint8_t digest_info[] = {
		0x30, 0x31, 0x30, 0x0D, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04,
		0x20,
	};
	const uint32_t tail = 32 + sizeof(digest_info);

	if (from_end < 32)
		return digest[31 - from_end];
	if (from_end < tail)
		return digest_info[tail - 1 - from_end];
	if (from_end == tail || from_end == length - 1)
		return 0;
	return from_end == length - 2 ? 1 : 0xFF;
}

int unbrickd_rsa_verify(void *app, const uint8_t *key_octets, uint32_t key_length, const uint8_t digest[32],
			const uint8_t *signature, uint32_t length)
{
	struct number signed_number, opened;
	struct key key;
	uint32_t i;

	(void)app;
	if (!read_key(key_octets, key_length, &key) || length != 4 * key.count)
		return -1;
	read_number(&signed_number, signature, length);
	if (!is_below(&signed_number, &key.modulus, key.count))
		return -1;
	power(&opened, &signed_number, &key);
	for (i = 0; i < length; i++) {
		if ((uint8_t)(opened.limbs[i / 4] >> 8 * (i % 4)) != encoded(i, length, digest))
			return -1;
	}
	return 0;
}
