/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * Finding a server: Probe until a Probe-Ack comes, then choose. Whatever servers do, they cause no Probe within 0.25 s of
 * the last, and everything kept of them is bounded. spec/protocol.md §1, §4.1, §4.2 and §6.
 */
#include "internal.h"

#define PROBE_GAP_US (250 * 1000u)	/* between Probes at least, when something else than silence calls for it */
#define COLLECT_US (300 * 1000u)	/* before a server is taken that may not be the best */
#define MAX_AVOID_S 120	/* however long it asks to be left alone: it may be the only one, and it may not be true */
#define PURPOSE_RESTORE 2

static bool same_peer(const struct unbrickd_peer *a, const struct unbrickd_peer *b)
{
	return !memcmp(a->octets, b->octets, sizeof(a->octets));
}

static bool holds_device(const struct ub_server *server)
{
	return server->ack[UB_PROBE_ACK_FLAGS] & UB_HOLDS_DEVICE;
}

static uint64_t earliest_probe(const struct unbrickd *ub)
{
	return ub->discovery.probe_us > ub->now_us ? ub->discovery.probe_us : ub->now_us;
}

void ub_discovery_restart(struct unbrickd *ub)
{
	struct ub_discovery *d = &ub->discovery;

	d->found_count = d->holding_count = 0;
	ub->io->random(ub->config->app, d->nonce, UB_NONCE);
	ub_repeater_start(ub, earliest_probe(ub), UB_FOR_EVER);
}

/* Whether that one is to be left alone for now; NULL: any. */
static bool is_avoided(const struct unbrickd *ub, const struct unbrickd_peer *peer)
{
	const struct ub_avoided *entry = ub->discovery.avoided;

	for (; entry < ub->discovery.avoided + UB_MAX_AVOIDED; entry++) {
		if (entry->until_us > ub->now_us && (!peer || same_peer(&entry->peer, peer)))
			return true;
	}
	return false;
}

void ub_discovery_avoid(struct unbrickd *ub, const struct unbrickd_peer *peer, uint32_t for_s)
{
	struct ub_avoided *entry = ub->discovery.avoided, *other = entry;

	/* Its own entry, or the one that is the first to be forgiven, or free. */
	for (; other < ub->discovery.avoided + UB_MAX_AVOIDED; other++) {
		bool is_own = same_peer(&other->peer, peer);

		if (is_own || other->until_us < entry->until_us)
			entry = other;
		if (is_own)
			break;
	}
	entry->peer = *peer;
	entry->until_us = ub->now_us + (uint64_t)ub_min(for_s, MAX_AVOID_S) * UB_SECOND;
}

static void take_announce(struct unbrickd *ub, const struct unbrickd_peer *peer)
{
	struct ub_discovery *d = &ub->discovery;
	struct unbrickd_peer *entry = d->announced, *end = entry + d->announced_count;

	while (entry < end && !same_peer(entry, peer))
		entry++;
	if (entry == end) {
		if (!d->found_count && ub->repeater.due_us > earliest_probe(ub))
			ub->repeater.due_us = earliest_probe(ub);
		if (d->announced_count < UB_MAX_ANNOUNCED) {
			d->announced_count++;
			end++;
		} else {
			entry = d->announced;
		}
	}
	/* The latest last: this one moves there, or the first makes room for it. */
	for (end--; entry < end; entry++)
		*entry = entry[1];
	*end = *peer;
}

