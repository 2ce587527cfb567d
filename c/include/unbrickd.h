/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/*
 * unbrickd.h - what a bootloader needs to bring its device back from the owner's PC.
 *
 * At power-on the core compares the flash with the boot record. If it matches, it says so and the caller boots. If not,
 * it finds a server, asks what is held for this device, fetches just the erase blocks that differ, verifies each before
 * it is programmed and reads it back after, writes the boot record last, checks all of it again and says what to boot.
 * Protocol: spec/protocol.md. What lies in flash: spec/flash-format.md.
 *
 * The core has no heap, no state of its own, no clock and no I/O: the caller gives it memory, the time and a table of
 * functions. It never sleeps; a flash function may take as long as the flash takes.
 *
 *	memory = ...;				// unbrickd_memory_bytes(&config) of it
 *	error = unbrickd_init(&ub, &config, memory, memory_bytes);
 *	error = unbrickd_power_on(ub, button_is_held, now_us());
 *	while (!error && !unbrickd_boots(ub)) {
 *		error = unbrickd_poll(ub, now_us(), &wake_us);		// sends what is due
 *		if (a message arrives before wake_us)
 *			unbrickd_receive(ub, &from, message, length, now_us());
 *	}
 *	if (!error)
 *		boot();				// what is in flash was verified just now
 */
#ifndef UNBRICKD_H
#define UNBRICKD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UNBRICKD_SERVER_PORT 21530	/* where Probes go (protocol.md, 1) */
#define UNBRICKD_DEVICE_PORT 21531	/* where a device listens for Announce */
#define UNBRICKD_MIN_MESSAGE 1232	/* UDP payload of a 1280-byte IPv6 path */
#define UNBRICKD_MAX_COMPONENTS 8
#define UNBRICKD_MAX_RUNS 8
#define UNBRICKD_MAX_IDENTITY 1164	/* what to read of the protected sector at most */
#define UNBRICKD_NEVER UINT64_MAX

/* 0 is success. The groups matter: see enum unbrickd_event_kind, UNBRICKD_SERVER_GIVEN_UP. */
enum unbrickd_error {
	UNBRICKD_OK = 0,

	/* The caller's: what it gave is wrong. */
	UNBRICKD_E_CONFIG = -1,		/* a value out of range, or a record that does not divide into equal halves */
	UNBRICKD_E_MEMORY = -2,		/* too little memory */
	UNBRICKD_E_IDENTITY = -3,	/* there is no whole identity in the protected sector */

	/* The flash's. */
	UNBRICKD_E_FLASH = -10,		/* it cannot be read, refuses to be written, or did not erase */
	UNBRICKD_E_VERIFY = -11,	/* it reads back wrong, twice: worn out */
	UNBRICKD_E_NO_RECORD = -12,	/* neither copy of the boot record is valid */
	UNBRICKD_E_CAPACITY = -13,	/* a generation document is too long for boot record or memory */
	UNBRICKD_E_STOP = -14,		/* a flash function asked to stop: power fails, or a key was pressed */

	/* A server's: it fell silent, and may be back at any moment. */
	UNBRICKD_E_SILENT = -20,	/* it does not answer */
	UNBRICKD_E_STALLED = -21,	/* it stopped sending blocks */
	UNBRICKD_E_AGAIN = -22,		/* it asks to begin again: it was restarted */

	/* A server's: it cannot help for now. */
	UNBRICKD_E_NOTHING_HELD = -30,	/* it holds no good backup of this device that may be restored */
	UNBRICKD_E_NOTHING_WHOLE = -31,	/* all that it offers is rotten */
	UNBRICKD_E_SLOW = -32,		/* a minute without one whole erase block */
	UNBRICKD_E_ERROR = -33,		/* it said so itself, in an Error */

