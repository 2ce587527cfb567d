/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* The hashes and ciphers of struct unbrickd_io, for those who have none of their own. Small rather than fast. */
#ifndef UNBRICKD_CRYPTO_H
#define UNBRICKD_CRYPTO_H

#include "unbrickd.h"

/* FIPS 180-4 */
void unbrickd_sha256_begin(struct unbrickd_sha256 *hash);
void unbrickd_sha256_add(struct unbrickd_sha256 *hash, const uint8_t *from, uint32_t length);
void unbrickd_sha256_end(struct unbrickd_sha256 *hash, uint8_t digest[32]);

/* IEEE 802.3, as zlib's */
uint32_t unbrickd_crc32(uint32_t crc, const uint8_t *from, uint32_t length);

/* FIPS 197, NIST SP 800-38A §6.5; the counter is one 128-bit big-endian integer. Table lookups: not for secrets that a
 * neighbour on the same cache must not learn. A bootloader has no neighbours. */
void unbrickd_aes256_ctr(const uint8_t key[32], uint8_t counter[16], uint8_t *octets, uint32_t length);

/* RFC 8017 §8.2.2, for verify_signature of the table; tens of milliseconds and 3 KiB of stack. */
int unbrickd_rsa_verify(void *app, const uint8_t *key, uint32_t key_length, const uint8_t digest[32],
			const uint8_t *signature, uint32_t length);

#endif
