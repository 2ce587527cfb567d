/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * How many blocks may be outstanding, and how long until one counts as lost. Knows no clock and no blocks.
 *
 * The time: RFC 6298. The window: delay-based, after TCP Vegas (Brakmo 1995), with BBR's way out of slow start. Loss
 * alone does not shrink it, for a Wi-Fi link loses at random; loss above what the path always had does. As
 * src/unbrickd/transfer/rtt.py and window.py, in integers.
 */
#include "internal.h"

#define INITIAL_TIMEOUT (UB_SECOND / 4)
#define MIN_TIMEOUT 20000u	/* a LAN's round trip is below 1 ms; this leaves room for a busy PC's scheduler */
#define MAX_TIMEOUT (2 * UB_SECOND)
#define INITIAL_BLOCKS 10u	/* RFC 6928 */
#define MIN_BLOCKS 4u		/* enough for losses to show by later arrivals */
#define PLATEAU_ROUNDS 3	/* slow start ends after so many rounds that grew by less than a quarter */
#define SLACK_US 4000u		/* queueing that is never held against the path */
#define BASE_AGE_US (10 * UB_SECOND)	/* then the shortest round trip is measured anew */
#define LOSS_MEMORY 256u	/* blocks that loss is averaged over */
#define LEARNING 64u		/* what is lost of the first blocks is the path's usual loss */
#define ONE_Q20 (1u << 20)
#define MAX_COUNT 4095u		/* in a round: times ONE_Q20, or times UB_SECOND, it fits 32 bits */
#define EXCESS_LOSS_Q20 (ONE_Q20 / 10)	/* loss over the usual that counts as an overflowing queue */
#define LOSS_CREEP_Q20 41u	/* 1 % in 256 blocks: so slowly does lasting loss become usual */
#define LOSSY_Q20 (ONE_Q20 / 50)	/* from here on each request is sent twice; the sender serves it once */

static void resize(struct ub_window *w, uint32_t size_q8)
{
	w->size_q8 = ub_min(ub_max(size_q8, MIN_BLOCKS << 8), w->max_blocks << 8);
}

void ub_window_start(struct ub_window *w, uint32_t max_blocks)
{
	memset(w, 0, sizeof(*w));
	w->max_blocks = max_blocks;
	w->size_q8 = ub_min(INITIAL_BLOCKS, max_blocks) << 8;
	w->slow_start = true;
	w->shortest_us = w->base_us = UINT32_MAX;
}

uint32_t ub_window_blocks(const struct ub_window *w)
{
	return w->size_q8 >> 8;
}

bool ub_window_is_lossy(const struct ub_window *w)
{
	return w->loss_q20 > LOSSY_Q20;
}

static uint32_t distance(uint32_t a, uint32_t b)
{
	return a > b ? a - b : b - a;
}

static void measure(struct ub_window *w, uint32_t rtt_us)
{
	rtt_us = ub_min(ub_max(rtt_us, 1), 60 * UB_SECOND);
	if (!w->srtt_us) {
		w->srtt_us = rtt_us;
		w->variation_us = rtt_us / 2;
	} else {
		w->variation_us = w->variation_us - w->variation_us / 4 + distance(w->srtt_us, rtt_us) / 4;
		w->srtt_us = w->srtt_us - w->srtt_us / 8 + rtt_us / 8;
		w->srtt_us = ub_max(w->srtt_us, 1);
	}
	w->backoff = 0;
}

/* Doubling begins with the second silence in a row: one is often just the last block lost. */
uint32_t ub_window_timeout_us(const struct ub_window *w)
{
	uint32_t once = w->srtt_us ? w->srtt_us + 4 * w->variation_us : INITIAL_TIMEOUT;
	uint32_t doublings = w->backoff > 1 ? w->backoff - 1u : 0;

	once = ub_min(ub_max(once, MIN_TIMEOUT), MAX_TIMEOUT);
	return ub_min(once << ub_min(doublings, 7), MAX_TIMEOUT);
}

