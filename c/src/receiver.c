/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * The receiving side of a transfer, which is in charge of it: what to ask for, when, how much, and what is lost.
 *
 * The segments wanted, laid end to end, are one stream, and the buffer a ring over it: what fits the ring is asked for
 * without a pause at the end of a segment, and without a short block where the next follows. Segments are used up in
 * order, and make room as they are.
 *
 * Each block requested is outstanding until it arrives or counts as lost: when blocks requested some places later have
 * arrived (the sender keeps the order), when the sender says it has sent all, or when nothing comes for a while. Lost
 * blocks are requested again, first. Because a DataBlock names its request, a late one is told from a repeated one.
 * Knows no digests. spec/protocol.md §4.10 to §4.12 and §6; as src/unbrickd/transfer/receiver.py.
 */
#include "internal.h"

#define MIN_REORDERING 3u	/* places; as TCP's three duplicate acknowledgements (RFC 5681 §3.2) */

enum block_state { ASKED, LOST, HELD };

/* Begin at the head, with nothing of it or behind it asked for. What was asked for before does not count any more. */
static void rewind_to_head(struct ub_receiver *r)
{
	r->block_count = r->flight_count = r->lost_count = 0;
	r->released = r->asked = r->blocks_at = r->head_at;
	r->unasked = r->head;
	r->void_up_to = r->request;
}

void ub_receiver_start(struct ub_receiver *r, uint16_t block_bytes)
{
	struct ub_storage storage = r->storage;
	uint32_t largest = 0;

	memset(r, 0, sizeof(*r));
	r->storage = storage;
	for (ub_find_segment(r->storage.ub, 0, &r->head); r->head.length; ub_find_segment(r->storage.ub, r->head.index + 1, &r->head)) {
		largest = ub_max(largest, r->head.length);
		r->stream_bytes += r->head.length;
	}
	largest += ub_ahead(r->storage.ub->config);
	r->ring_bytes = ub_min(largest, r->stream_bytes);
	r->ring_blocks = ub_max(largest / block_bytes, 1);
	r->block_bytes = block_bytes;
	r->reordering_places = MIN_REORDERING;
	r->armed_us = r->quiet_since_us = (uint32_t)r->storage.ub->now_us;
	ub_find_segment(r->storage.ub, 0, &r->head);
	ub_window_start(&r->window, ub_max_window(r->storage.ub->config));
	rewind_to_head(r);
}

/* NULL: it was not asked for. `at`: where in the stream it lies. */
static struct ub_block *find_block(const struct ub_receiver *r, uint32_t offset, uint32_t *at)
{
	struct ub_block *block = r->storage.blocks;

	*at = r->blocks_at;
	for (; block < r->storage.blocks + r->block_count; block++) {
		if (block->offset == offset)
			return block;
		*at += block->length;
	}
	return NULL;
}

/* Where in the ring that byte of the stream lies; `length`: of those wanted, how many lie there in one piece. */
static uint8_t *ring_at(const struct ub_receiver *r, uint32_t at, uint32_t *length)
{
	uint32_t within = at % r->ring_bytes;

	*length = ub_min(*length, r->ring_bytes - within);
	return r->storage.ring + within;
}

uint8_t *ub_receiver_head(const struct ub_receiver *r, uint32_t offset, uint32_t *length)
{
	return ring_at(r, r->head_at + offset, length);
}

bool ub_receiver_is_whole(const struct ub_receiver *r)
{
	const struct ub_block *block = r->storage.blocks, *end = block + r->block_count;
	uint32_t at = r->blocks_at;

	for (; block < end && block->state == HELD; block++) {
		at += block->length;
		if (at >= r->head_at + r->head.length)
			return true;
	}
	return false;
}

void ub_receiver_accept(struct ub_receiver *r)
{
	const struct ub_block *block = r->storage.blocks;

	r->released = r->head_at += r->head.length;
	for (; r->block_count && r->blocks_at + block->length <= r->head_at; block++, r->block_count--)
		r->blocks_at += block->length;
	memmove(r->storage.blocks, block, r->block_count * sizeof(*block));
	ub_find_segment(r->storage.ub, r->head.index + 1, &r->head);
}

void ub_receiver_reject(struct ub_receiver *r)
{
	rewind_to_head(r);
}

/* Removes the flight of that block; false if it has none. */
static bool take_flight(struct ub_receiver *r, uint32_t offset, struct ub_flight *flight)
{
	uint32_t i;

	for (i = 0; i < r->flight_count; i++) {
		if (r->storage.flights[i].offset != offset)
			continue;
		*flight = r->storage.flights[i];
		r->flight_count--;
		memmove(r->storage.flights + i, r->storage.flights + i + 1, (r->flight_count - i) * sizeof(*flight));
		return true;
	}
	return false;
}

