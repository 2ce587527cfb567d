/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * The restore session: from the first Probe to the boot record (R18 to R23; spec/protocol.md §5.1). Writes flash as
 * erase blocks arrive, each verified first and read back after, the boot record last. Nothing a server says can make it
 * write a byte that this device did not seal, or name anything in the boot record that it may not run: the worst a
 * server can do is not to help.
 */
#include "internal.h"

#define PROGRESS_US (60 * UB_SECOND)	/* without one whole erase block: it may be doing so on purpose */
#define MAX_REJECTED 3	/* erase blocks with a wrong digest: damage on the way is rare, a hostile server is not */
#define MAX_SETBACKS 3	/* how often in a row a server is lost with nothing gained, until others get their turn */
#define MAX_WITHDRAWN 8	/* offers that one server takes back as rotten */

void ub_send(struct unbrickd *ub, const struct unbrickd_peer *to)
{
	ub_end(ub);
	if (!ub->stopped && !ub->muted)
		ub->io->send(ub->config->app, to, ub->writer.octets, ub->writer.length);
}

void ub_answer(struct unbrickd *ub)
{
	ub->stirred = true;
	ub_send(ub, &ub->server.peer);
}

static void begin_probing(struct unbrickd *ub)
{
	ub->state = UB_PROBING;
	ub->session = 0;
	ub->fetch.transfer = 0;
	ub_discovery_restart(ub);
}

void ub_session_start(struct unbrickd *ub)
{
	memset(&ub->discovery, 0, sizeof(ub->discovery));
	ub->max_message = ub->config->max_message_bytes;
	ub->setbacks = ub->withdrawn = 0;
	ub->flash_changed = false;
	ub->payload_bytes = 0;
	begin_probing(ub);
}

/* Ends. */

/* Probe again; a server that vanished or was restarted may be back at any moment. */
static void leave(struct unbrickd *ub, int why, const struct ub_message *error)
{
	struct unbrickd_event *event = ub_event(ub, UNBRICKD_SERVER_GIVEN_UP, &ub->server.peer);

	event->u.given_up.why = (enum unbrickd_error)why;
	event->u.given_up.refused = why <= UNBRICKD_E_MESSAGE;
	if (error) {
		event->u.given_up.code = ub_u16(error->body + UB_ERROR_CODE);
		event->u.given_up.text_bytes = error->body[UB_ERROR_TEXT];
		event->u.given_up.text = error->body + UB_ERROR_TEXT + 1;
	}
	ub_tell(ub);
	begin_probing(ub);
}

/* This server cannot help for now: look for another, come back to it later. */
static void give_up(struct unbrickd *ub, int why, const struct ub_message *error)
{
	uint32_t asked_s = error ? ub_u16(error->body + UB_ERROR_RETRY_S) : 0;

	ub->setbacks = 0;
	ub_discovery_avoid(ub, &ub->server.peer, asked_s ? asked_s : UB_AVOID_S);
	leave(ub, why, error);
}

static void fail(struct unbrickd *ub, int error)
{
	if (error <= UNBRICKD_E_FLASH && error > UNBRICKD_E_SILENT) {
		ub->flash_failure = error;
		ub->state = UB_IDLE;
	} else if (error <= UNBRICKD_E_SILENT && error > UNBRICKD_E_NOTHING_HELD && ub->setbacks < MAX_SETBACKS) {
		ub->setbacks++;
		leave(ub, error, NULL);
	} else {
		give_up(ub, error, NULL);
	}
}

static void begin_asking(struct unbrickd *ub)
{
	ub->state = UB_ASKING;
	ub->fetch.transfer = 0;
	ub_repeater_start(ub, ub->now_us, UB_TRIES);
}

/* The server has something else to offer, or may have. */
static int ask_again(struct unbrickd *ub)
{
	if (++ub->withdrawn > MAX_WITHDRAWN)
		return UNBRICKD_E_NOTHING_WHOLE;
	begin_asking(ub);
	return UNBRICKD_OK;
}

void ub_session_forget_transfer(struct unbrickd *ub)
{
	if (ub->state == UB_FETCHING)
		begin_asking(ub);
}

static int finish(struct unbrickd *ub)
{
	int error = ub_install_finish(ub);

	if (error)
		return error;
	ub->state = UB_IDLE;
	ub->restored = true;
	ub_event(ub, UNBRICKD_RESTORED, &ub->server.peer)->u.payload_bytes = ub->payload_bytes;
	ub_tell(ub);
	return UNBRICKD_OK;
}