/* How much later than its successors a block may arrive and still be on its way. */
uint32_t ub_window_reordering_us(const struct ub_window *w)
{
	return ub_min(ub_max(2 * w->variation_us, MIN_TIMEOUT / 4), MAX_TIMEOUT / 4);
}

/* The loss of late: averaged. The usual loss: what it is at the start, or its floor, which creeps up. */
static void learn_loss(struct ub_window *w)
{
	uint32_t count = w->delivered + w->lost, now_q20;

	if (!count)
		return;
	w->seen = ub_min(w->seen + count, LOSS_MEMORY);
	now_q20 = w->lost * ONE_Q20 / count;
	if (count >= w->seen)
		w->loss_q20 = now_q20;
	else
		w->loss_q20 = w->loss_q20 - w->loss_q20 / w->seen * count + now_q20 / w->seen * count;
	w->usual_loss_q20 = w->seen <= LEARNING ? w->loss_q20 :
						  ub_min(w->usual_loss_q20 + LOSS_CREEP_Q20 * count, w->loss_q20);
}

static void leave_slow_start_if_full(struct ub_window *w, uint32_t took_us, bool full)
{
	uint32_t rate = w->delivered * UB_SECOND / took_us;

	w->flat_rounds = rate >= w->best_rate + w->best_rate / 4 ? 0 : (uint8_t)(w->flat_rounds + 1);
	w->best_rate = ub_max(w->best_rate, rate);
	if (full || w->flat_rounds >= PLATEAU_ROUNDS) {
		w->slow_start = false;
		resize(w, w->size_q8 / 2);
	}
}

static void end_round(struct ub_window *w, uint64_t now_us)
{
	uint32_t took_us = ub_max(ub_since(now_us, w->round_started_us), 1);
	bool learns = w->limited && w->round_started, full;

	if (w->shortest_us < w->base_us || ub_since(now_us, w->base_at_us) > BASE_AGE_US) {
		w->base_us = w->shortest_us;
		w->base_at_us = now_us;
	}
	learn_loss(w);
	if (learns) {
		full = w->shortest_us > w->base_us + w->base_us / 2 + SLACK_US ||
		       w->loss_q20 > w->usual_loss_q20 + EXCESS_LOSS_Q20;
		if (w->slow_start)
			leave_slow_start_if_full(w, took_us, full);
		else if (full)
			resize(w, w->size_q8 / 100 * 85);
		else if (w->shortest_us < w->base_us + w->base_us / 4 + SLACK_US)
			resize(w, w->size_q8 + ub_max(1 << 8, w->size_q8 / 8));
	}
	w->round_started = true;
	w->round_started_us = now_us;
	w->shortest_us = UINT32_MAX;
	w->delivered = w->lost = 0;
	w->limited = false;
}

void ub_window_arrived(struct ub_window *w, const struct ub_arrival *a, uint64_t now_us)
{
	measure(w, a->rtt_us);
	w->timeouts = 0;
	w->delivered = ub_min(w->delivered + 1, MAX_COUNT);
	w->limited = w->limited || a->limited;
	w->shortest_us = ub_min(w->shortest_us, ub_min(a->rtt_us, 60 * UB_SECOND));
	if (w->slow_start && a->limited)
		resize(w, w->size_q8 + (1 << 8));
	if (a->place >= w->round_ends_at) {
		end_round(w, now_us);
		w->round_ends_at = a->next_place;
	}
}

void ub_window_lost(struct ub_window *w)
{
	w->lost = ub_min(w->lost + 1, MAX_COUNT);
}

/* Nothing came. Once is bad luck; twice in a row is another path, to be learnt from the start. */
void ub_window_timed_out(struct ub_window *w)
{
	if (ub_window_timeout_us(w) < MAX_TIMEOUT)
		w->backoff++;
	if (!w->timeouts) {
		w->timeouts = 1;
		resize(w, w->size_q8 / 2);
		return;
	}
	resize(w, MIN_BLOCKS << 8);
	w->slow_start = true;
	w->best_rate = 0;
	w->flat_rounds = 0;
}