/* Returns its place. */
static uint32_t give_up_oldest(struct ub_receiver *r)
{
	struct ub_flight *flight = &r->given_up[r->given_up_count++ % UB_MAX_GIVEN_UP];
	uint32_t at;

	take_flight(r, r->storage.flights[0].offset, flight);
	find_block(r, flight->offset, &at)->state = LOST;
	r->lost_count++;
	return flight->place;
}

/* Whether there is a block that was never asked for, and room for it; its length, if so much is unasked. */
static uint32_t next_length(const struct ub_receiver *r, uint32_t unasked)
{
	uint32_t length = ub_min(unasked, r->block_bytes);

	return r->asked + length - r->released <= r->ring_bytes && r->block_count < r->storage.block_room ? length : 0;
}

static void sample(struct ub_receiver *r, const struct ub_flight *flight)
{
	ub_window_arrived(&r->window, flight->place, (uint32_t)r->storage.ub->now_us - flight->asked_us,
			  flight->outstanding, r->lost_count || next_length(r, r->unasked.length));
}

/* It had counted as lost and comes all the same: the network reorders by more than was thought. */
static void learn_from_late(struct ub_receiver *r, uint32_t offset, uint16_t request)
{
	uint32_t i;

	for (i = 0; i < ub_min(r->given_up_count, UB_MAX_GIVEN_UP); i++) {
		const struct ub_flight *flight = &r->given_up[i];

		if (flight->offset != offset || flight->request != request)
			continue;
		if (r->newest_place > flight->place)
			r->reordering_places = ub_max(r->reordering_places, r->newest_place - flight->place);
		r->reordering_places = ub_min(r->reordering_places, ub_max(r->window.max_blocks, MIN_REORDERING));
		sample(r, flight);
		return;
	}
}

/* Round trip, order and losses, from one new block. */
static void learn(struct ub_receiver *r, uint32_t offset, uint16_t request)
{
	struct ub_flight flight;

	if (!take_flight(r, offset, &flight) || flight.request != request) {
		learn_from_late(r, offset, request);
		return;
	}
	r->newest_place = ub_max(r->newest_place, flight.place + 1);
	sample(r, &flight);
	while (r->flight_count && r->storage.flights[0].place + r->reordering_places < r->newest_place)
		ub_window_lost(&r->window, give_up_oldest(r));
}

void ub_receiver_block(struct ub_receiver *r, const struct ub_message *m)
{
	uint32_t request = ub_u32(m->body + UB_DATA_BLOCK_REQUEST), offset = ub_u32(m->body + UB_DATA_BLOCK_OFFSET);
	uint32_t length = m->length - UB_DATA_BLOCK_PAYLOAD, piece = length;
	const uint8_t *payload = m->body + UB_DATA_BLOCK_PAYLOAD;
	struct ub_block *block;
	uint8_t *to;
	uint32_t at;

	block = find_block(r, offset, &at);
	if (!block || length != block->length || block->state == HELD || request <= r->void_up_to ||
	    request > r->request)
		return;
	to = ring_at(r, at, &piece);
	memcpy(to, payload, piece);
	memcpy(r->storage.ring, payload + piece, length - piece);
	if (block->state == LOST)
		r->lost_count--;
	block->state = HELD;
	r->blocks_received++;
	r->armed_us = r->quiet_since_us = (uint32_t)r->storage.ub->now_us;
	learn(r, offset, (uint16_t)request);
}

void ub_receiver_end(struct ub_receiver *r, uint32_t request)
{
	if (request > r->end_request && request <= r->request) {
		r->end_request = request;
		r->end_us = (uint32_t)r->storage.ub->now_us + ub_window_reordering_us(&r->window);
	}
}

/* How long until then, of times that are no half hour apart; 0 if it is past. */
static uint32_t until(const struct ub_receiver *r, uint32_t then_us)
{
	uint32_t left_us = then_us - (uint32_t)r->storage.ub->now_us;

	return left_us < 1u << 31 ? left_us : 0;
}

static uint32_t until_timeout(const struct ub_receiver *r)
{
	return until(r, r->armed_us + ub_window_timeout_us(&r->window));
}

static void expire(struct ub_receiver *r)
{
	if (r->flight_count && !until_timeout(r)) {
		r->reordering_places = ub_max(r->reordering_places / 2, MIN_REORDERING);
		while (r->flight_count)
			give_up_oldest(r);
		ub_window_timed_out(&r->window);
	}
	if (r->end_request && !until(r, r->end_us)) {
		while (r->flight_count && (int16_t)(r->storage.flights[0].request - r->end_request) <= 0)
			ub_window_lost(&r->window, give_up_oldest(r));
		r->end_request = 0;
	}
}

static uint32_t batch_of(const struct ub_receiver *r)
{
	return ub_window_batch(&r->window, r->ring_blocks);
}

