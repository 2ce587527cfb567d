/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * Messages and their bytes: what a device gets is decoded, what it sends is written. Knows no order of messages.
 * spec/protocol.md §2 to §4.
 */
#include "internal.h"

#define LENGTH_AT 4
#define CRC_AT 12

#define RESTORE_ACK_RECORDS 76
#define RECORD_VERSION 40

/* Of each type that a device gets, how long its body is at least. */
static const uint8_t SHORTEST[] = {
	[UB_PROBE_ACK] = UB_PROBE_ACK_BYTES, [UB_RESTORE_ACK] = RESTORE_ACK_RECORDS, [UB_DATA_START] = UB_DATA_START_VERSION + 1,
	[UB_DATA_BLOCK] = 9, [UB_DATA_END] = 12, [UB_ERROR] = UB_ERROR_TEXT + 1, [UB_ANNOUNCE] = 20,
};

/* A length octet and so many of UTF-8, within `left`. */
static bool is_text(const uint8_t *text, uint32_t left, uint32_t limit)
{
	return text[0] <= limit && text[0] < left && ub_is_utf8(text + 1, text[0]);
}

/* Component records (§4.3) up to the end: the device believes its own document instead, so nothing of them is kept. */
static bool are_component_records(const uint8_t *at, uint32_t left, uint32_t count)
{
	uint8_t last_id = 0;

	for (; count; count--) {
		uint8_t length = left ? at[0] : 0;

		if (length <= RECORD_VERSION || length > left || at[1] <= last_id || !ub_is_kind(at[2]) ||
		    !is_text(at + RECORD_VERSION, length - (uint32_t)RECORD_VERSION, UB_VERSION))
			return false;
		last_id = at[1];
		at += length;
		left -= length;
	}
	return true;
}

static bool is_body(const struct ub_message *m)
{
	const uint8_t *b = m->body;

	if (m->type >= sizeof(SHORTEST) || !SHORTEST[m->type] || m->length < SHORTEST[m->type])
		return false;
	switch (m->type) {
	case UB_PROBE_ACK:
		return b[UB_PROBE_ACK_VERSION] && ub_u16(b + UB_PROBE_ACK_MAX_MESSAGE) >= UNBRICKD_MIN_MESSAGE;
	case UB_RESTORE_ACK:
		return !ub_u32(b + UB_RESTORE_ACK_GENERATION) == !b[UB_RESTORE_ACK_COUNT] &&
		       b[UB_RESTORE_ACK_COUNT] <= UNBRICKD_MAX_COMPONENTS &&
		       are_component_records(b + RESTORE_ACK_RECORDS, m->length - RESTORE_ACK_RECORDS,
					     b[UB_RESTORE_ACK_COUNT]);
	case UB_DATA_START:
		return ub_u16(b + UB_DATA_START_MAX_BLOCK) &&
		       is_text(b + UB_DATA_START_VERSION, m->length - UB_DATA_START_VERSION, UB_VERSION);
	case UB_ERROR:
		return is_text(b + UB_ERROR_TEXT, m->length - UB_ERROR_TEXT, UB_MAX_ERROR_TEXT);
	case UB_ANNOUNCE:
		return b[UB_ANNOUNCE_LOWEST] && b[UB_ANNOUNCE_LOWEST] <= b[UB_ANNOUNCE_HIGHEST];
	default:
		return true;
	}
}

int ub_decode(struct unbrickd *ub, const uint8_t *octets, uint32_t length, struct ub_message *m)
{
	static const uint8_t no_crc[4] = { 0 };
	uint32_t crc;

	if (length < UB_HEADER || octets[0] != 'u' || octets[1] != 'B' || ub_u16(octets + LENGTH_AT) != length)
		return UNBRICKD_E_MESSAGE;
	m->type = octets[3];
	m->transfer = ub_u16(octets + 6);
	m->session = ub_u32(octets + 8);
	m->body = octets + UB_HEADER;
	m->length = length - UB_HEADER;
	crc = ub->io->crc32(0, octets, CRC_AT);
	crc = ub->io->crc32(crc, no_crc, sizeof(no_crc));
	if (ub->io->crc32(crc, m->body, m->length) != ub_u32(octets + CRC_AT))
		return UNBRICKD_E_MESSAGE;
	/* Probe-Ack, Error and Announce are the same in every version (§3). */
	if (octets[2] != UB_PROTOCOL_VERSION && m->type != UB_PROBE_ACK && m->type != UB_ERROR && m->type != UB_ANNOUNCE)
		return UNBRICKD_E_MESSAGE;
	return is_body(m) ? UNBRICKD_OK : UNBRICKD_E_MESSAGE;
}

void ub_add(struct unbrickd *ub, uint32_t value)
{
	ub_put_u32(ub->writer.octets + ub->writer.length, value);
	ub->writer.length += 4;
}

void ub_add_octets(struct unbrickd *ub, const uint8_t *from, uint32_t length)
{
	memcpy(ub->writer.octets + ub->writer.length, from, length);
	ub->writer.length += length;
}

void ub_begin(struct unbrickd *ub, enum ub_type type)
{
	ub->writer.length = 0;
	ub_add(ub, (uint32_t)'u' << 24 | 'B' << 16 | UB_PROTOCOL_VERSION << 8 | type);
	ub_add(ub, 0);
	ub_add(ub, ub->session);
	ub_add(ub, 0);
}

void ub_end(struct unbrickd *ub)
{
	struct ub_writer *w = &ub->writer;

	ub_put_u32(w->octets + LENGTH_AT, w->length << 16 | ub->fetch.transfer);
	ub_put_u32(w->octets + CRC_AT, 0);
	ub_put_u32(w->octets + CRC_AT, ub->io->crc32(0, w->octets, w->length));
}
