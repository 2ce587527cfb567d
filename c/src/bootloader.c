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
struct pieces {
	uint32_t flights, blocks, block_room, buffer, buffer_bytes, damage, damage_bytes, document, document_bytes;
};

/* Where a piece may begin, after the one that ends there. */
static uint32_t after(uint32_t end)
{
	return ((end + 7) & ~7u) + UB_GUARD;
}

/* False if the configuration is wrong. document_bytes: of the longest document that fits this layout. */
static bool plan_memory(const struct unbrickd_config *config, struct pieces *p)
{
	uint32_t largest = ub_largest_erase_block(&config->record), blocks = 0, document = 64 + UB_DIGEST, i;
	uint32_t capacity = ub_record_capacity(ub_half_bytes(&config->record));

	if (!capacity || !config->component_count || config->component_count > UNBRICKD_MAX_COMPONENTS ||
	    config->max_message_bytes < UNBRICKD_MIN_MESSAGE)
		return false;
	for (i = 0; i < config->component_count; i++) {
		const struct unbrickd_component *c = &config->components[i];
		uint32_t count = ub_count_erase_blocks(&c->geometry);

		if (!count || !c->id || !ub_is_kind(c->kind) || (i && c->id <= c[-1].id))
			return false;
		blocks += count;
		largest = ub_max(largest, ub_largest_erase_block(&c->geometry));
		document += 100 + 8 * UNBRICKD_MAX_RUNS + 512 + count * UB_DIGEST * (c->sealed ? 2 : 1);
	}
	p->flights = after(sizeof(struct unbrickd));
	p->blocks = after(p->flights + ub_max_window(config) * (uint32_t)sizeof(struct ub_flight));
	p->buffer_bytes = ub_max(largest, UB_SLICE) + ub_ahead(config) + UB_PAGE;
	p->block_room = p->buffer_bytes / UB_SHORTEST_BLOCK;
	p->buffer = after(p->blocks + p->block_room * (uint32_t)sizeof(struct ub_block));
	p->damage = after(p->buffer + p->buffer_bytes);
	p->damage_bytes = ub_pieces(blocks, 8);
	p->document = after(p->damage + p->damage_bytes);
	p->document_bytes = ub_min(ub_min(document, MAX_DOCUMENT), capacity);
	return true;
}

uint32_t unbrickd_memory_bytes(const struct unbrickd_config *config)
{
	struct pieces p;

	return plan_memory(config, &p) ? p.document + p.document_bytes + 7 : 0;
}

int unbrickd_init(struct unbrickd **out, const struct unbrickd_config *config, void *memory, uint32_t memory_bytes)
{
	uint8_t *base = memory;
	struct unbrickd *ub;
	struct pieces p;
	int error;

	*out = NULL;
	if (!plan_memory(config, &p))
		return UNBRICKD_E_CONFIG;
	if (!memory || memory_bytes < p.document + p.document_bytes + 7)
		return UNBRICKD_E_MEMORY;
	while ((uintptr_t)base % 8) {
		base++;
		memory_bytes--;
	}
	ub = (struct unbrickd *)(void *)base;
	memset(ub, 0, sizeof(*ub));
	ub->config = config;
	ub->io = config->io;
	ub->half_bytes = ub_half_bytes(&config->record);
	ub->receiver.storage.ub = ub;
	ub->receiver.storage.flights = (struct ub_flight *)(void *)(base + p.flights);
	ub->receiver.storage.blocks = (struct ub_block *)(void *)(base + p.blocks);
	ub->receiver.storage.block_room = p.block_room;
	ub->receiver.storage.ring = ub->buffer = base + p.buffer;
	ub->buffer_bytes = p.buffer_bytes;
	ub->damage = base + p.damage;
	memset(ub->damage, 0, p.damage_bytes);
	ub->document = base + p.document;
	ub->document_room = memory_bytes - p.document;
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
	switch (event->kind) {
	case UNBRICKD_OFFER_TAKEN:
		show(ub, UNBRICKD_LIGHT_RESTORING);
		/* Once only: a server that offers and never delivers must not put off the boot for ever. */
		if (!ub->offered)
			wait_on(ub);
		ub->offered = true;
		break;
	case UNBRICKD_ERASE_BLOCK_RESTORED:
		wait_on(ub);
		break;
	case UNBRICKD_SERVER_GIVEN_UP:
		show(ub, event->u.given_up.refused ? UNBRICKD_LIGHT_FAILED : UNBRICKD_LIGHT_START_SERVER);
		break;
	default:
		break;
	}
}

