/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* How the indicator light blinks (R19; docs/terminology.md shows it to users). */
#include "internal.h"

bool unbrickd_light_is_on(enum unbrickd_light light, uint32_t ms)
{
	uint32_t half_ms = 1000;

	if (light == UNBRICKD_LIGHT_RESTORING) {
		half_ms = 100;
	} else if (light == UNBRICKD_LIGHT_FAILED) {	/* three flashes and a pause of 1.5 s */
		half_ms = 150;
		ms %= 2250;
		if (ms >= 750)
			return false;
	} else if (light != UNBRICKD_LIGHT_START_SERVER) {
		return light == UNBRICKD_LIGHT_BOOTED;
	}
	return ms / half_ms % 2 == 0;
}
