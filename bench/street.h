/* SPDX-License-Identifier: Apache-2.0 */
/* What street_client.c and street_tftp.c have in common. Linux only. */
#ifndef STREET_H
#define STREET_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

static inline void fail(const char *what)
{
	perror(what);
	exit(EXIT_FAILURE);
}

static inline uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

/* Of the processor, by this process. */
static inline double used_s(void)
{
	struct rusage used;

	getrusage(RUSAGE_SELF, &used);
	return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
	       (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

/* Several processes are a street: each says that it is ready, and all are told to begin by a line on stdin. */
static inline uint64_t wait_for_the_others(void)
{
	puts("ready");
	fflush(stdout);
	while (getchar() != '\n' && !feof(stdin))
		;
	return now_us();
}

/* The rest of the results: from when to when, by the clock that all processes have, what came, and the processor's time. */
static inline void print_totals(uint64_t started_us, uint64_t ended_us, uint64_t payload_bytes, double cpu_s)
{
	printf("\"started_us\": %" PRIu64 ", \"ended_us\": %" PRIu64 ", \"payload_bytes\": %" PRIu64 ", \"cpu_s\": %.6f",
	       started_us, ended_us, payload_bytes, cpu_s);
}

/* One of the results' list of seconds, the first without a comma. done_us: 0 if it was not done. */
static inline void print_seconds(uint32_t number, uint64_t started_us, uint64_t done_us)
{
	const char *comma = number ? ", " : "";

	if (done_us)
		printf("%s%.6f", comma, (double)(done_us - started_us) / 1e6);
	else
		printf("%snull", comma);
}

#endif
