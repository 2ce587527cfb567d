/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * From power-on to the boot: check, decide, restore if need be, check again, boot (R16 to R24). And the setting up of
 * it all. As src/unbrickd/recovery/bootloader.py.
 */
#include "internal.h"

#define FLASH_RETRY_US (30 * UB_SECOND)	/* each try costs a cycle of a worn erase block */
#define MAX_DOCUMENT (4u << 20)

/* Setting up. */

#ifndef UB_GUARD
#define UB_GUARD 0	/* bytes before each piece of the memory; where tests put a fence */
#endif

/* Where each piece of the memory begins, from the context on; sizes in bytes. */
struct plan {
	uint32_t half_bytes, flights, blocks, block_room, buffer, buffer_bytes, damage, document, end;
};

/* Room for a piece behind the others. */
static uint32_t place(struct plan *p, uint32_t bytes)
{
	uint32_t at = ((p->end + 7) & ~7u) + UB_GUARD;

	p->end = at + bytes;
	return at;
}

/* False if the configuration is wrong. */
static bool plan_memory(const struct unbrickd_config *config, struct plan *p)
{
	/* document: of the longest one that fits this layout */
	uint32_t largest = ub_largest_erase_block(&config->record), blocks = 0, document = 64 + UB_DIGEST;
	const struct unbrickd_component *c;
	uint32_t capacity, last_id = 0;

	p->half_bytes = ub_half_bytes(&config->record);
	capacity = ub_record_capacity(p->half_bytes);
	if (!capacity || !config->component_count || config->component_count > UNBRICKD_MAX_COMPONENTS ||
	    config->max_message_bytes < UNBRICKD_MIN_MESSAGE)
		return false;
	for (c = config->components; c < config->components + config->component_count; c++) {
		uint32_t count = ub_count_erase_blocks(&c->geometry);

		if (!count || c->id <= last_id || !ub_is_kind(c->kind))
			return false;
		last_id = c->id;
		blocks += count;
		largest = ub_max(largest, ub_largest_erase_block(&c->geometry));
		document += 100 + 8 * UNBRICKD_MAX_RUNS + 512 + count * UB_DIGEST * (c->sealed ? 2 : 1);
	}
	p->buffer_bytes = ub_max(largest, UB_SLICE) + ub_ahead(config) + UB_PAGE;
	p->block_room = p->buffer_bytes / UB_SHORTEST_BLOCK;
	p->end = sizeof(struct unbrickd);
	p->flights = place(p, ub_max_window(config) * (uint32_t)sizeof(struct ub_flight));
	p->blocks = place(p, p->block_room * (uint32_t)sizeof(struct ub_block));
	p->buffer = place(p, p->buffer_bytes);
	p->damage = place(p, ub_pieces(blocks, 8));
	p->document = place(p, ub_min(ub_min(document, MAX_DOCUMENT), capacity));
	return true;
}

uint32_t unbrickd_memory_bytes(const struct unbrickd_config *config)
{
	struct plan p;

	return plan_memory(config, &p) ? p.end + 7 : 0;
}

int unbrickd_init(struct unbrickd **out, const struct unbrickd_config *config, void *memory, uint32_t memory_bytes)
{
	uint32_t skipped = (uint32_t)(-(uintptr_t)memory % 8);
	uint8_t *base = (uint8_t *)memory + skipped;
	struct unbrickd *ub;
	struct plan p;
	int error;

	*out = NULL;
	if (!plan_memory(config, &p))
		return UNBRICKD_E_CONFIG;
	if (!memory || memory_bytes < p.end + 7)
		return UNBRICKD_E_MEMORY;
	ub = (struct unbrickd *)(void *)base;
	memset(ub, 0, p.document);
	ub->config = config;
	ub->io = config->io;
	ub->half_bytes = p.half_bytes;
	ub->receiver.storage.ub = ub;
	ub->receiver.storage.flights = (struct ub_flight *)(void *)(base + p.flights);
	ub->receiver.storage.blocks = (struct ub_block *)(void *)(base + p.blocks);
	ub->receiver.storage.block_room = p.block_room;
	ub->receiver.storage.ring = ub->buffer = base + p.buffer;
	ub->buffer_bytes = p.buffer_bytes;
	ub->damage = base + p.damage;
	ub->document = base + p.document;
	ub->document_room = memory_bytes - skipped - p.document;
	ub->retry_us = ub->boot_anyway_us = UNBRICKD_NEVER;
	error = ub_decode_identity(ub, config->identity, config->identity_bytes);
	if (error)
		return error;
	ub_derive_keys(ub);
	*out = ub;
	return UNBRICKD_OK;
}

/* The light, and going on by what happens. */

static void show(struct unbrickd *ub, enum unbrickd_light light)
{
	if (light == ub->light || ub->stopped)
		return;
	ub->light = (uint8_t)light;
	if (ub->io->light)
		ub->io->light(ub->config->app, light);
}

/* There is hope: what may boot as it is waits for a server from now on, what may not waits for ever. */
static void wait_on(struct unbrickd *ub)
{
	if (ub->boot_anyway_us != UNBRICKD_NEVER)
		ub->boot_anyway_us = ub->now_us + (uint64_t)ub->config->wait_ms * 1000;
}

