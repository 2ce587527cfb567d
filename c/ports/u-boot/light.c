// SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause
/* The indicator light, the button, and what the console says of them (mission R17, R19). */
#include <button.h>
#include <div64.h>
#include <dm.h>
#include <env.h>
#include <led.h>
#include <stdio.h>
#include <time.h>
#include <linux/string.h>

#include "port.h"

static void show(void *app, enum unbrickd_light light)
{
	static const char * const words[] = {
		[UNBRICKD_LIGHT_OFF] = "checking the flash",
		[UNBRICKD_LIGHT_START_SERVER] = "please start unbrickd on your PC",
		[UNBRICKD_LIGHT_RESTORING] = "restoring, leave the power on",
		[UNBRICKD_LIGHT_FAILED] = "failed, still looking for help",
		[UNBRICKD_LIGHT_BOOTED] = "sound, booting",
	};
	struct ubp *p = app;

	p->light = light;
	p->light_since_us = get_timer_us(0);
	printf("unbrickd: light: %s\n", words[light]);
	ubp_light_refresh(p, p->light_since_us);
}

/* Called in every turn, so that it blinks. */
void ubp_light_refresh(struct ubp *p, u64 now_us)
{
	enum led_state_t state;

	if (!IS_ENABLED(CONFIG_LED) || !p->led)
		return;
	state = unbrickd_light_is_on(p->light, (u32)lldiv(now_us - p->light_since_us, 1000)) ? LEDST_ON : LEDST_OFF;
	if ((int)state == p->led_state)
		return;
	led_set_state(p->led, state);
	p->led_state = state;
}

void ubp_light_setup(struct ubp *p)
{
	p->io.light = show;
	p->led_state = -1;
	if (IS_ENABLED(CONFIG_LED) && *CONFIG_UNBRICKD_LED && led_get_by_label(CONFIG_UNBRICKD_LED, &p->led)) {
		printf("unbrickd: there is no light %s\n", CONFIG_UNBRICKD_LED);
		p->led = NULL;
	}
}

bool ubp_button_is_held(void)
{
	struct udevice *button;

	if (env_get_yesno("unbrickd_restore") == 1)
		return true;
	return IS_ENABLED(CONFIG_BUTTON) && *CONFIG_UNBRICKD_BUTTON &&
	       !button_get_by_label(CONFIG_UNBRICKD_BUTTON, &button) && button_get_state(button) == BUTTON_ON;
}
