/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * The receiving side of a transfer, which is in charge of it: what to ask for, when, how much, and what is lost.
 *
 * Each block requested is outstanding until it arrives or counts as lost: when blocks requested some places later have
 * arrived (the sender keeps the order), when the sender says it has sent all, or when nothing comes for a while. Lost
 * blocks are requested again, first. Because a DataBlock names its request, a late one is told from a repeated one.
 * Knows no digests. spec/protocol.md §4.10 to §4.12 and §6; as src/unbrickd/transfer/receiver.py.
 */
#include "internal.h"

#define MIN_REORDERING 3u	/* places; as TCP's three duplicate acknowledgements (RFC 5681 §3.2) */
#define BATCHES 4u		/* requests in a window: few, but so many that the loss of one leaves others */

enum block_state { UNASKED, ASKED, LOST, HELD };

void ub_receiver_start(struct ub_receiver *r, uint16_t block_bytes, uint32_t max_window, uint64_t now_us)
{
	uint8_t *states = r->states;
	struct ub_flight *flights = r->flights;

	memset(r, 0, sizeof(*r));
	r->states = states;
	r->flights = flights;
	r->block_bytes = block_bytes;
	r->reordering_places = MIN_REORDERING;
	r->armed_us = r->quiet_since_us = now_us;
	ub_window_start(&r->window, max_window);
}

void ub_receiver_open(struct ub_receiver *r, uint8_t *to, uint32_t offset, uint32_t length, bool more)
{
	r->to = to;
	r->offset = offset;
	r->length = length;
	r->more = more;
	r->block_count = r->missing = ub_pieces(length, r->block_bytes);
	r->unasked_from = r->lost_count = r->given_up_count = 0;
	r->lost_from = r->block_count;
	memset(r->states, UNASKED, r->block_count);
}

static uint32_t block_length(const struct ub_receiver *r, uint32_t block)
{
	return ub_min(r->block_bytes, r->length - block * r->block_bytes);
}

/* Removes the flight of that block; false if it has none. */
static bool take_flight(struct ub_receiver *r, uint32_t block, struct ub_flight *flight)
{
	uint32_t i;

	for (i = 0; i < r->flight_count; i++) {
		if (r->flights[i].block != block)
			continue;
		*flight = r->flights[i];
		r->flight_count--;
		memmove(r->flights + i, r->flights + i + 1, (r->flight_count - i) * sizeof(*flight));
		return true;
	}
	return false;
}

static void give_up_oldest(struct ub_receiver *r)
{
	struct ub_flight flight;

	take_flight(r, r->flights[0].block, &flight);
	r->given_up[r->given_up_count++ % UB_MAX_GIVEN_UP] = flight;
	r->states[flight.block] = LOST;
	r->lost_count++;
	r->lost_from = ub_min(r->lost_from, flight.block);
	ub_window_lost(&r->window);
}

static void sample(struct ub_receiver *r, const struct ub_flight *flight, uint64_t now_us)
{
	struct ub_arrival arrival;

	arrival.place = flight->place;
	arrival.next_place = r->places;
	arrival.rtt_us = (uint32_t)now_us - flight->asked_us;
	arrival.limited = r->lost_count || r->unasked_from < r->block_count;
	ub_window_arrived(&r->window, &arrival, now_us);
}

/* It had counted as lost and comes all the same: the network reorders by more than was thought. */
static void learn_from_late(struct ub_receiver *r, uint32_t block, uint32_t request, uint64_t now_us)
{
	uint32_t i;

	for (i = 0; i < ub_min(r->given_up_count, UB_MAX_GIVEN_UP); i++) {
		const struct ub_flight *flight = &r->given_up[i];

		if (flight->block != block || flight->request != request)
			continue;
		if (r->newest_place > flight->place)
			r->reordering_places = ub_max(r->reordering_places, r->newest_place - flight->place);
		r->reordering_places = ub_min(r->reordering_places, ub_max(r->window.max_blocks, MIN_REORDERING));
		sample(r, flight, now_us);
		return;
	}
}

/* Round trip, order and losses, from one new block. */
static void learn(struct ub_receiver *r, uint32_t block, uint32_t request, uint64_t now_us)
{
	struct ub_flight flight;

	if (!take_flight(r, block, &flight) || flight.request != request) {
		learn_from_late(r, block, request, now_us);
		return;
	}
	r->newest_place = ub_max(r->newest_place, flight.place + 1);
	sample(r, &flight, now_us);
	while (r->flight_count && r->flights[0].place + r->reordering_places < r->newest_place)
		give_up_oldest(r);
}

