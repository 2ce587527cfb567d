/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* What the three files of the Linux port share. */
#ifndef UNBRICKD_LINUX_H
#define UNBRICKD_LINUX_H

#include "unbrickd.h"

/* --- flash.c: files and MTD character devices --- */

/* A stretch of a file or of an MTD device. */
struct place {
	int fd;
	bool is_mtd;
	uint32_t offset;	/* in the file */
	struct unbrickd_geometry geometry;
};

/*
 * PATH[@OFFSET+SIZE/ERASEBLOCK], numbers as in C or with K or M. An MTD device says all of it itself. Tells on stderr
 * what is wrong and returns false.
 */
bool open_place(struct place *place, const char *text, bool writable);
int read_place(const struct place *place, uint32_t offset, uint8_t *to, uint32_t length);
int program_place(const struct place *place, uint32_t offset, const uint8_t *from, uint32_t length);
int erase_place(const struct place *place, uint32_t offset, uint32_t length);
/* After it, what was written survives a power cut. */
int sync_place(const struct place *place);
uint32_t size_of_place(const struct place *place);

/* --- net.c: one UDP socket for IPv4 and IPv6 --- */

#define MAX_TARGETS 64

/* Bound to the device's port, or to any if that is taken. -1 and errno. */
int open_socket(void);
/* A numeric address, to the server's port or to ADDRESS,PORT. */
bool parse_target(struct unbrickd_peer *target, const char *text);
/* Broadcast and multicast on every interface; how many. */
uint8_t find_targets(struct unbrickd_peer targets[MAX_TARGETS]);
void send_to(int fd, const struct unbrickd_peer *to, const uint8_t *message, uint32_t length);
/* Length of the next message, or -1 if none came in that time. */
int receive_from(int fd, struct unbrickd_peer *from, uint8_t *to, uint32_t size, int wait_ms);
/* Into a buffer of at least 64 characters. */
const char *name_peer(const struct unbrickd_peer *peer, char *to);

#endif
