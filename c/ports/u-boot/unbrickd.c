// SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause
/* The command `unbrickd`: the recovery core at U-Boot's prompt and in its `bootcmd`. docs/integrate-u-boot.md. */
#include <bootcount.h>
#include <command.h>
#include <env.h>
#include <malloc.h>
#include <net.h>
#include <stdio.h>
#include <time.h>
#include <vsprintf.h>
#include <linux/mtd/mtd.h>
#include <linux/string.h>

#include "port.h"

static void tell_parts(const struct unbrickd_generation *generation)
{
	const struct unbrickd_part *part = generation->part;

	for (; part < generation->part + generation->part_count; part++) {
		if (part->fits)
			printf("unbrickd: %.16s: %u of %u erase blocks differ\n", part->name, part->differing,
			       part->erase_blocks);
		else
			printf("unbrickd: %.16s: does not fit the layout\n", part->name);
	}
}

static void tell_checked(struct ubp *p, const struct unbrickd_event *event)
{
	static const char * const words[] = {
		[UNBRICKD_SOUND] = "the flash is sound",
		[UNBRICKD_DAMAGED] = "the flash is damaged",
		[UNBRICKD_RECORD_LOST] = "the boot record is lost",
		[UNBRICKD_REFUSED] = "this firmware may not run here",
		[UNBRICKD_BUTTON] = "the button is held",
		[UNBRICKD_BOOT_FAILED] = "it failed to boot too often",
	};

	p->reason = event->u.checked->reason;
	if (event->u.checked->record_repaired)
		printf("unbrickd: a copy of the boot record was repaired\n");
	tell_parts(event->generation);
	printf("unbrickd: ");
	if (event->u.checked->named)	/* the only one that will do; sound flash needs none, a lost record names none */
		printf("generation %u: ", event->u.checked->named);
	printf("%s\n", words[event->u.checked->reason]);
	if (event->u.checked->refused)
		printf("unbrickd: %s\n", unbrickd_words(event->u.checked->refused));
}

/* What a server calls itself or its error comes from a stranger: nothing of it is printed but numbers. */
static void tell(void *app, const struct unbrickd_event *event)
{
	switch (event->kind) {
	case UNBRICKD_CHECKED:
		tell_checked(app, event);
		break;
	case UNBRICKD_SERVER_FOUND:
		printf("unbrickd: server %pI4%s\n", event->server->octets,
		       event->u.holds_device ? "" : ", which knows no good backup of this device");
		break;
	case UNBRICKD_SERVER_GIVEN_UP:
		printf("unbrickd: gave up the %s: %s\n", event->server ? "server" : "flash",
		       unbrickd_words(event->u.given_up.why));
		break;
	case UNBRICKD_OFFER_TAKEN:
		printf("unbrickd: restoring generation %u\n", event->generation->number);
		tell_parts(event->generation);
		break;
	case UNBRICKD_ERASE_BLOCK_RESTORED:
		printf("unbrickd: %.16s: erase block %u, %u of %u\n", event->u.restored.part->name,
		       event->u.restored.index, event->u.restored.done, event->u.restored.part->differing);
		break;
	case UNBRICKD_RESTORED:
		printf("unbrickd: restored generation %u, %u bytes\n", event->generation->number,
		       event->u.payload_bytes);
		break;
	case UNBRICKD_BOOTING:
		printf("unbrickd: booting generation %u, firmware %.64s%s\n", event->u.booting->generation,
		       event->u.booting->firmware_version,
		       event->u.booting->config_default ? ", without its configuration" : "");
		break;
	}
}

static void put_away(struct ubp *p, void *memory)
{
	/* Keys of the device are in both. */
	if (memory)
		memset(memory, 0, unbrickd_memory_bytes(&p->config));
	memset(p, 0, sizeof(*p));
	free(memory);
	free(p);
}

/* NULL, and why was printed. */
static struct ubp *set_up(void **memory)
{
	struct ubp *p = calloc(1, sizeof(*p));
	u32 bytes;
	int error;

	*memory = NULL;
	if (!p) {
		printf("unbrickd: %s\n", unbrickd_words(UNBRICKD_E_MEMORY));
		return NULL;
	}
	p->config.io = &p->io;
	p->config.app = p;
	p->config.boot_limit = CONFIG_UNBRICKD_BOOT_LIMIT;
	p->config.wait_ms = CONFIG_UNBRICKD_WAIT_MS;
	p->io.event = tell;
	if (ubp_flash_setup(p)) {
		put_away(p, NULL);
		return NULL;
	}
	ubp_crypto_setup(p);
	ubp_light_setup(p);
	ubp_net_setup(p);
	bytes = unbrickd_memory_bytes(&p->config);
	*memory = malloc(bytes);
	error = bytes ? unbrickd_init(&p->core, &p->config, *memory, bytes) : UNBRICKD_E_CONFIG;
	if (error) {
		printf("unbrickd: %s\n", unbrickd_words(error));
		put_away(p, *memory);
		return NULL;
	}
	return p;
}