bool ub_receiver_block(struct ub_receiver *r, uint32_t request, uint32_t offset, const uint8_t *payload,
		       uint32_t length, uint64_t now_us)
{
	uint32_t block;

	if (!r->missing || !request || request > r->request || offset < r->offset || offset - r->offset >= r->length)
		return false;
	block = (offset - r->offset) / r->block_bytes;
	if ((offset - r->offset) % r->block_bytes || length != block_length(r, block) ||
	    (r->states[block] != ASKED && r->states[block] != LOST))
		return false;
	memcpy(r->to + (offset - r->offset), payload, length);
	if (r->states[block] == LOST)
		r->lost_count--;
	r->states[block] = HELD;
	r->missing--;
	r->blocks_received++;
	r->armed_us = r->quiet_since_us = now_us;
	learn(r, block, request, now_us);
	return !r->missing;
}

void ub_receiver_end(struct ub_receiver *r, uint32_t request, uint64_t now_us)
{
	if (request > r->end_request && request <= r->request) {
		r->end_request = request;
		r->end_us = now_us + ub_window_reordering_us(&r->window);
	}
}

static void expire(struct ub_receiver *r, uint64_t now_us)
{
	if (r->flight_count && now_us >= r->armed_us + ub_window_timeout_us(&r->window)) {
		r->reordering_places = ub_max(r->reordering_places / 2, MIN_REORDERING);
		while (r->flight_count)
			give_up_oldest(r);
		ub_window_timed_out(&r->window);
	}
	if (r->end_request && now_us >= r->end_us) {
		while (r->flight_count && r->flights[0].request <= r->end_request)
			give_up_oldest(r);
		r->end_request = 0;
	}
}

static uint32_t batch_of(const struct ub_receiver *r)
{
	return ub_pieces(ub_window_blocks(&r->window), BATCHES);
}

static uint32_t room_of(const struct ub_receiver *r)
{
	uint32_t blocks = ub_window_blocks(&r->window);

	return blocks > r->flight_count ? blocks - r->flight_count : 0;
}

bool ub_receiver_is_due(struct ub_receiver *r, uint64_t now_us)
{
	uint32_t wanted, room;

	if (!r->flight_count && !r->lost_count)
		r->quiet_since_us = now_us;
	expire(r, now_us);
	wanted = r->lost_count + r->block_count - r->unasked_from;
	room = room_of(r);
	return !r->flight_count || room >= batch_of(r) || wanted <= room;
}

/* Takes the next block to ask for: lost ones, then new ones. False: there is none. */
static bool next_wanted(struct ub_receiver *r, uint32_t *block)
{
	if (r->lost_count) {
		while (r->states[r->lost_from] != LOST)
			r->lost_from++;
		*block = r->lost_from++;
		r->lost_count--;
	} else if (r->unasked_from < r->block_count) {
		*block = r->unasked_from++;
	} else {
		return false;
	}
	r->states[*block] = ASKED;
	return true;
}

uint32_t ub_receiver_request(struct unbrickd *ub)
{
	struct ub_receiver *r = &ub->receiver;
	uint32_t room = ub_min(room_of(r), batch_of(r)), ranges = 0, end = 0, block;
	uint8_t *head = ub->writer.octets + UB_HEADER, *size = head;

	ub_begin(ub, UB_BLOCK_REQUEST);
	ub_add(ub, r->request + 1, 4);
	ub_add(ub, 0, 4);
	while (room && ranges < UB_MAX_RANGES && next_wanted(r, &block)) {
		uint32_t offset = r->offset + block * r->block_bytes, length = block_length(r, block);
		struct ub_flight *flight = &r->flights[r->flight_count++];

		flight->block = (uint16_t)block;
		flight->place = r->places++;
		flight->request = r->request + 1;
		flight->asked_us = (uint32_t)ub->now_us;
		room--;
		if (ranges && offset == end) {
			ub_put_u32(size, ub_u32(size) + length);
		} else {
			ranges++;
			ub_add(ub, offset, 4);
			size = ub->writer.octets + ub->writer.length;
			ub_add(ub, length, 4);
		}
		end = offset + length;
	}
	if (!ranges)
		return 0;
	r->request++;
	r->armed_us = ub->now_us;
	head[4] = !r->lost_count && r->unasked_from == r->block_count && !r->more;	/* last */
	head[5] = (uint8_t)ranges;
	return ub_window_is_lossy(&r->window) ? 2 : 1;
}

uint64_t ub_receiver_timer(const struct ub_receiver *r)
{
	uint64_t due_us = r->armed_us + ub_window_timeout_us(&r->window);

	if (!r->flight_count)
		return UNBRICKD_NEVER;
	return r->end_request && r->end_us < due_us ? r->end_us : due_us;
}