	/* A server's: what it gave must not be taken. */
	UNBRICKD_E_MESSAGE = -40,	/* no message of this protocol (it is dropped, no server is given up) */
	UNBRICKD_E_OTHER_IMAGE = -41,	/* not the image that was asked for */
	UNBRICKD_E_SHORT_BLOCKS = -42,	/* blocks too short to be worth their memory */
	UNBRICKD_E_REJECTED = -43,	/* a generation that failed here before */
	UNBRICKD_E_GOOD_SEAL = -44,	/* this device never said that it worked */
	UNBRICKD_E_DOCUMENT = -45,	/* a generation document that is not the one offered, or does not decode */
	UNBRICKD_E_MAC = -46,		/* not sealed by this device */
	UNBRICKD_E_DIGEST = -47,	/* erase blocks that are not what their digest says */
	UNBRICKD_E_ROLLBACK = -48,	/* firmware older than the rollback floor */
	UNBRICKD_E_SIGNATURE = -49,	/* firmware that the maker did not sign */
	UNBRICKD_E_LAYOUT = -50,	/* it names no firmware, or does not fit this device's flash */
};

/* How a part of the flash is divided (flash-format.md, 1): so many erase blocks of one size, then of the next. */
struct unbrickd_run {
	uint32_t count;
	uint32_t size_bytes;	/* 256 to 4 MiB, a multiple of 16 */
};

struct unbrickd_geometry {
	uint8_t run_count;	/* 1 to UNBRICKD_MAX_RUNS */
	struct unbrickd_run run[UNBRICKD_MAX_RUNS];
};

enum unbrickd_kind { UNBRICKD_FIRMWARE = 1, UNBRICKD_CONFIGURATION = 2, UNBRICKD_OTHER = 3 };

/* Where one component lies. */
struct unbrickd_component {
	uint8_t id;		/* 1 to 255 */
	uint8_t kind;		/* enum unbrickd_kind */
	bool sealed;		/* its backups are encrypted */
	struct unbrickd_geometry geometry;
};

/* An address of the other side, as the port likes to write it: the core compares all octets and hands them back. */
struct unbrickd_peer {
	uint8_t octets[24];
};

/* Room for a SHA-256 in progress, whosoever's it is. */
struct unbrickd_sha256 {
	uint64_t words[16];
};

/* What the light says (mission R19); unbrickd_light_is_on() has the blinking. */
enum unbrickd_light {
	UNBRICKD_LIGHT_OFF,		/* checking the flash */
	UNBRICKD_LIGHT_START_SERVER,	/* please start unbrickd on your PC */
	UNBRICKD_LIGHT_RESTORING,	/* leave the power on */
	UNBRICKD_LIGHT_FAILED,		/* what was offered was refused, or the flash is worn */
	UNBRICKD_LIGHT_BOOTED,
};

enum unbrickd_reason {
	UNBRICKD_SOUND,		/* everything matches its manifest: it boots. All others: it restores. */
	UNBRICKD_DAMAGED,	/* flash does not match its manifest */
	UNBRICKD_RECORD_LOST,
	UNBRICKD_REFUSED,	/* this firmware may not run here */
	UNBRICKD_BUTTON,
	UNBRICKD_BOOT_FAILED,	/* too often: go back a generation */
};

enum unbrickd_choice {
	UNBRICKD_KEEP,			/* it is what it must be */
	UNBRICKD_IS_DAMAGED,
	UNBRICKD_VERSION_DIFFERS,
	UNBRICKD_CONTENT_DIFFERS,
};

/* One component of a generation: its manifest (flash-format.md, 3), and how the flash differs from it. */
struct unbrickd_part {
	uint8_t id;
	uint8_t kind;
	bool sealed;
	bool fits;			/* it fits this device's flash; nothing was compared if not */
	uint8_t choice;			/* enum unbrickd_choice, in UNBRICKD_OFFER_TAKEN only */
	uint16_t signature_bytes;
	uint32_t length, rollback_index;
	uint32_t erase_blocks;
	uint32_t differing;		/* of them */
	uint32_t bytes;			/* of the image in those */
	uint32_t damage_at;		/* where the core has a bit for each of them */
	const uint8_t *name, *version;	/* 16 and 64 octets, padded with zeros */
	const uint8_t *runs, *signature, *digests, *transfer_digests;
	struct unbrickd_geometry geometry;
};

