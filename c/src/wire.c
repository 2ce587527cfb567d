/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * Messages and their bytes: what a device gets is decoded, what it sends is written. Knows no order of messages.
 * spec/protocol.md §2 to §4.
 */
#include "internal.h"

#define CRC_AT 12

/* Takes fields from the front; running out is remembered, and what is taken then is 0. */
struct reader {
	const uint8_t *at;
	uint32_t left;
	bool short_of;
};

static const uint8_t *take(struct reader *r, uint32_t count)
{
	const uint8_t *at = r->at;

	if (count > r->left) {
		r->short_of = true;
		return NULL;
	}
	r->at += count;
	r->left -= count;
	return at;
}

static uint32_t take_unsigned(struct reader *r, uint32_t size)
{
	const uint8_t *at = take(r, size);
	uint32_t value = 0;

	while (at && size--)
		value = value << 8 | *at++;
	return value;
}

static bool take_text(struct reader *r, uint32_t limit, const uint8_t **text, uint8_t *length)
{
	uint8_t size = (uint8_t)take_unsigned(r, 1);
	const uint8_t *at = take(r, size);

	*text = at;
	*length = size;
	return at && size <= limit && ub_is_utf8(at, size);
}

/* §4.3; the device believes its own document instead, so nothing of a record is kept. */
static bool skip_component_record(struct reader *outer, uint8_t *last_id)
{
	uint32_t size = take_unsigned(outer, 1);
	const uint8_t *octets = size ? take(outer, size - 1) : NULL;
	struct reader r = { octets, size - 1, false };
	const uint8_t *text;
	uint8_t id, kind, length;

	if (!octets)
		return false;
	id = (uint8_t)take_unsigned(&r, 1);
	kind = (uint8_t)take_unsigned(&r, 1);
	take(&r, 1 + 4 + UB_DIGEST);
	if (!take_text(&r, UB_VERSION, &text, &length) || r.short_of || id <= *last_id)
		return false;
	*last_id = id;
	return kind >= UNBRICKD_FIRMWARE && kind <= UNBRICKD_OTHER;
}

static bool decode_restore_ack(struct reader *r, struct ub_message *m)
{
	uint32_t flags, count;
	uint8_t last_id = 0;

	m->u.restore_ack.generation = take_unsigned(r, 4);
	flags = take_unsigned(r, 1);
	count = take_unsigned(r, 1);
	take(r, 2);
	m->u.restore_ack.document_bytes = take_unsigned(r, 4);
	m->u.restore_ack.digest = take(r, UB_DIGEST);
	m->u.restore_ack.seal = take(r, UB_DIGEST);
	if (!(flags & 1))
		m->u.restore_ack.seal = NULL;
	if (r->short_of || count > UNBRICKD_MAX_COMPONENTS || (m->u.restore_ack.generation == 0) != (count == 0))
		return false;
	while (count--) {
		if (!skip_component_record(r, &last_id))
			return false;
	}
	return true;
}

static bool decode_probe_ack(struct reader *r, struct ub_message *m)
{
	uint32_t flags;

	m->u.probe_ack.nonce = take(r, UB_NONCE);
	m->u.probe_ack.server_id = take(r, UB_SERVER_ID);
	m->u.probe_ack.cookie = take(r, UB_COOKIE);
	m->u.probe_ack.version = (uint8_t)take_unsigned(r, 1);
	flags = take_unsigned(r, 1);
	m->u.probe_ack.retry_s = (uint16_t)take_unsigned(r, 2);
	m->u.probe_ack.max_message = (uint16_t)take_unsigned(r, 2);
	take(r, 2);
	m->u.probe_ack.holds_device = flags & 1;
	m->u.probe_ack.busy = flags & 2;
	return m->u.probe_ack.version >= 1 && m->u.probe_ack.max_message >= UNBRICKD_MIN_MESSAGE;
}

static bool decode_data_start(struct reader *r, struct ub_message *m)
{
	const uint8_t *version;
	uint8_t version_bytes;

	m->u.data_start.component = (uint8_t)take_unsigned(r, 1);
	take(r, 1);
	m->u.data_start.max_block = (uint16_t)take_unsigned(r, 2);
	m->u.data_start.generation = take_unsigned(r, 4);
	m->u.data_start.length = take_unsigned(r, 4);
	m->u.data_start.digest = take(r, UB_DIGEST);
	return take_text(r, UB_VERSION, &version, &version_bytes) && m->u.data_start.max_block >= 1;
}

static bool decode_body(struct reader *r, struct ub_message *m)
{
	switch (m->type) {
	case UB_PROBE_ACK:
		return decode_probe_ack(r, m);
	case UB_RESTORE_ACK:
		return decode_restore_ack(r, m);
	case UB_DATA_START:
		return decode_data_start(r, m);
	case UB_DATA_BLOCK:
		m->u.data_block.request = take_unsigned(r, 4);
		m->u.data_block.offset = take_unsigned(r, 4);
		m->u.data_block.length = r->left;
		m->u.data_block.payload = r->at;
		return r->left > 0;
	case UB_DATA_END:
		m->u.data_end.request = take_unsigned(r, 4);
		take(r, 8);
		return true;
	case UB_ERROR:
		m->u.error.code = (uint16_t)take_unsigned(r, 2);
		m->u.error.retry_s = (uint16_t)take_unsigned(r, 2);
		take(r, 2);
		return take_text(r, 200, &m->u.error.text, &m->u.error.text_bytes);
	case UB_ANNOUNCE:
		take(r, UB_SERVER_ID);
		m->u.announce.lowest = (uint8_t)take_unsigned(r, 1);
		m->u.announce.highest = (uint8_t)take_unsigned(r, 1);
		take(r, 2);
		return m->u.announce.lowest >= 1 && m->u.announce.lowest <= m->u.announce.highest;
	default:
		return false;
	}
}

int ub_decode(const struct unbrickd_io *io, const uint8_t *octets, uint32_t length, struct ub_message *m)
{
	static const uint8_t no_crc[4] = { 0 };
	struct reader r = { NULL, 0, false };
	uint32_t crc;

	if (length < UB_HEADER || octets[0] != 'u' || octets[1] != 'B' || ub_u16(octets + 4) != length)
		return UNBRICKD_E_MESSAGE;
	r.at = octets + UB_HEADER;
	r.left = length - UB_HEADER;
	crc = io->crc32(0, octets, CRC_AT);
	crc = io->crc32(crc, no_crc, sizeof(no_crc));
	if (io->crc32(crc, r.at, r.left) != ub_u32(octets + CRC_AT))
		return UNBRICKD_E_MESSAGE;
	m->type = octets[3];
	m->transfer = ub_u16(octets + 6);
	m->session = ub_u32(octets + 8);
	/* Probe-Ack, Error and Announce are the same in every version (§3). */
	if (octets[2] != UB_PROTOCOL_VERSION && m->type != UB_PROBE_ACK && m->type != UB_ERROR && m->type != UB_ANNOUNCE)
		return UNBRICKD_E_MESSAGE;
	return decode_body(&r, m) && !r.short_of ? UNBRICKD_OK : UNBRICKD_E_MESSAGE;
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
	ub_put_u32(w->octets + CRC_AT, io->crc32(0, w->octets, w->length));
}