/* Transfers: the document, then each component that needs erase blocks. */

static int install(struct unbrickd *ub)
{
	int error = ub_install_begin(ub);

	if (error)
		return error;
	ub->installing = true;
	return ub_fetch_component(ub, ub->generation.part) ? UNBRICKD_OK : finish(ub);
}

/* The generation in a fetched document: the one that was offered, sealed by this device. */
static int open_offered(struct unbrickd *ub)
{
	uint8_t digest[UB_DIGEST];
	int error;

	ub_sha256(ub, ub->document, ub->document_bytes, digest);
	if (memcmp(digest, ub->offer_digest, UB_DIGEST))
		return UNBRICKD_E_DOCUMENT;
	error = ub_open_document(ub);
	if (!error && ub->generation.number != ub->offer_generation)
		error = UNBRICKD_E_DOCUMENT;
	return error ? error : install(ub);
}

int ub_session_fetched(struct unbrickd *ub)
{
	if (!ub->installing)
		return open_offered(ub);
	return ub_fetch_component(ub, ub->fetch.part + 1) ? UNBRICKD_OK : finish(ub);
}

/* One step of writing the erase block at the head. */
static int write(struct unbrickd *ub)
{
	struct ub_fetch *f = &ub->fetch;
	struct unbrickd_event *event;
	int error = ub_install_step(ub);

	if (error == UNBRICKD_E_DIGEST) {
		ub_receiver_reject(&ub->receiver);
		return ++f->rejected < MAX_REJECTED ? UNBRICKD_OK : error;
	}
	if (error || !ub_install_is_written(ub))
		return error;
	f->is_writing = f->is_second_try = false;
	event = ub_event(ub, UNBRICKD_ERASE_BLOCK_RESTORED, &ub->server.peer);
	event->u.restored.part = f->part;
	event->u.restored.index = ub->receiver.head.index;
	event->u.restored.done = f->done + 1;
	ub_tell(ub);
	return ub_fetch_accept(ub) ? ub_session_fetched(ub) : UNBRICKD_OK;
}

/* The offer. */

/* Half-way back to a generation that no server has any more, the recorded one is better than nothing. */
static int take_none(struct unbrickd *ub)
{
	bool boots_as_it_is = ub->checked.bootable && !ub->flash_changed;

	if (!ub->record.loaded || ub->checked.refused || ub->checked.named || boots_as_it_is)
		return UNBRICKD_E_NOTHING_HELD;
	ub_decide(ub, UNBRICKD_DAMAGED);
	return ask_again(ub);
}

/*
 * The one gate between an untrusted server and the flash: take only the very document that the boot record names and
 * asks for, or one this device sealed as good. Its length is bounded by what record and memory can take.
 */
static int check_offer(struct unbrickd *ub, const uint8_t *offer, bool is_held)
{
	const struct unbrickd_checked *d = &ub->checked;
	uint32_t number = ub->offer_generation, length = ub->offer_document_bytes;
	uint8_t seal[UB_DIGEST];

	if (d->rejected_from <= number && number <= d->rejected_to)
		return UNBRICKD_E_REJECTED;
	if (is_held && d->named == number)
		return UNBRICKD_OK;
	ub_good_seal(ub, number, ub->offer_digest, seal);
	if (!(offer[UB_RESTORE_ACK_FLAGS] & UB_HAS_SEAL) || !ub_same(seal, offer + UB_RESTORE_ACK_SEAL, UB_DIGEST))
		return UNBRICKD_E_GOOD_SEAL;
	if (!length)
		return UNBRICKD_E_DOCUMENT;
	if (length > ub->document_room || length > ub_record_capacity(ub->half_bytes))
		return UNBRICKD_E_LAYOUT;
	return UNBRICKD_OK;
}

static int take_offer(struct unbrickd *ub, const uint8_t *offer)
{
	bool is_held;
	int error;

	ub->installing = false;
	ub->offer_generation = ub_u32(offer + UB_RESTORE_ACK_GENERATION);
	ub->offer_document_bytes = ub_u32(offer + UB_RESTORE_ACK_DOCUMENT_BYTES);
	memcpy(ub->offer_digest, offer + UB_RESTORE_ACK_DIGEST, UB_DIGEST);
	if (!ub->offer_generation)
		return take_none(ub);
	is_held = ub->record.loaded && !memcmp(ub->record.digest, ub->offer_digest, UB_DIGEST);
	error = check_offer(ub, offer, is_held);
	if (error)
		return error;
	if (!is_held) {
		ub_fetch_document(ub);
		return UNBRICKD_OK;
	}
	error = ub_record_reopen(ub);
	return error ? error : install(ub);
}

