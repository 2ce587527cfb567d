/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * How many blocks may be outstanding, and how long until one counts as lost. Knows no clock and no blocks.
 *
 * The time: RFC 6298. The window: bounded by delay (TCP Vegas, Brakmo 1995), by the device's ring, and by loss that a
 * trial with less than half of the window shows to be an overflowing queue. As src/unbrickd/transfer/rtt.py and
 * window.py, in integers; but the ring is never exceeded, as nobody empties it while flash is written.
 */
#include "internal.h"

#define INITIAL_TIMEOUT (UB_SECOND / 4)
#define MIN_TIMEOUT 20000u	/* a LAN's round trip is below 1 ms; this leaves room for a busy PC's scheduler */
#define MAX_TIMEOUT (2 * UB_SECOND)
#define INITIAL_BLOCKS 10u	/* RFC 6928 */
#define MIN_BLOCKS 4u		/* enough for losses to show by later arrivals */
#define SLACK_US 8000u		/* queueing that is never held against the path; and in blocks, for slow paths and busy */
#define SLACK_BLOCKS 48u	/* senders */
#define LEFT_US 2500u		/* of it ends the doubling, and is left while what waits behind it is asked for */
#define SMALL_BLOCKS 32u	/* a ring that no queue between is shorter than */
#define MAX_ROUND_TRIP (4 * UB_SECOND)	/* longer ones count as this long: times 64 it fits 32 bits */
#define LOSS_MEMORY 256u	/* blocks that loss is averaged over */
#define USUAL_MEMORY 4096u	/* the usual loss is forgotten so slowly */
#define ONE_Q20 (1u << 20)
#define EXCESS_LOSS_Q20 (ONE_Q20 / 64)	/* loss over 5/4 of the usual that adds up to an alarm */
#define START_EXCESS_LOSS_Q20 (ONE_Q20 / 4)	/* while the window doubles each round */
#define ALARM_BLOCKS 1u		/* so many more lost than that, and an eighth of the window; twice that at the start */
#define EARLY_BLOCKS 16u	/* while the window doubles, no alarm comes of so few: one lost request is half of them */
#define RUN_BLOCKS 4u		/* losses so close, or within an eighth of the window, count as one: a lost request */
#define TRIAL_BLOCKS 128u
#define TRIAL_LOSSES 8u		/* a trial lasts until so many are to be expected if they are random */
#define CALM_SHIFT 13		/* 128 rounds after the last overflow the window grows by a block a round */
#define CALM_FOR_EVER 255	/* before the first: delay ended the doubling, maybe a busy host's */
#define LOSSY_Q20 (ONE_Q20 / 200)	/* from here on each request is sent twice; the sender serves it once */

static void resize(struct ub_window *w, uint32_t size_q8)
{
	w->size_q8 = ub_min(ub_max(size_q8, MIN_BLOCKS << 8), w->max_blocks << 8);
}

void ub_window_start(struct ub_window *w, uint32_t max_blocks)
{
	memset(w, 0, sizeof(*w));
	w->max_blocks = max_blocks;
	w->size_q8 = ub_min(INITIAL_BLOCKS, max_blocks) << 8;
	w->starting = true;
	w->calm_rounds = CALM_FOR_EVER;
	w->shortest_us = w->last_us = w->base_us = MAX_ROUND_TRIP;
	w->blocks_us = w->last_blocks_us = 1;
}

uint32_t ub_window_blocks(const struct ub_window *w)
{
	return w->size_q8 >> 8;
}

bool ub_window_is_lossy(const struct ub_window *w)
{
	return w->loss_q20 > LOSSY_Q20;
}

/*
 * An eighth of what may be outstanding at least, for requests to be few; five eighths at most, so that the loss of one
 * leaves others, and 48, for short queues; between them, what waits in a queue anyway. Where the device bounds what
 * comes, none waits; on a LAN half of what it takes, as nothing runs dry there.
 */
