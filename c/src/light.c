/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* How the indicator light blinks (R19; docs/terminology.md shows it to users). */
#include "internal.h"

bool unbrickd_light_is_on(enum unbrickd_light light, uint32_t ms)
{
	switch (light) {
	case UNBRICKD_LIGHT_START_SERVER:
		return ms / 1000 % 2 == 0;
	case UNBRICKD_LIGHT_RESTORING:
		return ms / 100 % 2 == 0;
	case UNBRICKD_LIGHT_FAILED:	/* three flashes and a pause of 1.5 s */
		ms %= 2250;
		return ms < 750 && ms / 150 % 2 == 0;
	default:
		return light == UNBRICKD_LIGHT_BOOTED;
	}
}
