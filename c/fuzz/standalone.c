/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* Where there is no libFuzzer: so many random inputs from a seed, or the files that are named. PROGRAM -runs=N -seed=N */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *octets, size_t size);

static uint32_t state;

static uint32_t draw(uint32_t below)
{
	state ^= state << 13;
	state ^= state >> 17;
	state ^= state << 5;
	return state % below;
}

int main(int count, char **arguments)
{
	static uint8_t octets[4096];
	unsigned long runs = 10000, seed = 1, run;
	int i;

	for (i = 1; i < count; i++) {
		FILE *file;

		if (sscanf(arguments[i], "-runs=%lu", &runs) == 1 || sscanf(arguments[i], "-seed=%lu", &seed) == 1)
			continue;
		file = fopen(arguments[i], "rb");
		if (!file) {
			perror(arguments[i]);
			return 1;
		}
		LLVMFuzzerTestOneInput(octets, fread(octets, 1, sizeof(octets), file));
		fclose(file);
		return 0;
	}
	for (run = 0; run < runs; run++) {
		uint32_t size, k;

		state = (uint32_t)(seed * 2654435761u + run) | 1;
		draw(1);
		draw(1);
		size = draw(draw(2) ? 60 : 1400);
		for (k = 0; k < size; k++)
			octets[k] = (uint8_t)(draw(4) ? draw(256) : draw(4));
		LLVMFuzzerTestOneInput(octets, size);
	}
	printf("%lu random inputs of seed %lu\n", runs, seed);
	return 0;
}