struct unbrickd_generation {
	uint32_t number, part_count;
	struct unbrickd_part part[UNBRICKD_MAX_COMPONENTS];
};

/* What was found in flash, and what follows. */
struct unbrickd_checked {
	enum unbrickd_reason reason;
	int refused;			/* why the firmware that the record names may not run, an enum unbrickd_error, or 0 */
	bool bootable, damaged, config_damaged, record_repaired;
	uint32_t named, rejected_from, rejected_to;	/* the generation to ask for, 0: any but those */
};

enum unbrickd_event_kind {
	UNBRICKD_CHECKED,		/* u.checked, generation: the flash was checked and this was decided */
	UNBRICKD_SERVER_FOUND,		/* server, u.holds_device */
	UNBRICKD_SERVER_GIVEN_UP,	/* server (NULL: the flash), u.given_up: why; refused: what it gave must not be taken */
	UNBRICKD_OFFER_TAKEN,		/* generation, u.is_named: this is going to be restored */
	UNBRICKD_ERASE_BLOCK_RESTORED,	/* u.restored: verified, programmed and read back */
	UNBRICKD_RESTORED,		/* generation, u.payload_bytes: all of it is in flash and the boot record names it */
	UNBRICKD_BOOTING,		/* u.booting: the end */
};

struct unbrickd_booting {
	uint32_t generation;
	uint32_t went_back_from;	/* the generation that failed to boot and was left for this one, or 0 */
	bool config_default;		/* the configuration is damaged: boot without it */
	uint8_t firmware_version[64];	/* padded with zeros */
};

struct unbrickd_event {
	enum unbrickd_event_kind kind;
	const struct unbrickd_peer *server;
	const struct unbrickd_generation *generation;	/* the one that is checked, restored, booted; no parts: none is known */
	union {
		const struct unbrickd_checked *checked;
		bool holds_device;
		struct {
			enum unbrickd_error why;
			bool refused;
			uint16_t code;			/* of the Error, if it sent one (protocol.md, 4.14) */
			uint8_t text_bytes;
			const uint8_t *text;
		} given_up;
		bool is_named;				/* the generation is the one that the boot record asked for */
		struct {
			const struct unbrickd_part *part;
			uint32_t index, done;	/* done: of part->differing */
		} restored;
		uint32_t payload_bytes;
		const struct unbrickd_booting *booting;
	} u;
};

/*
 * The table of functions. `app` is the caller's. Flash functions return 0 or a negative enum unbrickd_error; after
 * UNBRICKD_E_STOP the core calls none of them again and returns. `part` is 0 for the boot record, else a component's id;
 * offsets count from its start. `program` turns erased bytes into others, program_bytes at most and never twice;
 * `erase` gets the start of an erase block and its size. They need not read back: the core does.
 */
struct unbrickd_io {
	int (*read)(void *app, uint8_t part, uint32_t offset, uint8_t *to, uint32_t length);
	int (*program)(void *app, uint8_t part, uint32_t offset, const uint8_t *from, uint32_t length);
	int (*erase)(void *app, uint8_t part, uint32_t offset, uint32_t length);

	void (*send)(void *app, const struct unbrickd_peer *to, const uint8_t *message, uint32_t length);
	void (*random)(void *app, uint8_t *to, uint32_t length);
	void (*light)(void *app, enum unbrickd_light light);			/* may be NULL */
	void (*event)(void *app, const struct unbrickd_event *event);		/* may be NULL */