static void take_probe_ack(struct unbrickd *ub, const struct unbrickd_peer *peer, const uint8_t *body)
{
	struct ub_discovery *d = &ub->discovery;
	struct ub_server *server;

	if (is_avoided(ub, peer) || d->found_count == UB_MAX_FOUND)
		return;
	if (body[UB_PROBE_ACK_FLAGS] & UB_IS_BUSY) {
		ub_discovery_avoid(ub, peer, ub_max(1, ub_u16(body + UB_PROBE_ACK_RETRY_S)));
		return;
	}
	for (server = d->found; server < d->found + d->found_count; server++) {
		if (same_peer(&server->peer, peer) ||
		    !memcmp(server->ack + UB_PROBE_ACK_SERVER_ID, body + UB_PROBE_ACK_SERVER_ID, UB_SERVER_ID))
			return;
	}
	if (!d->found_count++)
		ub->repeater.due_us = ub->now_us + COLLECT_US;
	server->peer = *peer;
	/* RFC 6298 §2.2, with bounds, if it answered the last Probe. */
	server->wait_us = UB_FIRST_WAIT;
	if (body[UB_PROBE_ACK_NONCE + UB_NONCE - 1] == d->nonce[UB_NONCE - 1])
		server->wait_us = ub_min(ub_max(3 * ((uint32_t)(ub->now_us - d->probe_us) + PROBE_GAP_US), UB_SHORTEST_WAIT),
					 UB_LONGEST_WAIT);
	memcpy(server->ack, body, sizeof(server->ack));
	d->holding_count += holds_device(server);
	/*
	 * One that holds this device is chosen at once. But where servers had to be avoided, the choice is made at random
	 * among those that answer: one that answers first and never helps must not be chosen each time.
	 */
	if (holds_device(server) && !is_avoided(ub, NULL))
		ub->repeater.due_us = ub->now_us;
}

void ub_discovery_receive(struct unbrickd *ub, const struct unbrickd_peer *peer, const struct ub_message *m)
{
	const uint8_t *body = m->body;

	if (m->type == UB_ANNOUNCE && body[UB_ANNOUNCE_LOWEST] <= UB_PROTOCOL_VERSION &&
	    body[UB_ANNOUNCE_HIGHEST] >= UB_PROTOCOL_VERSION)
		take_announce(ub, peer);
	else if (m->type == UB_PROBE_ACK && body[UB_PROBE_ACK_VERSION] == UB_PROTOCOL_VERSION &&
		 !memcmp(body + UB_PROBE_ACK_NONCE, ub->discovery.nonce, UB_NONCE - 1))
		take_probe_ack(ub, peer, body);
}

/* At random, among those that hold this device if there are any. */
static const struct ub_server *choose(struct unbrickd *ub)
{
	const struct ub_discovery *d = &ub->discovery;
	const struct ub_server *server = d->found;
	uint8_t random, skip;

	ub->io->random(ub->config->app, &random, 1);
	skip = (uint8_t)(random % (d->holding_count ? d->holding_count : d->found_count));
	while ((d->holding_count && !holds_device(server)) || skip--)
		server++;
	return server;
}

/* Whether Probes go there anyway. */
static bool is_target(const struct unbrickd_config *config, const struct unbrickd_peer *peer)
{
	uint32_t i;

	for (i = 0; i < config->target_count; i++) {
		if (same_peer(&config->targets[i], peer))
			return true;
	}
	return false;
}

static void probe(struct unbrickd *ub)
{
	const struct unbrickd_config *config = ub->config;
	struct ub_discovery *d = &ub->discovery;
	uint32_t i;

	d->probe_us = ub->now_us + PROBE_GAP_US;
	d->nonce[UB_NONCE - 1]++;
	ub_begin(ub, UB_PROBE);
	ub_add_octets(ub, ub->identity.device_id, UB_DEVICE_ID);
	ub_add_octets(ub, d->nonce, UB_NONCE);
	ub_add(ub, PURPOSE_RESTORE << 24 | UB_PROTOCOL_VERSION << 16 | UB_PROTOCOL_VERSION << 8);
	ub_add(ub, (uint32_t)config->max_message_bytes << 16 | config->ring_frames);
	for (i = 0; i < config->target_count; i++)
		ub_send(ub, &config->targets[i]);
	for (i = 0; i < d->announced_count; i++) {
		if (!is_target(config, &d->announced[i]))
			ub_send(ub, &d->announced[i]);
	}
}

const struct ub_server *ub_discovery_poll(struct unbrickd *ub)
{
	struct ub_discovery *d = &ub->discovery;

	if (d->found_count)
		return ub->now_us >= ub->repeater.due_us ? choose(ub) : NULL;
	if (ub_repeater_poll(ub))
		probe(ub);
	return NULL;
}
