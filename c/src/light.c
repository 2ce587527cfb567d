/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* How the indicator light blinks (R19; docs/terminology.md shows it to users). */
#include "internal.h"

/* One period: on and off by turns, in milliseconds, ending with 0, 0. */
static const uint16_t START_SERVER[] = { 1000, 1000, 0, 0 };
static const uint16_t RESTORING[] = { 100, 100, 0, 0 };
static const uint16_t FAILED[] = { 150, 150, 150, 150, 150, 1500, 0, 0 };

bool unbrickd_light_is_on(enum unbrickd_light light, uint32_t ms)
{
	const uint16_t *pattern = light == UNBRICKD_LIGHT_START_SERVER ? START_SERVER :
				  light == UNBRICKD_LIGHT_RESTORING    ? RESTORING :
									 FAILED;
	uint32_t period = 0, i;

	if (light == UNBRICKD_LIGHT_OFF || light == UNBRICKD_LIGHT_BOOTED)
		return light == UNBRICKD_LIGHT_BOOTED;
	for (i = 0; pattern[i]; i++)
		period += pattern[i];
	ms %= period;
	for (i = 0; ms >= pattern[i]; i++)
		ms -= pattern[i];
	return i % 2 == 0;
}