void ub_tell(struct unbrickd *ub)
{
	const struct unbrickd_event *event = &ub->event;

	if (ub->stopped)
		return;
	if (ub->io->event)
		ub->io->event(ub->config->app, event);
	if (event->kind == UNBRICKD_OFFER_TAKEN) {
		show(ub, UNBRICKD_LIGHT_RESTORING);
		/* Once only: a server that offers and never delivers must not put off the boot for ever. */
		if (!ub->offered)
			wait_on(ub);
		ub->offered = true;
	} else if (event->kind == UNBRICKD_ERASE_BLOCK_RESTORED) {
		wait_on(ub);
	} else if (event->kind == UNBRICKD_SERVER_GIVEN_UP) {
		show(ub, event->u.given_up.refused ? UNBRICKD_LIGHT_FAILED : UNBRICKD_LIGHT_START_SERVER);
	}
}

static void boot(struct unbrickd *ub)
{
	const struct unbrickd_part *firmware = ub->generation.part;
	struct unbrickd_booting *booting = &ub->booting;

	while (firmware->kind != UNBRICKD_FIRMWARE)
		firmware++;	/* it is bootable, so there is one */
	memcpy(booting->firmware_version, firmware->version, UB_VERSION);
	booting->generation = ub->record.number;
	booting->config_default = ub->checked.config_damaged;
	booting->went_back_from = ub->failed_generation == ub->record.number ? 0 : ub->failed_generation;
	/* A boot that is not counted is better than no boot. */
	ub_record_mark(ub, UB_ATTEMPT);
	show(ub, UNBRICKD_LIGHT_BOOTED);
	ub_event(ub, UNBRICKD_BOOTING, NULL)->u.booting = booting;
	ub_tell(ub);
	ub->state = UB_IDLE;
	ub->boot_anyway_us = UNBRICKD_NEVER;
	ub->booted = !ub->stopped;
}

/* What is there may have changed since, so it is verified once more. */
static bool boot_as_it_is(struct unbrickd *ub)
{
	ub_check_flash(ub);
	if (ub->checked.bootable && !ub->stopped)
		boot(ub);
	return ub->booted;
}

static void restore(struct unbrickd *ub)
{
	if (ub->checked.reason == UNBRICKD_BOOT_FAILED)
		ub->failed_generation = ub->record.number;
	ub_session_start(ub);
	ub->boot_anyway_us = UNBRICKD_NEVER;
	if (ub->checked.bootable) {
		ub->boot_anyway_us = 0;
		wait_on(ub);
	}
	ub->offered = false;
	show(ub, UNBRICKD_LIGHT_START_SERVER);
}

static void check(struct unbrickd *ub, bool button)
{
	show(ub, UNBRICKD_LIGHT_OFF);
	ub_check(ub, button, ub_record_repair(ub));
	if (ub->stopped)
		return;
	if (ub->checked.reason == UNBRICKD_SOUND)
		boot(ub);
	else
		restore(ub);
}

static void flash_failed(struct unbrickd *ub)
{
	struct unbrickd_event *event = ub_event(ub, UNBRICKD_SERVER_GIVEN_UP, NULL);

	event->u.given_up.why = (enum unbrickd_error)ub->flash_failure;
	event->u.given_up.refused = true;
	ub_tell(ub);
	ub->flash_failure = UNBRICKD_OK;
	ub->boot_anyway_us = UNBRICKD_NEVER;
	if (!boot_as_it_is(ub))
		ub->retry_us = ub->now_us + FLASH_RETRY_US;
}

/* Go on when the session has ended. */
static void follow(struct unbrickd *ub)
{
	if (ub->flash_failure) {
		flash_failed(ub);
	} else if (ub->restored) {
		ub->restored = false;
		check(ub, false);
	}
}

/* The calls. */

static int ended(const struct unbrickd *ub)
{
	return ub->stopped ? UNBRICKD_E_STOP : UNBRICKD_OK;
}

int unbrickd_check(struct unbrickd *ub)
{
	ub_check(ub, false, false);
	return ended(ub);
}

int unbrickd_power_on(struct unbrickd *ub, bool button_is_held, uint64_t now_us)
{
	ub->now_us = now_us;
	check(ub, button_is_held);
	return ended(ub);
}

int unbrickd_receive(struct unbrickd *ub, const struct unbrickd_peer *from, const uint8_t *message, uint32_t length,
		     uint64_t now_us)
{
	ub->now_us = now_us;
	if (!ub->stopped && !ub->booted) {
		ub_session_receive(ub, from, message, length);
		follow(ub);
	}
	return ended(ub);
}

int unbrickd_poll(struct unbrickd *ub, uint64_t now_us, uint64_t *wake_us)
{
	ub->now_us = now_us;
	*wake_us = UNBRICKD_NEVER;
	if (ub->stopped || ub->booted)
		return ended(ub);
	if (now_us >= ub->retry_us) {
		ub->retry_us = UNBRICKD_NEVER;
		check(ub, false);
	}
	ub->muted = now_us >= ub->boot_anyway_us;
	ub_session_poll(ub);
	ub->muted = false;
	follow(ub);
	if (now_us >= ub->boot_anyway_us) {
		/* No server helps any more. */
		ub->boot_anyway_us = UNBRICKD_NEVER;
		if (!boot_as_it_is(ub))
			ub_session_forget_transfer(ub);
	}
	*wake_us = ub_session_timer(ub);
	if (ub->boot_anyway_us < *wake_us)
		*wake_us = ub->boot_anyway_us;
	if (ub->retry_us < *wake_us)
		*wake_us = ub->retry_us;
	return ended(ub);
}

const struct unbrickd_booting *unbrickd_boots(const struct unbrickd *ub)
{
	return ub->booted ? &ub->booting : NULL;
}