uint32_t ub_window_batch(const struct ub_window *w, uint32_t room_blocks)
{
	uint32_t blocks = ub_min(ub_window_blocks(w), room_blocks);
	uint32_t left = w->starting ? blocks : ub_min(w->left_blocks, blocks);

	if (blocks == w->max_blocks)
		return ub_pieces(blocks, w->base_us < LEFT_US && (blocks <= SMALL_BLOCKS || !ub_window_is_lossy(w)) ? 2 : 8);
	return ub_max(ub_pieces(blocks, 8), ub_min(blocks - left, ub_min(blocks * 5 / 8, SLACK_BLOCKS)));
}

static uint32_t distance(uint32_t a, uint32_t b)
{
	return a > b ? a - b : b - a;
}

static void measure(struct ub_window *w, uint32_t rtt_us)
{
	if (!w->srtt_us) {
		w->srtt_us = rtt_us;
		w->variation_us = rtt_us / 2;
	} else {
		w->variation_us = w->variation_us - w->variation_us / 4 + distance(w->srtt_us, rtt_us) / 4;
		w->srtt_us = w->srtt_us - w->srtt_us / 8 + rtt_us / 8;
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

static void forget_losses(struct ub_window *w, uint32_t from_place)
{
	w->excess_q20 = 0;
	w->counted = w->lost = 0;
	w->counts_from = from_place;
}

static uint32_t part_lost_q20(const struct ub_window *w)
{
	return (w->lost << 10) / w->counted << 10;
}

/* What of it is not lost, by the loss before the trial. */
static uint32_t fitted(const struct ub_window *w, uint32_t size_q8)
{
	return (size_q8 * ((ONE_Q20 - w->trial_loss_q20) >> 10)) >> 10;
}

static void begin_trial(struct ub_window *w)
{
	w->trial_size_q8 = w->size_q8;
	w->trial_loss_q20 = ub_min(part_lost_q20(w), ONE_Q20 / 2);
	w->trial_left = ub_min(TRIAL_BLOCKS, TRIAL_LOSSES * ONE_Q20 / w->trial_loss_q20);
	resize(w, fitted(w, w->size_q8) / 2);
	forget_losses(w, w->next_place + ub_window_blocks(w));
}

/* The counts are those of the trial. */
static void end_trial(struct ub_window *w)
{
	uint32_t loss_q20 = part_lost_q20(w), size_q8 = w->trial_size_q8;

	if (loss_q20 < w->trial_loss_q20 / 4) {
		size_q8 = fitted(w, size_q8 / 5 * 3);
		w->starting = false;
		w->calm_rounds = 0;
	}
	resize(w, size_q8);
	w->usual_loss_q20 = ub_min(loss_q20, w->trial_loss_q20);
	forget_losses(w, w->next_place + 2 * ub_window_blocks(w));
}

static void count(struct ub_window *w, uint32_t place, uint32_t lost)
{
	w->loss_q20 += lost * (ONE_Q20 / LOSS_MEMORY) - w->loss_q20 / LOSS_MEMORY;
	if (lost && !w->starting) {
		if (place < w->run_ends_at)
			return;
		w->run_ends_at = place + ub_min(RUN_BLOCKS, ub_pieces(w->size_q8, 8 << 8));
	}
	if (place < w->counts_from)
		return;
	w->counted++;
	w->lost += lost;
	if (w->trial_left) {
		if (!--w->trial_left)
			end_trial(w);
		return;
	}
	w->usual_loss_q20 -= w->usual_loss_q20 / USUAL_MEMORY;
	w->excess_q20 += (int32_t)(lost * ONE_Q20 - w->usual_loss_q20 / 4 * 5 -
				   (w->starting ? START_EXCESS_LOSS_Q20 : EXCESS_LOSS_Q20));
	if (w->excess_q20 <= 0)
		forget_losses(w, w->counts_from);
	else if ((uint32_t)w->excess_q20 >> 12 > ((ALARM_BLOCKS << 8) + w->size_q8 / 8) << w->starting) {
		if (w->starting && w->size_q8 <= EARLY_BLOCKS << 8)
			forget_losses(w, w->next_place + ub_window_blocks(w));
		else
			begin_trial(w);
	}
}

/*
 * The first of a request had few before it and says too little of how fast blocks come, none says too much. A round that
 * the window did not bound says nothing, and the next may begin with few.
 */
static void learn_rate(struct ub_window *w, uint32_t blocks, uint32_t us)
{
	if (blocks * w->blocks_us < w->blocks * us)
		return;
	w->blocks = blocks;
	w->blocks_us = us;
}

/* How many come in that time. */
static uint32_t come_q8(const struct ub_window *w, uint32_t us)
{
	return w->blocks * ub_min((us << 6) / (w->blocks_us / 16 + 1), 1 << 20) >> 2;
}

static void end_round(struct ub_window *w)
{
	uint32_t room_q8, grown_q8, shortest_us = ub_min(w->shortest_us, w->last_us);
	uint32_t blocks = w->blocks, blocks_us = w->blocks_us;
	bool limited = w->limited;

	/* With the least window the queue is our own no more: whatever the round trip is now, it is the path's. */
	if (w->size_q8 <= MIN_BLOCKS << 8 || shortest_us < w->base_us)
		w->base_us = shortest_us;
	learn_rate(w, w->last_blocks, w->last_blocks_us);
	room_q8 = w->max_blocks << 8;
	if (w->blocks) {
		room_q8 = come_q8(w, w->base_us) + ub_max(come_q8(w, SLACK_US), SLACK_BLOCKS << 8);
		w->left_blocks = come_q8(w, w->base_us + LEFT_US) >> 8;
	}
	if (shortest_us >= w->base_us + LEFT_US)
		w->starting = false;
	if (blocks) {
		w->last_blocks = blocks;
		w->last_blocks_us = blocks_us;
	}
	w->blocks = 0;
	w->blocks_us = 1;
	w->last_us = w->shortest_us;
	w->shortest_us = MAX_ROUND_TRIP;
	w->limited = false;
	if (w->starting)
		return;
	if (room_q8 < w->size_q8) {
		resize(w, room_q8);
	} else if (limited && !w->trial_left) {
		w->calm_rounds = ub_min(w->calm_rounds + 1, 255);
		grown_q8 = w->calm_rounds * w->calm_rounds * w->calm_rounds >> CALM_SHIFT;
		resize(w, ub_min(room_q8, w->size_q8 + ub_min(grown_q8, w->size_q8 / 16)));
	}
}

void ub_window_arrived(struct ub_window *w, uint32_t place, uint32_t rtt_us, uint32_t outstanding, bool limited)
{
	rtt_us = ub_min(ub_max(rtt_us, 1), MAX_ROUND_TRIP);
	if (outstanding)
		learn_rate(w, outstanding, rtt_us);
	measure(w, rtt_us);
	w->limited = w->limited || limited;
	w->shortest_us = ub_min(w->shortest_us, rtt_us);
	if (w->starting && limited && rtt_us < w->base_us + LEFT_US &&
	    w->excess_q20 < (int32_t)ONE_Q20 && !w->trial_left)
		resize(w, w->size_q8 + (1 << 8));
	count(w, place, 0);
	if (place >= w->round_ends_at) {
		end_round(w);
		w->round_ends_at = w->next_place;
	}
}

/* Later ones arrived, or the sender says it has sent all. */
void ub_window_lost(struct ub_window *w, uint32_t place)
{
	count(w, place, 1);
}

/*
 * Nothing came. Once is bad luck, or a server that serves a street, unless a queue overflowed of late; twice in a row is
 * another path, to be learnt from the start.
 */
void ub_window_timed_out(struct ub_window *w)
{
	w->trial_left = 0;
	forget_losses(w, w->next_place);
	if (w->backoff) {
		resize(w, 0);
		w->starting = true;
		w->base_us = MAX_ROUND_TRIP;
	} else if (w->calm_rounds < CALM_FOR_EVER) {
		resize(w, w->size_q8 / 2);
	}
	if (!w->backoff || ub_window_timeout_us(w) < MAX_TIMEOUT)
		w->backoff++;
}
