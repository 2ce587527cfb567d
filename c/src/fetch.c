/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * Fetching one object: from DataRequest until its last segment was accepted; erase blocks into ub->buffer, slices
 * of the document into ub->document. In charge of the transfer, as receivers are. Verifies nothing.
 * spec/protocol.md §4.7 to §4.13 and §5.1.
 */
#include "internal.h"

#define SILENCE_US (10 * UB_SECOND)	/* a server that sends no block for so long has gone */
#define NO_FIRST_BLOCK_US (1500 * 1000u)	/* after this without any block, blocks are made to fit a 1280-byte path */
#define SAFE_BLOCK (UNBRICKD_MIN_MESSAGE - UB_BLOCK_OVERHEAD)

static void begin(struct unbrickd *ub)
{
	struct ub_fetch *f = &ub->fetch;

	ub->transfer = ub->transfer == 0xFFFF ? 1 : (uint16_t)(ub->transfer + 1);
	f->transfer = ub->transfer;
	f->max_block = (uint16_t)(ub_min(ub_u16(ub->server.ack + UB_PROBE_ACK_MAX_MESSAGE), ub->max_message) - UB_BLOCK_OVERHEAD);
	f->started = f->ack_due = f->is_writing = f->is_second_try = false;
	f->done = f->rejected = 0;
	ub_repeater_start(ub, ub->now_us, UB_TRIES);
	ub->state = UB_FETCHING;
}

void ub_fetch_document(struct unbrickd *ub)
{
	struct ub_fetch *f = &ub->fetch;

	f->part = NULL;
	f->component = UB_RECORD_PART;
	f->length = ub->offer_document_bytes;
	memcpy(ub->object_digest, ub->offer_digest, UB_DIGEST);
	ub->holds_record = ub->is_compared = false;
	ub->document_bytes = f->length;
	begin(ub);
}

bool ub_fetch_component(struct unbrickd *ub, const struct unbrickd_part *part)
{
	const struct unbrickd_part *end = ub->generation.part + ub->generation.part_count;
	struct ub_fetch *f = &ub->fetch;

	while (part < end && !part->differing)
		part++;
	if (part == end)
		return false;
	f->part = part;
	f->component = part->id;
	f->length = part->length;
	ub_image_digest(ub, part, ub->object_digest);
	begin(ub);
	return true;
}

void ub_find_segment(const struct unbrickd *ub, uint32_t index, struct ub_segment *segment)
{
	const struct ub_fetch *f = &ub->fetch;
	const struct unbrickd_part *m = f->part;
	struct ub_erase_block block;

	segment->length = 0;
	if (!m) {
		segment->offset = index * UB_SLICE;
		if (segment->offset < f->length)
			segment->length = ub_min(UB_SLICE, f->length - segment->offset);
	} else {
		while (index < m->erase_blocks && !ub_differs(ub, m, index))
			index++;
		if (index < m->erase_blocks) {
			ub_find_erase_block(&m->geometry, index, &block);
			segment->offset = block.offset;
			segment->length = ub_content_bytes(m, &block);
		}
	}
	segment->index = index;
}

static int start(struct unbrickd *ub, const uint8_t *body)
{
	struct ub_fetch *f = &ub->fetch;
	uint32_t block = ub_min(ub_u16(body + UB_DATA_START_MAX_BLOCK), f->max_block);

	if (body[UB_DATA_START_COMPONENT] != f->component ||
	    ub_u32(body + UB_DATA_START_GENERATION) != ub->offer_generation ||
	    ub_u32(body + UB_DATA_START_LENGTH) != f->length ||
	    memcmp(body + UB_DATA_START_DIGEST, ub->object_digest, UB_DIGEST))
		return UNBRICKD_E_OTHER_IMAGE;
	f->ack_due = true;
	if (f->started)
		return UNBRICKD_OK;
	if (block < UB_SHORTEST_BLOCK)
		return UNBRICKD_E_SHORT_BLOCKS;
	f->started = true;
	ub_receiver_start(&ub->receiver, (uint16_t)block);
	return UNBRICKD_OK;
}