/* How many blocks the ring has room for and that are to be asked for. */
static uint32_t takes_of(const struct ub_receiver *r)
{
	uint32_t left = r->stream_bytes - r->asked, free = r->released + r->ring_bytes - r->asked;

	if (!next_length(r, r->unasked.length))
		return r->lost_count;
	return r->lost_count + ub_pieces(ub_min(left, free), r->block_bytes);
}

/* How many can be asked for now: the window has room for them as well. */
static uint32_t room_of(const struct ub_receiver *r)
{
	uint32_t blocks = ub_window_blocks(&r->window);

	return blocks > r->flight_count ? ub_min(takes_of(r), blocks - r->flight_count) : 0;
}

bool ub_receiver_is_due(struct ub_receiver *r)
{
	uint32_t wanted;

	if (!r->flight_count)
		r->quiet_since_us = (uint32_t)r->storage.ub->now_us;
	expire(r);
	wanted = takes_of(r);
	/* Only what is whole is written, and makes room in the ring. */
	if (ub_receiver_is_whole(r))
		wanted = r->lost_count + ub_pieces(r->stream_bytes - r->asked, r->block_bytes);
	else if (!r->flight_count)
		return true;
	return wanted && room_of(r) >= ub_min(wanted, batch_of(r));
}

/* Takes the next block to ask for: lost ones, then new ones. NULL: there is none, or no room for it. */
static struct ub_block *next_wanted(struct ub_receiver *r)
{
	struct ub_block *block = r->storage.blocks;
	uint32_t length = next_length(r, r->unasked.length), longer;
	struct ub_segment next;

	if (r->lost_count) {
		while (block->state != LOST)
			block++;
		r->lost_count--;
	} else if (length) {
		/* The block at the end of a segment goes on with the next, if that follows and there is room. */
		while (r->unasked.length < r->block_bytes) {
			ub_find_segment(r->storage.ub, r->unasked.index + 1, &next);
			longer = next_length(r, r->unasked.length + next.length);
			if (!next.length || next.offset != r->unasked.offset + r->unasked.length || !longer)
				break;
			r->unasked.length += next.length;
			r->unasked.index = next.index;
			length = longer;
		}
		block += r->block_count++;
		block->offset = r->unasked.offset;
		block->length = (uint16_t)length;
		r->asked += length;
		r->unasked.offset += length;
		r->unasked.length -= length;
		if (!r->unasked.length)
			ub_find_segment(r->storage.ub, r->unasked.index + 1, &r->unasked);
	} else {
		return NULL;
	}
	block->state = ASKED;
	return block;
}

uint32_t ub_receiver_request(struct ub_receiver *r)
{
	uint32_t room = room_of(r), ranges = 0, end = 0;
	uint8_t *head = r->storage.ub->writer.octets + UB_HEADER, *size = head;
	const struct ub_block *block;
	bool limited = room < takes_of(r);

	/* By halves: blocks of a busy server come many at once, and requests are what costs it. */
	room = ub_min(room, ub_max(batch_of(r), ub_pieces(room, 2)));
	ub_begin(r->storage.ub, UB_BLOCK_REQUEST);
	ub_add(r->storage.ub, r->request + 1);
	ub_add(r->storage.ub, 0);
	for (; room && ranges < UB_MAX_RANGES && (block = next_wanted(r)) != NULL; room--) {
		struct ub_flight *flight = &r->storage.flights[r->flight_count++];

		flight->offset = block->offset;
		flight->place = r->window.next_place++;
		flight->request = (uint16_t)(r->request + 1);
		flight->asked_us = (uint32_t)r->storage.ub->now_us;
		flight->outstanding = limited ? (uint16_t)r->flight_count : 0;
		if (ranges && block->offset == end) {
			ub_put_u32(size, ub_u32(size) + block->length);
		} else {
			ranges++;
			ub_add(r->storage.ub, block->offset);
			size = r->storage.ub->writer.octets + r->storage.ub->writer.length;
			ub_add(r->storage.ub, block->length);
		}
		/* A range ends with a block that is shorter: none of the others is. */
		end = block->length == r->block_bytes ? block->offset + block->length : 0;
	}
	if (!ranges)
		return 0;
	r->request++;
	r->armed_us = (uint32_t)r->storage.ub->now_us;
	/* last; if our ring is full, it has no place for the DataEnd */
	head[4] = !r->lost_count && r->asked == r->stream_bytes && r->flight_count != r->storage.ub->config->ring_frames;
	head[5] = (uint8_t)ranges;
	return ub_window_is_lossy(&r->window) ? 2 : 1;
}

uint64_t ub_receiver_timer(const struct ub_receiver *r)
{
	uint32_t wait_us = until_timeout(r);

	if (!r->flight_count)
		return UNBRICKD_NEVER;
	if (r->end_request)
		wait_us = ub_min(wait_us, until(r, r->end_us));
	return r->storage.ub->now_us + wait_us;
}