static void boot(struct unbrickd *ub)
{
	struct unbrickd_booting *booting = &ub->booting;
	uint32_t i = 0;

	while (ub->generation.part[i].kind != UNBRICKD_FIRMWARE)
		i++;	/* it is bootable, so there is one */
	memcpy(booting->firmware_version, ub->generation.part[i].version, UB_VERSION);
	booting->generation = ub->record.number;
	booting->config_default = ub->checked.config_damaged;
	booting->went_back_from = ub->failed_generation == ub->record.number ? 0 : ub->failed_generation;
	/* A boot that is not counted is better than no boot. */
	ub_record_mark(ub, UB_ATTEMPT);
	show(ub, UNBRICKD_LIGHT_BOOTED);
	ub_event(ub, UNBRICKD_BOOTING, NULL)->u.booting = booting;
	ub_tell(ub);
	ub->state = UB_IDLE;
	ub->booted = !ub->stopped;
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
	bool repaired;

	show(ub, UNBRICKD_LIGHT_OFF);
	/* Where it cannot be repaired, the other copy still counts. */
	repaired = ub_record_repair(ub) > 0;
	ub_check(ub, button, repaired);
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
	ub_check_flash(ub);
	if (ub->checked.bootable && !ub->stopped)
		boot(ub);
	else
		ub->retry_us = ub->now_us + FLASH_RETRY_US;
}

/* Go on when the session has ended. */
static int follow(struct unbrickd *ub)
{
	if (ub->flash_failure) {
		flash_failed(ub);
		ub->flash_failure = UNBRICKD_OK;
	} else if (ub->restored) {
		ub->restored = false;
		check(ub, false);
	}
	return ub->stopped ? UNBRICKD_E_STOP : UNBRICKD_OK;
}

/* No server helps any more. What is there may have changed since, so it is verified once more. */
static void boot_as_it_is(struct unbrickd *ub)
{
	ub->boot_anyway_us = UNBRICKD_NEVER;
	ub_check_flash(ub);
	if (ub->checked.bootable && !ub->stopped)
		boot(ub);
	else
		ub_session_forget_transfer(ub);
}

/* The calls. */

int unbrickd_check(struct unbrickd *ub)
{
	ub_check(ub, false, false);
	return ub->stopped ? UNBRICKD_E_STOP : UNBRICKD_OK;
}

int unbrickd_power_on(struct unbrickd *ub, bool button_is_held, uint64_t now_us)
{
	ub->now_us = now_us;
	check(ub, button_is_held);
	return ub->stopped ? UNBRICKD_E_STOP : UNBRICKD_OK;
}

int unbrickd_receive(struct unbrickd *ub, const struct unbrickd_peer *from, const uint8_t *message, uint32_t length,
		     uint64_t now_us)
{
	ub->now_us = now_us;
	if (ub->stopped || ub->booted)
		return ub->stopped ? UNBRICKD_E_STOP : UNBRICKD_OK;
	ub_session_receive(ub, from, message, length);
	return follow(ub);
}

int unbrickd_poll(struct unbrickd *ub, uint64_t now_us, uint64_t *wake_us)
{
	uint64_t session_us;

	ub->now_us = now_us;
	*wake_us = UNBRICKD_NEVER;
	if (ub->stopped || ub->booted)
		return ub->stopped ? UNBRICKD_E_STOP : UNBRICKD_OK;
	if (now_us >= ub->retry_us) {
		ub->retry_us = UNBRICKD_NEVER;
		check(ub, false);
	}
	ub->muted = now_us >= ub->boot_anyway_us;
	ub_session_poll(ub);
	ub->muted = false;
	if (!follow(ub) && ub->state != UB_IDLE && now_us >= ub->boot_anyway_us)
		boot_as_it_is(ub);
	session_us = ub_session_timer(ub);
	if (ub->state != UB_IDLE && ub->boot_anyway_us < session_us)
		session_us = ub->boot_anyway_us;
	*wake_us = ub->retry_us < session_us ? ub->retry_us : session_us;
	if (ub->booted)
		*wake_us = UNBRICKD_NEVER;
	return ub->stopped ? UNBRICKD_E_STOP : UNBRICKD_OK;
}

const struct unbrickd_booting *unbrickd_boots(const struct unbrickd *ub)
{
	return ub->booted ? &ub->booting : NULL;
}