	/* c/crypto has all of these; a bootloader has them of its own. */
	void (*sha256_begin)(struct unbrickd_sha256 *hash);
	void (*sha256_add)(struct unbrickd_sha256 *hash, const uint8_t *from, uint32_t length);
	void (*sha256_end)(struct unbrickd_sha256 *hash, uint8_t digest[32]);
	uint32_t (*crc32)(uint32_t crc, const uint8_t *from, uint32_t length);	/* as zlib's; begins with 0 */
	/* The counter moves on by the blocks of 16 octets. */
	void (*aes256_ctr)(const uint8_t key[32], uint8_t counter[16], uint8_t *octets, uint32_t length);
	/* RSASSA-PKCS1-v1_5 over a SHA-256; the key is the maker's, DER SubjectPublicKeyInfo. 0: it verifies. */
	int (*verify_signature)(void *app, const uint8_t *key, uint32_t key_length, const uint8_t digest[32],
				const uint8_t *signature, uint32_t length);
};

/* All of it must stay where it is for as long as the core runs. */
struct unbrickd_config {
	const struct unbrickd_io *io;
	void *app;
	const uint8_t *identity;	/* what lies in the protected sector (flash-format.md, 2) */
	uint32_t identity_bytes;
	struct unbrickd_geometry record;
	const struct unbrickd_component *components;
	uint8_t component_count;	/* 1 to UNBRICKD_MAX_COMPONENTS */
	const struct unbrickd_peer *targets;	/* where Probes go: broadcast, ff02::7562 */
	uint8_t target_count;
	uint16_t max_message_bytes;	/* the longest the device takes, at least UNBRICKD_MIN_MESSAGE */
	uint16_t ring_frames;		/* frames the network driver takes at once; 0: no matter */
	uint32_t ahead_bytes;		/* what is taken while an erase block is written; 0: 16 KiB. Long paths need more */
	uint32_t program_bytes;		/* what io->program takes at once, a power of two; 0: 256 */
	uint8_t boot_limit;		/* failed boots before going back a generation; 3 is usual */
	uint32_t wait_ms;		/* how long to look for a server if what is in flash may boot; 60000 is usual */
};

struct unbrickd;

/* Bytes that unbrickd_init() needs for this layout, 0 if the layout is wrong. More lets it read longer documents. */
uint32_t unbrickd_memory_bytes(const struct unbrickd_config *config);

/* Set up in `memory`, of any alignment. Touches no flash. UNBRICKD_E_CONFIG, _MEMORY, _IDENTITY. */
int unbrickd_init(struct unbrickd **ub, const struct unbrickd_config *config, void *memory, uint32_t memory_bytes);

/* Compare the flash with the boot record, for a `status` command: tells UNBRICKD_CHECKED and writes nothing. */
int unbrickd_check(struct unbrickd *ub);

/*
 * Power on: repair the boot record, check the flash, decide. Afterwards unbrickd_boots() is set, or it restores.
 * These three return 0 or UNBRICKD_E_STOP. A power cut at any instant leaves a flash from which the next power-on
 * gets on; nothing is ever booted that was not verified.
 */
int unbrickd_power_on(struct unbrickd *ub, bool button_is_held, uint64_t now_us);

/* Take one message, whole, of any origin. Call unbrickd_poll() afterwards. */
int unbrickd_receive(struct unbrickd *ub, const struct unbrickd_peer *from, const uint8_t *message, uint32_t length,
		     uint64_t now_us);

/* Send what is due; `wake_us`: when to call again though nothing arrived, or UNBRICKD_NEVER. The clock only grows. */
int unbrickd_poll(struct unbrickd *ub, uint64_t now_us, uint64_t *wake_us);

/* What to boot, once that is decided; NULL before. The attempt is in the boot record already. */
const struct unbrickd_booting *unbrickd_boots(const struct unbrickd *ub);

/* Whether a light in this state is on, `ms` after it got there. */
bool unbrickd_light_is_on(enum unbrickd_light light, uint32_t ms);

/* For the console: what happened, in a few words. In src/words.c, which may be left out. */
const char *unbrickd_words(int error);

#endif
