/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* What is told of the restore, to be filled by whoever tells it. */
#include "internal.h"

struct unbrickd_event *ub_event(struct unbrickd *ub, enum unbrickd_event_kind kind, const struct unbrickd_peer *server)
{
	memset(&ub->event, 0, sizeof(ub->event));
	ub->event.kind = kind;
	ub->event.server = server;
	ub->event.generation = &ub->generation;
	return &ub->event;
}
