/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* What the files of this port share: the core of c/src over U-Boot's MTD, legacy network stack, hashes and light. */
#ifndef UNBRICKD_PORT_H
#define UNBRICKD_PORT_H

#include <linux/types.h>

#include "core/unbrickd.h"

struct mtd_info;
struct udevice;

/* A stretch of flash. */
struct ubp_place {
	struct mtd_info *mtd;
	u32 offset, bytes;
};

/* One run of the command. */
struct ubp {
	struct unbrickd *core;
	struct unbrickd_config config;
	struct unbrickd_io io;
	struct unbrickd_component component[UNBRICKD_MAX_COMPONENTS];
	char name[UNBRICKD_MAX_COMPONENTS][17];
	struct ubp_place identity_at;
	struct ubp_place place[1 + UNBRICKD_MAX_COMPONENTS];	/* by part: the boot record is 0 */
	u8 identity[UNBRICKD_MAX_IDENTITY];
	struct unbrickd_peer target[2];
	u8 random[32];
	struct udevice *led;
	int led_state;		/* as it was set last; -1: it was not */
	enum unbrickd_light light;
	u64 light_since_us;
	enum unbrickd_reason reason;	/* of the last check */
	bool on_line;		/* a net loop runs, so that something can be sent */
	bool nameless;		/* this round of Probes is sent from 0.0.0.0 */
	u8 rounds;		/* of Probes, since somebody answered */
	int error;
};

/* flash.c: take the layout from CONFIG_UNBRICKD_LAYOUT and read the identity. 0, or the wrong word was printed. */
int ubp_flash_setup(struct ubp *p);

/* crypto.c */
void ubp_crypto_setup(struct ubp *p);

/* net.c: talk until the core knows what to boot. 0, -EINTR: a key was pressed. */
void ubp_net_setup(struct ubp *p);
int ubp_net_run(struct ubp *p);

/* light.c */
void ubp_light_setup(struct ubp *p);
void ubp_light_refresh(struct ubp *p, u64 now_us);
bool ubp_button_is_held(void);

#endif
