/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * Messages and their bytes: what a device gets is decoded, what it sends is written. Knows no order of messages.
 * spec/protocol.md §2 to §4.
 */
#include "internal.h"

#define CRC_AT 12

/* Of a body: its bytes, and how many they are. The offsets below are those of the tables in §4. */
struct body {
	const uint8_t *at;
	uint32_t length;
};

/* A length byte and so many bytes of UTF-8. */
static bool is_text(struct body b, uint32_t at, uint32_t limit)
{
	return at < b.length && b.at[at] <= limit && b.at[at] < b.length - at && ub_is_utf8(b.at + at + 1, b.at[at]);
}

static bool decode_probe_ack(struct body b, struct ub_message *m)
{
	if (b.length < 48)
		return false;
	m->u.probe_ack.nonce = b.at;
	m->u.probe_ack.server_id = b.at + 8;
	m->u.probe_ack.cookie = b.at + 24;
	m->u.probe_ack.version = b.at[40];
	m->u.probe_ack.holds_device = b.at[41] & 1;
	m->u.probe_ack.busy = b.at[41] & 2;
	m->u.probe_ack.retry_s = ub_u16(b.at + 42);
	m->u.probe_ack.max_message = ub_u16(b.at + 44);
	return m->u.probe_ack.version >= 1 && m->u.probe_ack.max_message >= UNBRICKD_MIN_MESSAGE;
}

/* Component records (§4.3) up to the end: the device believes its own document instead, so nothing of them is kept. */
static bool are_component_records(struct body b, uint32_t count)
{
	uint8_t last_id = 0;

	for (; count; count--) {
		struct body record = b;

		record.length = b.length ? b.at[0] : 0;
		if (record.length < 4 + 4 + UB_DIGEST + 1 || record.length > b.length || b.at[1] <= last_id ||
		    b.at[2] < UNBRICKD_FIRMWARE || b.at[2] > UNBRICKD_OTHER ||
		    !is_text(record, 4 + 4 + UB_DIGEST, UB_VERSION))
			return false;
		last_id = b.at[1];
		b.at += record.length;
		b.length -= record.length;
	}
	return true;
}

static bool decode_restore_ack(struct body b, struct ub_message *m)
{
	struct body records;

	if (b.length < 76)
		return false;
	records.at = b.at + 76;
	records.length = b.length - 76;
	m->u.restore_ack.generation = ub_u32(b.at);
	m->u.restore_ack.document_bytes = ub_u32(b.at + 8);
	m->u.restore_ack.digest = b.at + 12;
	m->u.restore_ack.seal = b.at[4] & 1 ? b.at + 44 : NULL;
	return !m->u.restore_ack.generation == !b.at[5] && b.at[5] <= UNBRICKD_MAX_COMPONENTS &&
	       are_component_records(records, b.at[5]);
}

static bool decode_data_start(struct body b, struct ub_message *m)
{
	if (!is_text(b, 44, UB_VERSION))
		return false;
	m->u.data_start.component = b.at[0];
	m->u.data_start.max_block = ub_u16(b.at + 2);
	m->u.data_start.generation = ub_u32(b.at + 4);
	m->u.data_start.length = ub_u32(b.at + 8);
	m->u.data_start.digest = b.at + 12;
	return m->u.data_start.max_block >= 1;
}

static bool decode_error(struct body b, struct ub_message *m)
{
	if (!is_text(b, 6, 200))
		return false;
	m->u.error.code = ub_u16(b.at);
	m->u.error.retry_s = ub_u16(b.at + 2);
	m->u.error.text_bytes = b.at[6];
	m->u.error.text = b.at + 7;
	return true;
}

static bool decode_body(struct body b, struct ub_message *m)
{
	switch (m->type) {
	case UB_PROBE_ACK:
		return decode_probe_ack(b, m);
	case UB_RESTORE_ACK:
		return decode_restore_ack(b, m);
	case UB_DATA_START:
		return decode_data_start(b, m);
	case UB_DATA_BLOCK:
		if (b.length < 9)
			return false;
		m->u.data_block.request = ub_u32(b.at);
		m->u.data_block.offset = ub_u32(b.at + 4);
		m->u.data_block.payload = b.at + 8;
		m->u.data_block.length = b.length - 8;
		return true;
	case UB_DATA_END:
		if (b.length < 12)
			return false;
		m->u.data_end.request = ub_u32(b.at);
		return true;
	case UB_ERROR:
		return decode_error(b, m);
	case UB_ANNOUNCE:
		if (b.length < 20)
			return false;
		m->u.announce.lowest = b.at[16];
		m->u.announce.highest = b.at[17];
		return m->u.announce.lowest >= 1 && m->u.announce.lowest <= m->u.announce.highest;
	default:
		return false;
	}
}

int ub_decode(const struct unbrickd_io *io, const uint8_t *octets, uint32_t length, struct ub_message *m)
{
	static const uint8_t no_crc[4] = { 0 };
	struct body b;
	uint32_t crc;

	if (length < UB_HEADER || octets[0] != 'u' || octets[1] != 'B' || ub_u16(octets + 4) != length)
		return UNBRICKD_E_MESSAGE;
	b.at = octets + UB_HEADER;
	b.length = length - UB_HEADER;
	crc = io->crc32(0, octets, CRC_AT);
	crc = io->crc32(crc, no_crc, sizeof(no_crc));
	if (io->crc32(crc, b.at, b.length) != ub_u32(octets + CRC_AT))
		return UNBRICKD_E_MESSAGE;
	m->type = octets[3];
	m->transfer = ub_u16(octets + 6);
	m->session = ub_u32(octets + 8);
	/* Probe-Ack, Error and Announce are the same in every version (§3). */
	if (octets[2] != UB_PROTOCOL_VERSION && m->type != UB_PROBE_ACK && m->type != UB_ERROR && m->type != UB_ANNOUNCE)
		return UNBRICKD_E_MESSAGE;
	return decode_body(b, m) ? UNBRICKD_OK : UNBRICKD_E_MESSAGE;
}

void ub_add(struct ub_writer *w, uint32_t value, uint32_t size)
{
	while (size--)
		w->octets[w->length++] = (uint8_t)(value >> 8 * size);
}

void ub_add_octets(struct ub_writer *w, const uint8_t *from, uint32_t length)
{
	memcpy(w->octets + w->length, from, length);
	w->length += length;
}

void ub_begin(struct ub_writer *w, enum ub_type type, uint32_t session, uint16_t transfer)
{
	w->length = 0;
	ub_add(w, 'u' << 8 | 'B', 2);
	ub_add(w, UB_PROTOCOL_VERSION, 1);
	ub_add(w, type, 1);
	ub_add(w, 0, 2);
	ub_add(w, transfer, 2);
	ub_add(w, session, 4);
	ub_add(w, 0, 4);
}

void ub_end(struct ub_writer *w, const struct unbrickd_io *io)
{
	w->octets[4] = (uint8_t)(w->length >> 8);
	w->octets[5] = (uint8_t)w->length;
	ub_put_u32(w->octets + CRC_AT, 0);
	ub_put_u32(w->octets + CRC_AT, io->crc32(0, w->octets, w->length));
}
