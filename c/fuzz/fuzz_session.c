/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * A damaged device and a server that is half honest: it answers what the device asks, spoilt where the input says so,
 * and says what else it likes, with right headers. Whatever it does, what boots is what was sealed.
 */
#include "device.h"

#define KINDS 16
#define LONGEST 1452

static struct unbrickd *ub;
static struct unbrickd_peer server = { { 9 } };
static uint64_t now_us;

/* The last message of each kind that the device sent. */
static struct {
	uint8_t octets[UB_LONGEST_SENT];
	uint32_t length;
} asked[KINDS];

static void hear(void *app, const struct unbrickd_peer *to, const uint8_t *message, uint32_t length)
{
	(void)app, (void)to;
	check(length <= UB_LONGEST_SENT && message[3] < KINDS && ub_u16(message + 4) == length);
	memcpy(asked[message[3]].octets, message, length);
	asked[message[3]].length = length;
}

struct input {
	const uint8_t *at;
	size_t left;
};

static uint8_t next(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->at++;
}

static uint8_t datagram[LONGEST];

/* Send the body that stands in the datagram; maybe one byte of it spoilt. */
static void say(enum ub_type type, uint32_t body, struct input *spoil)
{
	uint32_t length = UB_HEADER + body;
	uint8_t *copy;

	memcpy(datagram, "uB\1", 3);
	datagram[3] = (uint8_t)type;
	datagram[4] = (uint8_t)(length >> 8);
	datagram[5] = (uint8_t)length;
	datagram[6] = (uint8_t)(ub->transfer >> 8);
	datagram[7] = (uint8_t)ub->transfer;
	ub_put_u32(datagram + 8, ub->session);
	ub_put_u32(datagram + 12, 0);
	if (spoil && body && next(spoil) % 4 == 0)
		datagram[UB_HEADER + next(spoil) % body] ^= next(spoil);
	ub_put_u32(datagram + 12, unbrickd_crc32(0, datagram, length));
	copy = malloc(length);
	check(copy);
	memcpy(copy, datagram, length);
	unbrickd_receive(ub, &server, copy, length, now_us);
	free(copy);
}

static void answer_data_request(struct input *spoil)
{
	const uint8_t *request = asked[UB_DATA_REQUEST].octets + UB_HEADER;
	uint8_t *body = datagram + UB_HEADER;

	memset(body, 0, 45);
	body[0] = request[0];
	body[2] = request[2];
	body[3] = request[3];
	memcpy(body + 4, request + 4, 4);
	ub_put_u32(body + 8, request[0] == 0 ? DOCUMENT_BYTES : request[0] == FIRMWARE ? FIRMWARE_IMAGE : CONFIG_IMAGE);
	memcpy(body + 12, request + 8, 32);
	say(UB_DATA_START, 45, spoil);
}

static void answer_block_request(struct input *spoil)
{
	uint8_t request[UB_LONGEST_SENT], object = asked[UB_DATA_REQUEST].octets[UB_HEADER];
	const uint8_t *from = object == 0 ? document : object == FIRMWARE ? whole.firmware : config_cipher;
	uint32_t size = object == 0 ? DOCUMENT_BYTES : object == FIRMWARE ? FIRMWARE_IMAGE : CONFIG_IMAGE;
	uint32_t block = ub->receiver.block_bytes, i;

	memcpy(request, asked[UB_BLOCK_REQUEST].octets, sizeof(request));
	for (i = 0; block && i < request[UB_HEADER + 5]; i++) {
		uint32_t offset = ub_u32(request + UB_HEADER + 8 + 8 * i);
		uint32_t end = offset + ub_u32(request + UB_HEADER + 12 + 8 * i);

		check(end <= size);
		while (offset < end) {
			uint32_t length = ub_min(block, end - offset);

			memcpy(datagram + UB_HEADER, request + UB_HEADER, 4);
			ub_put_u32(datagram + UB_HEADER + 4, offset);
			memcpy(datagram + UB_HEADER + 8, from + offset, length);
			say(UB_DATA_BLOCK, 8 + length, spoil);
			offset += length;
		}
	}
	memcpy(datagram + UB_HEADER, request + UB_HEADER, 4);
	memset(datagram + UB_HEADER + 4, 0, 8);
	say(UB_DATA_END, 12, spoil);
}

