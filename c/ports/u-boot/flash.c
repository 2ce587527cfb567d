// SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause
/*
 * Where things lie in flash, and the core's flash functions over U-Boot's MTD (parallel and serial NOR alike). The
 * layout is compiled in: a damaged environment must not lead the recovery astray.
 */
#include <mtd.h>
#include <stdio.h>
#include <vsprintf.h>
#include <watchdog.h>
#include <linux/ctype.h>
#include <linux/err.h>
#include <linux/mtd/mtd.h>
#include <linux/string.h>

#include "port.h"

static int flash_read(void *app, u8 part, u32 offset, u8 *to, u32 length)
{
	const struct ubp_place *place = &((struct ubp *)app)->place[part];
	size_t done;

	schedule();
	if (mtd_read(place->mtd, place->offset + offset, length, &done, to) || done != length)
		return UNBRICKD_E_FLASH;
	return 0;
}

static int flash_program(void *app, u8 part, u32 offset, const u8 *from, u32 length)
{
	const struct ubp_place *place = &((struct ubp *)app)->place[part];
	size_t done;

	if (mtd_write(place->mtd, place->offset + offset, length, &done, from) || done != length)
		return UNBRICKD_E_FLASH;
	return 0;
}

static int flash_erase_block(void *app, u8 part, u32 offset, u32 length)
{
	const struct ubp_place *place = &((struct ubp *)app)->place[part];
	struct erase_info erase = {
		.mtd = place->mtd,
		.addr = place->offset + offset,
		.len = length,
	};

	schedule();
	return mtd_erase(place->mtd, &erase) ? UNBRICKD_E_FLASH : 0;
}

/* `*at` stands on a number; moves it behind. */
static bool take_number(const char **at, u32 *number)
{
	char *end;

	if (!isdigit(**at))
		return false;
	*number = simple_strtoul(*at, &end, 0);
	*at = end;
	return true;
}

/* "device:offset+bytes" */
static bool take_place(const char **at, struct ubp_place *place)
{
	const char *colon = strchr(*at, ':');
	char device[32];

	if (!colon || colon - *at >= sizeof(device))
		return false;
	strlcpy(device, *at, colon - *at + 1);
	*at = colon + 1;
	if (!take_number(at, &place->offset) || *(*at)++ != '+' || !take_number(at, &place->bytes))
		return false;
	place->mtd = get_mtd_device_nm(device);
	if (IS_ERR_OR_NULL(place->mtd)) {
		printf("unbrickd: there is no flash %s\n", device);
		return false;
	}
	put_mtd_device(place->mtd);	/* a chip, which nothing ever removes */
	return place->offset + (u64)place->bytes <= place->mtd->size;
}

/* Some drivers report half of what the chip erases; then CONFIG_UNBRICKD_ERASE_BLOCK has the truth. */
static bool divide(const struct ubp_place *place, struct unbrickd_geometry *geometry)
{
	u32 size = CONFIG_UNBRICKD_ERASE_BLOCK ? CONFIG_UNBRICKD_ERASE_BLOCK : place->mtd->erasesize;

	if (!size || !place->bytes || size % place->mtd->erasesize || place->offset % size || place->bytes % size)
		return false;
	geometry->run_count = 1;
	geometry->run[0].count = place->bytes / size;
	geometry->run[0].size_bytes = size;
	return true;
}

/* Components get their ids in the order of the layout, as in the agent's layout file (docs/layout.md). */
static bool take_component(struct ubp *p, const char *name, const struct ubp_place *place)
{
	struct unbrickd_component *component = &p->component[p->config.component_count];

	if (p->config.component_count == UNBRICKD_MAX_COMPONENTS)
		return false;
	strlcpy(p->name[p->config.component_count], name, sizeof(p->name[0]));
	p->config.component_count++;
	component->id = p->config.component_count;
	component->kind = !strcmp(name, "firmware") ? UNBRICKD_FIRMWARE :
			  !strcmp(name, "config")   ? UNBRICKD_CONFIGURATION :
						      UNBRICKD_OTHER;
	component->sealed = component->kind == UNBRICKD_CONFIGURATION;
	p->place[component->id] = *place;
	return divide(place, &component->geometry);
}

/* "name=place" */
static bool take_entry(struct ubp *p, const char **at)
{
	const char *equals = strchr(*at, '=');
	struct ubp_place place;
	char name[17];

	if (!equals || equals - *at >= sizeof(name))
		return false;
	strlcpy(name, *at, equals - *at + 1);
	*at = equals + 1;
	if (!take_place(at, &place))
		return false;
	if (!strcmp(name, "identity")) {
		p->identity_at = place;
		return true;
	}
	if (!strcmp(name, "record")) {
		p->place[0] = place;
		return divide(&place, &p->config.record);
	}
	return take_component(p, name, &place);
}

int ubp_flash_setup(struct ubp *p)
{
	const char *at = CONFIG_UNBRICKD_LAYOUT;
	size_t done;

	mtd_probe_devices();
	while (*at) {
		const char *entry = at;

		if (!take_entry(p, &at) || (*at && *at != ' ')) {
			printf("unbrickd: CONFIG_UNBRICKD_LAYOUT is wrong here: %s\n", entry);
			return -EINVAL;
		}
		at = skip_spaces(at);
	}
	if (!p->identity_at.mtd) {
		printf("unbrickd: CONFIG_UNBRICKD_LAYOUT names no identity\n");
		return -EINVAL;
	}
	p->config.identity = p->identity;
	p->config.identity_bytes = min_t(u32, sizeof(p->identity), p->identity_at.bytes);
	p->config.components = p->component;
	p->config.program_bytes = 4096;	/* MTD divides it as the chip takes it */
	p->io.read = flash_read;
	p->io.program = flash_program;
	p->io.erase = flash_erase_block;
	/* If it cannot be read, the core finds no identity in what is here instead. */
	mtd_read(p->identity_at.mtd, p->identity_at.offset, p->config.identity_bytes, &done, p->identity);
	return 0;
}
