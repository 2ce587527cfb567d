// SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause
/* Hashes, cipher, signatures and random numbers: all U-Boot's own. */
#include <dm.h>
#include <image.h>
#include <net.h>
#include <rng.h>
#include <time.h>
#include <uboot_aes.h>
#include <linux/string.h>
#include <u-boot/crc.h>
#include <u-boot/rsa.h>
#include <u-boot/sha256.h>

#include "port.h"

static void sha256_begin(struct unbrickd_sha256 *hash)
{
	BUILD_BUG_ON(sizeof(sha256_context) > sizeof(*hash));
	sha256_starts((sha256_context *)hash);
}

static void sha256_add(struct unbrickd_sha256 *hash, const u8 *from, u32 length)
{
	sha256_update((sha256_context *)hash, from, length);
}

static void sha256_end(struct unbrickd_sha256 *hash, u8 digest[32])
{
	sha256_finish((sha256_context *)hash, digest);
}

static u32 checksum(u32 crc, const u8 *from, u32 length)
{
	return crc32(crc, from, length);
}

static void aes256_ctr(const u8 key[32], u8 counter[16], u8 *octets, u32 length)
{
	u8 expanded[AES256_EXPAND_KEY_LENGTH], pad[AES_BLOCK_LENGTH], secret[32];
	u32 at;
	int i;

	memcpy(secret, key, sizeof(secret));
	aes_expand_key(secret, AES256_KEY_LENGTH, expanded);
	for (at = 0; at < length; at++) {
		if (at % AES_BLOCK_LENGTH == 0) {
			aes_encrypt(AES256_KEY_LENGTH, counter, expanded, pad);
			for (i = AES_BLOCK_LENGTH; i-- && !++counter[i];)
				;
		}
		octets[at] ^= pad[at % AES_BLOCK_LENGTH];
	}
}

/* DER: step into, or over, an element of this tag. False if there is none or it ends after `*end`. */
static bool element(const u8 **at, const u8 **end, u8 tag)
{
	u32 length, octets;

	if (*end - *at < 2 || *(*at)++ != tag)
		return false;
	length = *(*at)++;
	if (length & 0x80) {
		octets = length & 0x7F;
		if (!octets || octets > 2 || *end - *at < octets)
			return false;
		for (length = 0; octets--;)
			length = length << 8 | *(*at)++;
	}
	if (*end - *at < length)
		return false;
	*end = *at + length;
	return true;
}

/*
 * U-Boot parses the RSAPublicKey (RFC 8017, A.1.1) that lies in the bit string of a SubjectPublicKeyInfo (RFC 5280,
 * 4.1). It is the maker's, from the protected sector: what is no RSA key fails there.
 */
static bool find_rsa_key(const u8 **at, const u8 **end)
{
	const u8 *inner;

	if (!element(at, end, 0x30))
		return false;
	inner = *end;
	if (!element(at, &inner, 0x30))
		return false;
	*at = inner;
	return element(at, end, 0x03) && *end - *at > 1 && *(*at)++ == 0;
}

static int verify_signature(void *app, const u8 *key, u32 key_length, const u8 digest[32], const u8 *signature,
			    u32 length)
{
	const char *algorithm = length == RSA2048_BYTES ? "sha256,rsa2048" :
				length == RSA3072_BYTES ? "sha256,rsa3072" :
							  "sha256,rsa4096";
	const u8 *end = key + key_length;
	u8 copy[RSA4096_BYTES];
	struct image_sign_info info = {
		.checksum = image_get_checksum_algo(algorithm),
		.crypto = image_get_crypto_algo(algorithm),
		.padding = image_get_padding_algo(RSA_DEFAULT_PADDING_NAME),
	};

	if (!info.checksum || !info.crypto || !info.padding || length > sizeof(copy) || !find_rsa_key(&key, &end))
		return -EINVAL;
	info.key = key;
	info.keylen = end - key;
	memcpy(copy, signature, length);
	return rsa_verify_with_pkey(&info, digest, copy, length);
}

/*
 * For nonces and session ids, which strangers must not guess: a hash chain, begun with the device's secrets (the whole
 * identity), the time in ticks and, where there is one, the random generator.
 */
static void stir(struct ubp *p, const u8 *from, u32 length)
{
	sha256_context hash;
	u64 ticks = get_ticks();

	sha256_starts(&hash);
	sha256_update(&hash, p->random, sizeof(p->random));
	sha256_update(&hash, (const u8 *)&ticks, sizeof(ticks));
	sha256_update(&hash, from, length);
	sha256_finish(&hash, p->random);
}

static void random_octets(void *app, u8 *to, u32 length)
{
	struct ubp *p = app;
	u8 shown[SHA256_SUM_LEN];
	u32 some;

	for (; length; to += some, length -= some) {
		stir(p, (const u8 *)"next", 4);
		sha256_csum_wd(p->random, sizeof(p->random), shown, CHUNKSZ_SHA256);
		some = min_t(u32, length, sizeof(shown));
		memcpy(to, shown, some);
	}
}

void ubp_crypto_setup(struct ubp *p)
{
	struct udevice *generator;
	u8 octets[32];

	stir(p, p->identity, p->config.identity_bytes);
	if (IS_ENABLED(CONFIG_DM_RNG) && !uclass_get_device(UCLASS_RNG, 0, &generator) &&
	    !dm_rng_read(generator, octets, sizeof(octets)))
		stir(p, octets, sizeof(octets));
	p->io.random = random_octets;
	p->io.sha256_begin = sha256_begin;
	p->io.sha256_add = sha256_add;
	p->io.sha256_end = sha256_end;
	p->io.crc32 = checksum;
	p->io.aes256_ctr = aes256_ctr;
	p->io.verify_signature = verify_signature;
}