static void answer(enum ub_type type, struct input *spoil)
{
	uint8_t *body = datagram + UB_HEADER;

	if (!asked[type].length)
		return;
	memset(body, 0, 128);
	switch (type) {
	case UB_PROBE:
		memcpy(body, asked[UB_PROBE].octets + UB_HEADER + 16, 8);
		memset(body + 8, 3, 32);
		body[40] = 1;
		body[41] = 1;
		body[44] = LONGEST >> 8;
		body[45] = LONGEST & 0xFF;
		say(UB_PROBE_ACK, 48, spoil);
		break;
	case UB_RESTORE:
		ub_put_u32(body, 7);
		body[4] = 1;
		body[5] = 1;
		ub_put_u32(body + 8, DOCUMENT_BYTES);
		memcpy(body + 12, document_digest, 32);
		memcpy(body + 44, good_seal, 32);
		body[76] = 41;
		body[77] = FIRMWARE;
		body[78] = UNBRICKD_FIRMWARE;
		say(UB_RESTORE_ACK, 76 + 41, spoil);
		break;
	case UB_DATA_REQUEST:
		answer_data_request(spoil);
		break;
	case UB_BLOCK_REQUEST:
		answer_block_request(spoil);
		break;
	default:
		break;
	}
	asked[type].length = 0;
}

static void answer_all(struct input *spoil)
{
	answer(UB_PROBE, spoil);
	answer(UB_RESTORE, spoil);
	answer(UB_DATA_REQUEST, spoil);
	answer(UB_BLOCK_REQUEST, spoil);
}

static void check_booted(void)
{
	const struct unbrickd_booting *booting = unbrickd_boots(ub);

	if (!booting)
		return;
	check(booting->generation == 7);
	check(!memcmp(flash.firmware, whole.firmware, FIRMWARE_IMAGE));
	check(booting->config_default || !memcmp(flash.config, whole.config, CONFIG_IMAGE));
}

int LLVMFuzzerTestOneInput(const uint8_t *octets, size_t size)
{
	struct input in = { octets, size };
	uint64_t wake_us;
	uint8_t damage = next(&in);
	uint32_t i;

	io.send = hear;
	ub = switched_off_device();
	memset(asked, 0, sizeof(asked));
	now_us = 1;
	for (i = 0; i < 4; i++)
		flash.firmware[512 * i] ^= (uint8_t)(damage >> i & 1);
	flash.config[0] ^= (uint8_t)(damage >> 4 & 1);
	flash.record[40] ^= (uint8_t)(damage >> 5 & 1);
	flash.record[2048 + 40] ^= (uint8_t)(damage >> 6 & 1);
	check(unbrickd_power_on(ub, damage >> 7, now_us) == 0);
	while (in.left && !unbrickd_boots(ub)) {
		switch (next(&in) % 4) {
		case 0:
			now_us += (uint64_t)next(&in) * 40000;
			break;
		case 1:
			answer_all(NULL);
			break;
		case 2:
			answer_all(&in);
			break;
		default: {
			uint8_t type = next(&in) % 17, length = next(&in);

			for (i = 0; i < length; i++)
				datagram[UB_HEADER + i] = next(&in);
			say((enum ub_type)type, length, NULL);
		}
		}
		check(unbrickd_poll(ub, now_us, &wake_us) == 0);
		check(unbrickd_boots(ub) || wake_us != UNBRICKD_NEVER);
	}
	check_booted();
	/* Whatever that was, an honest server heals the device. */
	for (i = 0; i < 2000 && !unbrickd_boots(ub); i++) {
		answer_all(NULL);
		check(unbrickd_poll(ub, now_us, &wake_us) == 0);
		now_us = wake_us > now_us && wake_us != UNBRICKD_NEVER ? wake_us : now_us + 1;
	}
	check(unbrickd_boots(ub) != NULL);
	check_booted();
	return 0;
}