/*
 * Check, restore if need be (or if asked to), and say what to boot. 0, or it was stopped. failed: what is in flash does
 * not come up, somebody else counted.
 */
static int bring_back(bool button, bool failed, struct unbrickd_booting *booting)
{
	void *memory;
	struct ubp *p = set_up(&memory);
	int error;

	if (!p)
		return -EINVAL;
	if (failed)
		/* Once must have been tried: the power may have gone after a restore, before the caller's count was reset. */
		p->config.boot_limit = 1;
	p->error = unbrickd_power_on(p->core, button, get_timer_us(0));
	p->config.boot_limit = CONFIG_UNBRICKD_BOOT_LIMIT;
	error = ubp_net_run(p);
	if (error)
		printf("unbrickd: stopped\n");
	else
		*booting = *unbrickd_boots(p->core);
	put_away(p, memory);
	return error;
}

static int do_check(struct cmd_tbl *cmdtp, int flag, int argc, char *const argv[])
{
	void *memory;
	struct ubp *p = set_up(&memory);
	bool sound;

	if (!p)
		return CMD_RET_FAILURE;
	sound = !unbrickd_check(p->core) && p->reason == UNBRICKD_SOUND;
	put_away(p, memory);
	return sound ? CMD_RET_SUCCESS : CMD_RET_FAILURE;
}

static int do_restore(struct cmd_tbl *cmdtp, int flag, int argc, char *const argv[])
{
	struct unbrickd_booting booting;

	return bring_back(true, false, &booting) ? CMD_RET_FAILURE : CMD_RET_SUCCESS;
}

static int boot(bool failed)
{
	struct unbrickd_booting booting;
	char version[sizeof(booting.firmware_version) + 1];

	if (bring_back(ubp_button_is_held(), failed, &booting))
		return CMD_RET_FAILURE;
	/* Another generation begins to be counted anew, or the next power-on would leave it too. */
	if (IS_ENABLED(CONFIG_BOOTCOUNT_LIMIT) && booting.went_back_from)
		bootcount_store(0);
	snprintf(version, sizeof(version), "%.64s", booting.firmware_version);
	env_set_ulong("unbrickd_generation", booting.generation);
	env_set("unbrickd_version", version);
	env_set("unbrickd_config", booting.config_default ? "default" : "kept");
	run_command_list(CONFIG_UNBRICKD_BOOT_COMMAND, -1, 0);
	/* Still here. The boot record has counted the attempt; after too many the generation before is restored. */
	printf("unbrickd: it did not boot\n");
	run_command("reset", 0);
	return CMD_RET_FAILURE;
}

static int do_boot(struct cmd_tbl *cmdtp, int flag, int argc, char *const argv[])
{
	return boot(false);
}

static int do_back(struct cmd_tbl *cmdtp, int flag, int argc, char *const argv[])
{
	return boot(true);
}

static int do_status(struct cmd_tbl *cmdtp, int flag, int argc, char *const argv[])
{
	void *memory;
	struct ubp *p = set_up(&memory);
	int i;

	if (!p)
		return CMD_RET_FAILURE;
	/* The layout of the identity: spec/flash-format.md, 2. */
	printf("model      %.32s\n", p->identity + 24);
	printf("device     ");
	for (i = 0; i < 16; i++)
		printf("%02x%s", p->identity[8 + i], i < 15 ? "" : "\n");
	printf("address    %pI4\n", &net_ip);
	printf("window     %u frames\n", p->config.ring_frames);
	printf("memory     %u bytes\n", unbrickd_memory_bytes(&p->config));
	printf("%-16s %s:0x%08x+0x%08x\n", "record", p->place[0].mtd->name, p->place[0].offset, p->place[0].bytes);
	for (i = 0; i < p->config.component_count; i++) {
		const struct ubp_place *place = &p->place[p->component[i].id];

		printf("%-16s %s:0x%08x+0x%08x\n", p->name[i], place->mtd->name, place->offset, place->bytes);
	}
	put_away(p, memory);
	return CMD_RET_SUCCESS;
}

U_BOOT_CMD_WITH_SUBCMDS(unbrickd, "bring the device back from its owner's PC",
	"boot    - check the flash, restore what is damaged, boot\n"
	"unbrickd back    - the same, but what is in flash does not come up: the generation before\n"
	"unbrickd check   - compare the flash with the boot record, write nothing\n"
	"unbrickd restore - restore from the PC, though all be sound\n"
	"unbrickd status  - who this is and where things lie",
	U_BOOT_SUBCMD_MKENT(boot, 1, 0, do_boot),
	U_BOOT_SUBCMD_MKENT(back, 1, 0, do_back),
	U_BOOT_SUBCMD_MKENT(check, 1, 0, do_check),
	U_BOOT_SUBCMD_MKENT(restore, 1, 0, do_restore),
	U_BOOT_SUBCMD_MKENT(status, 1, 0, do_status));
