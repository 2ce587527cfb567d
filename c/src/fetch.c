/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * Fetching one object: from DataRequest until its last segment was accepted; erase blocks into ub->erase_block, slices
 * of the document into ub->document. In charge of the transfer, as receivers are. Verifies nothing.
 * spec/protocol.md §4.7 to §4.13 and §5.1.
 */
#include "internal.h"

#define SLICE 4096u
#define SILENCE_US (10 * UB_SECOND)	/* a server that sends no block for so long has gone */
#define NO_FIRST_BLOCK_US (1500 * 1000u)	/* after this without any block, blocks are made to fit a 1280-byte path */
#define SAFE_BLOCK (UNBRICKD_MIN_MESSAGE - UB_BLOCK_OVERHEAD)

static void begin(struct unbrickd *ub)
{
	struct ub_fetch *f = &ub->fetch;

	ub->transfer = ub->transfer == 0xFFFF ? 1 : (uint16_t)(ub->transfer + 1);
	f->transfer = ub->transfer;
	f->max_block = (uint16_t)(ub_min(ub->server.max_message, ub->max_message) - UB_BLOCK_OVERHEAD);
	f->started = f->ack_due = false;
	f->done = f->rejected = 0;
	ub_repeater_start(&f->repeater, ub->now_us, UB_TRIES);
	ub->state = UB_FETCHING;
}

void ub_fetch_document(struct unbrickd *ub)
{
	struct ub_fetch *f = &ub->fetch;

	f->is_document = true;
	f->component = UB_RECORD_PART;
	f->length = ub->offer_document_bytes;
	memcpy(f->digest, ub->offer_digest, UB_DIGEST);
	ub->holds_record = false;
	ub->document_bytes = f->length;
	begin(ub);
}

bool ub_fetch_component(struct unbrickd *ub, uint32_t part)
{
	struct ub_fetch *f = &ub->fetch;
	const struct ub_manifest *m;

	while (part < ub->generation.count && !ub->part[part].differing)
		part++;
	if (part == ub->generation.count)
		return false;
	f->is_document = false;
	f->part = part;
	m = &ub->generation.manifest[part];
	f->component = m->id;
	f->length = m->length;
	ub_image_digest(ub, m, f->digest);
	begin(ub);
	return true;
}

/* The index of the next erase block that differs, from this one on; the number of them if there is none. */
static uint32_t next_differing(const struct unbrickd *ub, uint32_t index)
{
	const struct unbrickd_part *part = &ub->part[ub->fetch.part];

	while (index < part->erase_blocks && !ub_differs(ub, ub->fetch.part, index))
		index++;
	return index;
}

static void open_segment(struct unbrickd *ub)
{
	struct ub_fetch *f = &ub->fetch;

	if (f->is_document) {
		uint32_t offset = f->index * SLICE, length = ub_min(SLICE, f->length - offset);

		ub_receiver_open(&ub->receiver, ub->document + offset, offset, length, offset + length < f->length);
	} else {
		const struct ub_manifest *m = &ub->generation.manifest[f->part];
		const struct unbrickd_component *component = ub_find_component(ub, m->id);
		struct ub_erase_block block = ub_find_erase_block(&component->geometry, f->index);

		ub_receiver_open(&ub->receiver, ub->erase_block, block.offset, ub_content_bytes(m, block),
				 next_differing(ub, f->index + 1) < m->erase_blocks);
	}
}

static void open_first_segment(struct unbrickd *ub)
{
	ub->fetch.index = ub->fetch.is_document ? 0 : next_differing(ub, 0);
	open_segment(ub);
}

bool ub_fetch_accept(struct unbrickd *ub)
{
	struct ub_fetch *f = &ub->fetch;

	f->done++;
	if (!ub->receiver.more)
		return true;
	f->index = f->is_document ? f->index + 1 : next_differing(ub, f->index + 1);
	open_segment(ub);
	return false;
}

void ub_fetch_again(struct unbrickd *ub)
{
	ub->fetch.rejected++;
	open_segment(ub);
}