/* Messages. */

static int take_error(struct unbrickd *ub, const struct ub_message *m)
{
	switch (ub_u16(m->body + UB_ERROR_CODE)) {
	case UB_ERROR_ROTTEN:
		return ask_again(ub);
	case UB_ERROR_COOKIE:
	case UB_ERROR_NO_SESSION:
		return UNBRICKD_E_AGAIN;
	default:
		give_up(ub, UNBRICKD_E_ERROR, m);
		return UNBRICKD_OK;
	}
}

static int take(struct unbrickd *ub, const struct ub_message *m)
{
	if (m->type == UB_ERROR)
		return m->transfer == 0 || m->transfer == ub->transfer ? take_error(ub, m) : UNBRICKD_OK;
	if (m->type == UB_RESTORE_ACK)
		return ub->state == UB_ASKING ? take_offer(ub, m->body) : UNBRICKD_OK;
	if (ub->state == UB_FETCHING && m->transfer == ub->fetch.transfer)
		return ub_fetch_receive(ub, m);
	return UNBRICKD_OK;
}

void ub_session_receive(struct unbrickd *ub, const struct unbrickd_peer *from, const uint8_t *octets, uint32_t length)
{
	struct ub_message m;
	int error;

	if (ub_decode(ub, octets, length, &m))
		return;
	if (ub->state == UB_PROBING) {
		ub_discovery_receive(ub, from, &m);
	} else if (ub->state != UB_IDLE && m.session == ub->session &&
		   !memcmp(from->octets, ub->server.peer.octets, sizeof(from->octets))) {
		ub->stirred = true;
		error = take(ub, &m);
		if (error)
			fail(ub, error);
	}
}

static void open_session(struct unbrickd *ub, const struct ub_server *server)
{
	uint8_t random[4];

	ub->server = *server;
	ub->io->random(ub->config->app, random, sizeof(random));
	ub->session = ub_max(ub_u32(random), 1);
	ub->transfer = 0;
	ub->withdrawn = 0;
	ub->progress_us = ub->now_us;
	begin_asking(ub);
	ub_event(ub, UNBRICKD_SERVER_FOUND, &ub->server.peer)->u.holds_device = server->ack[UB_PROBE_ACK_FLAGS] & UB_HOLDS_DEVICE;
	ub_tell(ub);
}

static int ask(struct unbrickd *ub)
{
	int due = ub_repeater_poll(ub);

	if (due <= 0)
		return due;
	ub_begin(ub, UB_RESTORE);
	ub_add_octets(ub, ub->server.ack + UB_PROBE_ACK_COOKIE, UB_COOKIE);
	ub_add_octets(ub, ub->identity.device_id, UB_DEVICE_ID);
	ub_add(ub, ub->checked.named);
	ub_add(ub, ub->checked.rejected_from);
	ub_add(ub, ub->checked.rejected_to);
	ub_add(ub, 0);
	ub_answer(ub);
	return UNBRICKD_OK;
}

/* Flash works only when the network is quiet: what has come is taken first, and what is asked for is on its way. */
static int pull(struct unbrickd *ub)
{
	int error = ub->now_us - ub->progress_us >= PROGRESS_US ? UNBRICKD_E_SLOW : ub_fetch_poll(ub);
	bool writes = !error && !ub->stirred && ub_fetch_is_writable(ub);

	ub->stirred = writes;
	return writes ? write(ub) : error;
}

void ub_session_poll(struct unbrickd *ub)
{
	int error = UNBRICKD_OK;

	if (ub->state == UB_PROBING) {
		const struct ub_server *server = ub_discovery_poll(ub);

		if (server)
			open_session(ub, server);
	}
	if (ub->state == UB_ASKING)
		error = ask(ub);
	else if (ub->state == UB_FETCHING)
		error = pull(ub);
	if (error)
		fail(ub, error);
}

uint64_t ub_session_timer(const struct unbrickd *ub)
{
	if (ub->state == UB_IDLE)
		return UNBRICKD_NEVER;
	if (ub->state != UB_FETCHING || !ub->fetch.started)
		return ub->repeater.due_us;
	if (ub->fetch.part && (ub->stirred || ub_fetch_is_writable(ub)))
		return ub->now_us;
	return ub_receiver_timer(&ub->receiver);
}