/* The slices that are whole are the document's, as soon as the last of them is there. */
static int take_slices(struct unbrickd *ub)
{
	while (ub_receiver_is_whole(&ub->receiver)) {
		const struct ub_segment *slice = &ub->receiver.head;
		uint32_t at, piece;

		for (at = 0; at < slice->length; at += piece) {
			const uint8_t *from;

			piece = slice->length - at;
			from = ub_receiver_head(&ub->receiver, at, &piece);
			memcpy(ub->document + slice->offset + at, from, piece);
		}
		if (ub_fetch_accept(ub))
			return ub_session_fetched(ub);
	}
	return UNBRICKD_OK;
}

int ub_fetch_receive(struct unbrickd *ub, const struct ub_message *m)
{
	if (m->type == UB_DATA_START)
		return start(ub, m->body);
	if (!ub->fetch.started)
		return UNBRICKD_OK;
	if (m->type == UB_DATA_END)
		ub_receiver_end(&ub->receiver, ub_u32(m->body + UB_DATA_END_REQUEST));
	else if (m->type == UB_DATA_BLOCK)
		ub_receiver_block(&ub->receiver, m);
	return !ub->fetch.part ? take_slices(ub) : UNBRICKD_OK;
}

bool ub_fetch_is_writable(const struct unbrickd *ub)
{
	return ub->fetch.started && ub->fetch.part && ub_receiver_is_whole(&ub->receiver);
}

bool ub_fetch_accept(struct unbrickd *ub)
{
	ub->setbacks = 0;
	ub->progress_us = ub->now_us;
	ub->payload_bytes += ub->receiver.head.length;
	ub->fetch.done++;
	ub_receiver_accept(&ub->receiver);
	if (ub->receiver.head.length)
		return false;
	ub_begin(ub, UB_DATA_END_ACK);
	ub_add(ub, 0);	/* verified */
	ub_answer(ub);
	return true;
}

static int ask(struct unbrickd *ub)
{
	const struct ub_fetch *f = &ub->fetch;
	int due = ub_repeater_poll(ub);

	if (due <= 0)
		return due;
	ub_begin(ub, UB_DATA_REQUEST);
	ub_add(ub, (uint32_t)f->component << 24 | f->max_block);
	ub_add(ub, ub->offer_generation);
	ub_add_octets(ub, ub->object_digest, UB_DIGEST);
	ub_answer(ub);
	return UNBRICKD_OK;
}

static void send_requests(struct unbrickd *ub)
{
	struct ub_receiver *r = &ub->receiver;
	uint32_t times = 1;

	if (ub->fetch.ack_due) {
		ub->fetch.ack_due = false;
		ub_begin(ub, UB_DATA_START_ACK);
		ub_add(ub, r->block_bytes << 16);	/* go on */
		ub_answer(ub);
	}
	while (times && ub_receiver_is_due(r)) {
		uint32_t i;

		times = ub_receiver_request(r);
		for (i = 0; i < times; i++)
			ub_answer(ub);
	}
}

int ub_fetch_poll(struct unbrickd *ub)
{
	struct ub_fetch *f = &ub->fetch;
	struct ub_receiver *r = &ub->receiver;
	uint32_t silent_us = (uint32_t)ub->now_us - r->quiet_since_us;

	if (f->started && r->block_bytes > SAFE_BLOCK && !r->blocks_received && silent_us > NO_FIRST_BLOCK_US) {
		/* Blocks of this length do not pass, shorter ones may (§1). */
		ub->max_message = UNBRICKD_MIN_MESSAGE;
		begin(ub);
	}
	if (!f->started)
		return ask(ub);
	if (silent_us >= SILENCE_US)
		return UNBRICKD_E_STALLED;
	send_requests(ub);
	return UNBRICKD_OK;
}
