/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* A request sent at once, then after a first wait, doubling to 2 s, a number of times: spec/protocol.md §6. */
#include "internal.h"

void ub_repeater_start(struct unbrickd *ub, uint64_t due_us, uint8_t tries)
{
	ub->repeater.due_us = due_us;
	ub->repeater.wait_us = tries == UB_FOR_EVER ? UB_PROBE_WAIT : ub->server.wait_us;
	ub->repeater.left = tries;
}

int ub_repeater_poll(struct unbrickd *ub)
{
	struct ub_repeater *r = &ub->repeater;
	uint8_t random;
	uint32_t twice = 255;

	if (ub->now_us < r->due_us)
		return 0;
	if (!r->left)
		return UNBRICKD_E_SILENT;
	if (r->left == UB_FOR_EVER) {
		/* A wait of 80 to 120 %, so that a street does not ask in step. */
		ub->io->random(ub->config->app, &random, 1);
		twice = 2u * random;
	} else {
		r->left--;
	}
	r->due_us = ub->now_us + r->wait_us / 5 * 4 + r->wait_us / 5 * 2 * twice / (2 * 255);
	r->wait_us = ub_min(2 * r->wait_us, UB_LONGEST_WAIT);
	return 1;
}
