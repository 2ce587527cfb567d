/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* A request sent at once, then after 0.25 s, doubling to 2 s, a number of times: spec/protocol.md §6. */
#include "internal.h"

#define LONGEST_WAIT (2 * UB_SECOND)

uint32_t ub_since(uint64_t now_us, uint64_t then_us)
{
	if (now_us <= then_us)
		return 0;
	return now_us - then_us > UINT32_MAX ? UINT32_MAX : (uint32_t)(now_us - then_us);
}

void ub_repeater_start(struct ub_repeater *r, uint64_t now_us, uint8_t tries)
{
	r->due_us = now_us;
	r->wait_us = UB_FIRST_WAIT;
	r->left = tries;
}

bool ub_repeater_due(const struct ub_repeater *r, uint64_t now_us)
{
	return r->left && now_us >= r->due_us;
}

bool ub_repeater_exhausted(const struct ub_repeater *r, uint64_t now_us)
{
	return !r->left && now_us >= r->due_us;
}

void ub_repeater_sent(struct ub_repeater *r, uint64_t now_us, uint32_t jitter)
{
	r->due_us = now_us + r->wait_us / 5 * 4 + r->wait_us / 5 * 2 * jitter / (2 * UB_NO_JITTER);
	r->wait_us = ub_min(2 * r->wait_us, LONGEST_WAIT);
	if (r->left != UB_FOR_EVER)
		r->left--;
}