static int start(struct unbrickd *ub, const uint8_t *body)
{
	struct ub_fetch *f = &ub->fetch;
	uint32_t block = ub_min(ub_u16(body + UB_DATA_START_MAX_BLOCK), f->max_block);

	if (body[UB_DATA_START_COMPONENT] != f->component ||
	    ub_u32(body + UB_DATA_START_GENERATION) != ub->offer_generation ||
	    ub_u32(body + UB_DATA_START_LENGTH) != f->length ||
	    memcmp(body + UB_DATA_START_DIGEST, f->digest, UB_DIGEST))
		return UNBRICKD_E_OTHER_IMAGE;
	f->ack_due = true;
	if (f->started)
		return UNBRICKD_OK;
	if (block < UB_SHORTEST_BLOCK)
		return UNBRICKD_E_SHORT_BLOCKS;
	f->started = true;
	ub_receiver_start(&ub->receiver, (uint16_t)block, ub_max_window(ub->config), ub->now_us);
	open_first_segment(ub);
	return UNBRICKD_OK;
}

int ub_fetch_receive(struct unbrickd *ub, const struct ub_message *m)
{
	if (m->type == UB_DATA_START)
		return start(ub, m->body);
	if (!ub->fetch.started)
		return UNBRICKD_OK;
	if (m->type == UB_DATA_END)
		ub_receiver_end(&ub->receiver, ub_u32(m->body + UB_DATA_END_REQUEST), ub->now_us);
	else if (m->type == UB_DATA_BLOCK &&
		 ub_receiver_block(&ub->receiver, ub_u32(m->body + UB_DATA_BLOCK_REQUEST),
				   ub_u32(m->body + UB_DATA_BLOCK_OFFSET), m->body + UB_DATA_BLOCK_PAYLOAD,
				   m->length - UB_DATA_BLOCK_PAYLOAD, ub->now_us))
		return ub_session_arrived(ub);
	return UNBRICKD_OK;
}

static void send_data_request(struct unbrickd *ub)
{
	const struct ub_fetch *f = &ub->fetch;

	ub_begin(ub, UB_DATA_REQUEST);
	ub_add(ub, f->component, 1);
	ub_add(ub, 0, 1);
	ub_add(ub, f->max_block, 2);
	ub_add(ub, ub->offer_generation, 4);
	ub_add_octets(ub, f->digest, UB_DIGEST);
	ub_answer(ub);
}

static void send_requests(struct unbrickd *ub)
{
	struct ub_receiver *r = &ub->receiver;

	if (ub->fetch.ack_due) {
		ub->fetch.ack_due = false;
		ub_begin(ub, UB_DATA_START_ACK);
		ub_add(ub, r->block_bytes, 2);
		ub_add(ub, 0, 2);
		ub_answer(ub);
	}
	if (!ub_receiver_is_due(r, ub->now_us))
		return;
	for (;;) {
		uint32_t times;

		times = ub_receiver_request(ub);
		if (!times)
			return;
		while (times--)
			ub_answer(ub);
	}
}

int ub_fetch_poll(struct unbrickd *ub)
{
	struct ub_fetch *f = &ub->fetch;
	struct ub_receiver *r = &ub->receiver;
	uint32_t silent_us = ub_since(ub->now_us, r->quiet_since_us);

	if (f->started && r->block_bytes > SAFE_BLOCK && !r->blocks_received && silent_us > NO_FIRST_BLOCK_US) {
		/* Blocks of this length do not pass, shorter ones may (§1). */
		ub->max_message = UNBRICKD_MIN_MESSAGE;
		begin(ub);
	}
	if (f->started) {
		if (silent_us >= SILENCE_US)
			return UNBRICKD_E_STALLED;
		send_requests(ub);
	} else {
		if (ub_repeater_exhausted(&f->repeater, ub->now_us))
			return UNBRICKD_E_SILENT;
		if (ub_repeater_due(&f->repeater, ub->now_us)) {
			ub_repeater_sent(&f->repeater, ub->now_us, UB_NO_JITTER);
			send_data_request(ub);
		}
	}
	return UNBRICKD_OK;
}

uint64_t ub_fetch_timer(const struct unbrickd *ub)
{
	return ub->fetch.started ? ub_receiver_timer(&ub->receiver) : ub->fetch.repeater.due_us;
}
