/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* What the files of the core share. A port includes unbrickd.h only. */
#ifndef UNBRICKD_INTERNAL_H
#define UNBRICKD_INTERNAL_H

#include <string.h>

#include "unbrickd.h"

#define UB_DIGEST 32
#define UB_DEVICE_ID 16
#define UB_MODEL 32
#define UB_NAME 16
#define UB_VERSION 64
#define UB_RECORD_PART 0	/* of the flash, and in transfers the generation document */
#define UB_MAX_WINDOW 256	/* blocks outstanding, unless the device's ring takes fewer */
#define UB_SHORTEST_BLOCK 512	/* what is known of each block costs memory */
#define UB_PAGE 256u	/* what flash programs at once, and where images are filled up to */
#define UB_SLICE 4096u	/* the document comes in these */
#define UB_AHEAD 16384u	/* of the stream, behind the segment that is used up */
#define UB_SECOND 1000000u	/* all times are in microseconds */

/* Loads and stores, byte by byte: nothing is laid over a packet. */

uint16_t ub_u16(const uint8_t *at);
uint32_t ub_u32(const uint8_t *at);
void ub_put_u32(uint8_t *at, uint32_t value);

static inline uint32_t ub_min(uint32_t a, uint32_t b)
{
	return a < b ? a : b;
}

static inline uint32_t ub_max(uint32_t a, uint32_t b)
{
	return a > b ? a : b;
}

/* a / b, rounded up; of sizes that add up without overflow. */
uint32_t ub_pieces(uint32_t a, uint32_t b);

/* Whole blocks of AES, so that a ring ends between two of them. */
static inline uint32_t ub_ahead(const struct unbrickd_config *config)
{
	return (config->ahead_bytes ? config->ahead_bytes : UB_AHEAD) & ~15u;
}

/* How many blocks may be outstanding at most. */
static inline uint32_t ub_max_window(const struct unbrickd_config *config)
{
	return config->ring_frames ? ub_min(config->ring_frames, UB_MAX_WINDOW) : UB_MAX_WINDOW;
}

/* --- text.c --- */

/* One of enum unbrickd_kind. */
static inline bool ub_is_kind(uint8_t kind)
{
	return kind >= UNBRICKD_FIRMWARE && kind <= UNBRICKD_OTHER;
}

bool ub_is_utf8(const uint8_t *octets, uint32_t length);
/* The same in every bit, in a time that does not tell where they differ. */
bool ub_same(const uint8_t *a, const uint8_t *b, uint32_t length);

/* --- wire.c: spec/protocol.md §2 to §4 --- */

enum ub_type {
	UB_PROBE = 1,
	UB_PROBE_ACK = 2,
	UB_RESTORE = 5,
	UB_RESTORE_ACK = 6,
	UB_DATA_REQUEST = 7,
	UB_DATA_START = 8,
	UB_DATA_START_ACK = 9,
	UB_DATA_BLOCK = 10,
	UB_DATA_END = 11,
	UB_DATA_END_ACK = 12,
	UB_BLOCK_REQUEST = 13,
	UB_ERROR = 14,
	UB_ANNOUNCE = 15,
};

enum ub_error_code { UB_ERROR_COOKIE = 3, UB_ERROR_NO_SESSION = 4, UB_ERROR_ROTTEN = 13 };

#define UB_HEADER 16
#define UB_BLOCK_OVERHEAD (UB_HEADER + 8)
#define UB_NONCE 8
#define UB_COOKIE 16
#define UB_SERVER_ID 16
#define UB_PROTOCOL_VERSION 1
#define UB_MAX_RANGES 64
#define UB_MAX_ERROR_TEXT 200
#define UB_LONGEST_SENT (UB_HEADER + 8 + 8 * UB_MAX_RANGES)

/* A message that a device gets, its body as it came: ub_u32(message->body + UB_RESTORE_ACK_GENERATION). */
struct ub_message {
	uint8_t type;
	uint16_t transfer;
	uint32_t session;
	uint32_t length;	/* of the body */
	const uint8_t *body;
};

/* Where the fields are in a body, as in the tables of spec/protocol.md §4. Four octets long, unless it says so. */
enum ub_field {
	UB_PROBE_ACK_NONCE = 0,			/* UB_NONCE */
	UB_PROBE_ACK_SERVER_ID = 8,		/* UB_SERVER_ID */
	UB_PROBE_ACK_COOKIE = 24,		/* UB_COOKIE */
	UB_PROBE_ACK_VERSION = 40,		/* 1 */
	UB_PROBE_ACK_FLAGS = 41,		/* 1: enum ub_flag */
	UB_PROBE_ACK_RETRY_S = 42,		/* 2 */
	UB_PROBE_ACK_MAX_MESSAGE = 44,		/* 2 */
	UB_PROBE_ACK_BYTES = 48,
	UB_RESTORE_ACK_GENERATION = 0,
	UB_RESTORE_ACK_FLAGS = 4,		/* 1: enum ub_flag */
	UB_RESTORE_ACK_COUNT = 5,		/* 1 */
	UB_RESTORE_ACK_DOCUMENT_BYTES = 8,
	UB_RESTORE_ACK_DIGEST = 12,		/* UB_DIGEST */
	UB_RESTORE_ACK_SEAL = 44,		/* UB_DIGEST */
	UB_DATA_START_COMPONENT = 0,		/* 1 */
	UB_DATA_START_MAX_BLOCK = 2,		/* 2 */
	UB_DATA_START_GENERATION = 4,
	UB_DATA_START_LENGTH = 8,
	UB_DATA_START_DIGEST = 12,		/* UB_DIGEST */
	UB_DATA_START_VERSION = 44,		/* text: a length octet and so many */
	UB_DATA_BLOCK_REQUEST = 0,
	UB_DATA_BLOCK_OFFSET = 4,
	UB_DATA_BLOCK_PAYLOAD = 8,		/* to the end */
	UB_DATA_END_REQUEST = 0,
	UB_ERROR_CODE = 0,			/* 2 */
	UB_ERROR_RETRY_S = 2,			/* 2 */
	UB_ERROR_TEXT = 6,			/* text */
	UB_ANNOUNCE_LOWEST = 16,		/* 1 */
	UB_ANNOUNCE_HIGHEST = 17,		/* 1 */
};

enum ub_flag { UB_HOLDS_DEVICE = 1, UB_IS_BUSY = 2, UB_HAS_SEAL = 1 };

/* UNBRICKD_E_MESSAGE unless it is one, whole and unspoilt, that a device gets. */
int ub_decode(struct unbrickd *ub, const uint8_t *octets, uint32_t length, struct ub_message *message);

/* A message being written; there is room for the longest. */
struct ub_writer {
	uint32_t length;
	uint8_t octets[UB_LONGEST_SENT];
};

/* Begin it in ub->writer, with the session and the transfer of now. */
void ub_begin(struct unbrickd *ub, enum ub_type type);
void ub_add(struct unbrickd *ub, uint32_t value);
void ub_add_octets(struct unbrickd *ub, const uint8_t *from, uint32_t length);
/* Sets length and CRC, any number of times. */
void ub_end(struct unbrickd *ub);

/* --- seal.c: identity, keys, MACs, sealed contents; spec/flash-format.md §2, §4.1, §5 --- */

struct ub_identity {
	bool maker_signs;	/* every firmware; if not, what this device sealed may run */
	uint32_t rollback_floor;
	uint32_t maker_key_bytes;
	const uint8_t *device_id, *model, *device_key, *recovery_secret, *maker_key;
};

enum ub_key { UB_KEY_MANIFEST, UB_KEY_RECORD, UB_KEY_GOOD, UB_KEY_SIV, UB_KEY_ENC, UB_KEYS };

/* A SHA-256 in progress, or an HMAC of it. */
struct ub_hash {
	const struct unbrickd_io *io;
	struct unbrickd_sha256 state;
	bool has_key;
	uint8_t outer[64];
};

/* key: of up to 64 bytes, or NULL. */
void ub_hash_begin(const struct unbrickd *ub, struct ub_hash *hash, const uint8_t *key, uint32_t key_length);
void ub_hash_add(struct ub_hash *hash, const void *from, uint32_t length);
/* The same, of four octets. */
void ub_hash_add_u32(struct ub_hash *hash, uint32_t value);
void ub_hash_end(struct ub_hash *hash, uint8_t digest[UB_DIGEST]);
void ub_sha256(const struct unbrickd *ub, const uint8_t *from, uint32_t length, uint8_t digest[UB_DIGEST]);
/* Into ub->identity. */
int ub_decode_identity(struct unbrickd *ub, const uint8_t *octets, uint32_t length);
/* ub->keys from ub->identity. */
void ub_derive_keys(struct unbrickd *ub);
void ub_good_seal(struct unbrickd *ub, uint32_t number, const uint8_t *document_digest, uint8_t seal[UB_DIGEST]);

/* --- document.c: the generation document, spec/flash-format.md §3 and §4 --- */

/* Pointers are into the document. UNBRICKD_E_DOCUMENT. The MAC is carried, not checked. */
int ub_decode_document(const uint8_t *document, uint32_t length, struct unbrickd_generation *generation);
/* ub->generation from ub->document, of this device only: UNBRICKD_E_MAC, too. */
int ub_open_document(struct unbrickd *ub);
/* Begin the digest that the manifest has of that erase block; add what it holds. */
void ub_digest_begin(const struct unbrickd *ub, const struct unbrickd_part *part, uint32_t index,
		     struct ub_hash *hash);
void ub_image_digest(struct unbrickd *ub, const struct unbrickd_part *part, uint8_t digest[UB_DIGEST]);
/* Whether the firmware of ub->generation may run here: UNBRICKD_E_ROLLBACK, _SIGNATURE. */
int ub_check_authority(struct unbrickd *ub, uint32_t rollback_floor);

/* --- flash.c: geometry, reading and writing --- */

struct ub_erase_block {
	uint32_t index, offset, size;
};

/* 0 if the geometry is out of range (flash-format.md §1). */
uint32_t ub_count_erase_blocks(const struct unbrickd_geometry *geometry);
uint32_t ub_largest_erase_block(const struct unbrickd_geometry *geometry);
void ub_find_erase_block(const struct unbrickd_geometry *geometry, uint32_t index, struct ub_erase_block *block);
/* Whether an image is divided as this flash is, from its start on. */
bool ub_covers(const struct unbrickd_geometry *flash, const struct unbrickd_geometry *image);

int ub_read(struct unbrickd *ub, uint8_t part, uint32_t offset, uint8_t *to, uint32_t length);
/* Program what is erased, ascending; pages that are to stay blank are passed over. */
int ub_program_pages(struct unbrickd *ub, uint8_t part, uint32_t offset, const uint8_t *from, uint32_t length);
/* UNBRICKD_E_VERIFY unless flash holds these, or nothing if NULL. */
int ub_read_back(struct unbrickd *ub, uint8_t part, uint32_t offset, const uint8_t *octets, uint32_t length);
/* Make the erase block hold `octets`, all of it, or nothing if NULL; read back. A power cut leaves it undefined. */
int ub_write_erase_block(struct unbrickd *ub, uint8_t part, const struct ub_erase_block *block, const uint8_t *octets);

/* --- journal.c and record.c: spec/flash-format.md §7 --- */

enum ub_entry { UB_NOTHING, UB_ATTEMPT, UB_UP, UB_GOOD };

#define UB_SLOT 32
#define UB_MIN_SLOTS 16

struct ub_journal {
	uint32_t slots, next;
	uint32_t failed[2];	/* failed boots, if the generation is not good, and if it is */
	bool says_good;
};

void ub_encode_slot(struct unbrickd *ub, enum ub_entry entry, uint32_t sequence, uint32_t index,
		    uint8_t slot[UB_SLOT]);
/* Count one slot in; all of a journal in order. */
void ub_count_slot(struct unbrickd *ub, struct ub_journal *journal, const uint8_t slot[UB_SLOT],
		   uint32_t sequence);

/* The numbers of a record, in their order there. */
enum ub_number {
	UB_SEQUENCE, UB_COUNTER, UB_ROLLBACK_FLOOR, UB_REJECTED_FROM, UB_REJECTED_TO, UB_DOCUMENT_BYTES, UB_NUMBERS,
};

struct ub_record {
	bool loaded;
	bool good;		/* the flag; the journal may add to it */
	bool is_good;		/* by flag or journal */
	uint32_t numbers[UB_NUMBERS];
	uint32_t failed_boots;
	uint32_t number;
	uint8_t digest[UB_DIGEST];	/* of the document */
};

/* Of the record's two halves, copy A and B, in whole erase blocks; 0 if it is not two equal ones. */
uint32_t ub_half_bytes(const struct unbrickd_geometry *record);
/* The longest document that a record of such halves takes. */
uint32_t ub_record_capacity(uint32_t half_bytes);
/* The record that counts, its document into ub->document, decoded. False if there is none. */
bool ub_record_load(struct unbrickd *ub);
/* The document of the record that was loaded, into ub->document again if another took its place. */
int ub_record_reopen(struct unbrickd *ub);
/* Whether a copy was rewritten. Where that fails, the other one still counts. */
bool ub_record_repair(struct unbrickd *ub);
int ub_record_mark(struct unbrickd *ub, enum ub_entry entry);
/* Make ub->document the record's, with the numbers in ub->record. A power cut leaves the old record or this one. */
int ub_record_commit(struct unbrickd *ub);

/* --- check.c and install.c --- */

/* What of it a choice needs, of the generation that the boot record names (R21). */
struct ub_recorded {
	uint8_t id;
	uint8_t image_digest[UB_DIGEST];
	uint8_t version[UB_VERSION];
};

/* Whether a generation that this device sealed may run on it and fits: ROLLBACK, SIGNATURE, LAYOUT. */
int ub_check_generation(struct unbrickd *ub, uint32_t rollback_floor);
void ub_check_flash(struct unbrickd *ub);
/* What to ask for, into ub->checked. */
void ub_decide(struct unbrickd *ub, enum unbrickd_reason reason);
/* Compare the flash with the boot record, decide, tell. */
void ub_check(struct unbrickd *ub, bool button, bool repaired);
/* Compare the flash with the generation in ub->document: fills each part and the map of damage. */
void ub_compare(struct unbrickd *ub);
bool ub_differs(const struct unbrickd *ub, const struct unbrickd_part *part, uint32_t index);
/* How many bytes of the image lie in that erase block. */
uint32_t ub_content_bytes(const struct unbrickd_part *part, const struct ub_erase_block *block);

/* The generation in ub->document is to be installed: check it, compare, tell. */
int ub_install_begin(struct unbrickd *ub);
/* One step of writing the erase block at the receiver's head: verify and erase, or program a piece and read it back. */
int ub_install_step(struct unbrickd *ub);
/* After the last of them. */
bool ub_install_is_written(const struct unbrickd *ub);
/* The boot record, last. */
int ub_install_finish(struct unbrickd *ub);

/* --- repeater.c: requests that are repeated, protocol.md §6 --- */

#define UB_PROBE_WAIT (UB_SECOND / 20)	/* for the answer of whoever is there */
#define UB_FIRST_WAIT (UB_SECOND / 10)	/* for that of a server whose round trip is not known */
#define UB_SHORTEST_WAIT (UB_SECOND / 50)
#define UB_LONGEST_WAIT (2 * UB_SECOND)
#define UB_TRIES 11
#define UB_FOR_EVER 0xFF

/* Of the one request that is repeated at a time. */
struct ub_repeater {
	uint64_t due_us;
	uint32_t wait_us;
	uint8_t left;
};

void ub_repeater_start(struct unbrickd *ub, uint64_t due_us, uint8_t tries);
/* 1: send it now; 0: not yet; UNBRICKD_E_SILENT: the last one's wait is over. */
int ub_repeater_poll(struct unbrickd *ub);

/* --- discovery.c: protocol.md §1, §4.1, §4.2 --- */

#define UB_MAX_ANNOUNCED 8
#define UB_MAX_FOUND 8
#define UB_MAX_AVOIDED 16
#define UB_AVOID_S 30

struct ub_server {
	struct unbrickd_peer peer;
	uint32_t wait_us;			/* the first one for an answer of it */
	uint8_t ack[UB_PROBE_ACK_BYTES];	/* the body of its Probe-Ack */
};

struct ub_avoided {
	struct unbrickd_peer peer;
	uint64_t until_us;
};

struct ub_discovery {
	uint8_t nonce[UB_NONCE];	/* of the last Probe; its last octet tells them apart */
	uint8_t announced_count, found_count, holding_count;	/* holding: of those found, how many hold this device */
	uint64_t probe_us;	/* the next Probe, at the earliest */
	struct unbrickd_peer announced[UB_MAX_ANNOUNCED];	/* the latest last */
	struct ub_server found[UB_MAX_FOUND];
	struct ub_avoided avoided[UB_MAX_AVOIDED];
};

void ub_discovery_restart(struct unbrickd *ub);
void ub_discovery_avoid(struct unbrickd *ub, const struct unbrickd_peer *peer, uint32_t for_s);
void ub_discovery_receive(struct unbrickd *ub, const struct unbrickd_peer *peer, const struct ub_message *message);
/* Sends the Probes that are due; once a server is found, what is due is the choice. The server chosen, or NULL. */
const struct ub_server *ub_discovery_poll(struct unbrickd *ub);

/* --- window.c: how many blocks may be outstanding, and for how long --- */

struct ub_window {
	uint32_t max_blocks;
	uint32_t size_q8;		/* blocks × 256 */
	uint32_t srtt_us, variation_us;	/* srtt 0: no sample yet */
	uint8_t backoff;
	bool starting, limited;
	uint32_t next_place;		/* of the next block asked for: its number in the order of request */
	uint32_t round_ends_at, counts_from, run_ends_at;
	uint32_t shortest_us, last_us, base_us;	/* last: the shortest of the round before (window.py says why it counts) */
	uint32_t blocks, blocks_us, last_blocks, last_blocks_us;	/* so many came in that time, in the round and in the last */
	uint32_t left_blocks;		/* when the next are asked for: those that no queue holds, and some */
	uint32_t calm_rounds;
	uint32_t loss_q20, usual_loss_q20;
	int32_t excess_q20;
	uint32_t counted, lost;
	uint32_t trial_left, trial_size_q8, trial_loss_q20;	/* blocks to come, and what was before it */
};

void ub_window_start(struct ub_window *w, uint32_t max_blocks);
uint32_t ub_window_blocks(const struct ub_window *w);
/* How many to ask for at once, if the device has room for so many in all. */
uint32_t ub_window_batch(const struct ub_window *w, uint32_t room_blocks);
/* outstanding: of the flight. limited: the window, rather than what is wanted, bounds the requests now. */
void ub_window_arrived(struct ub_window *w, uint32_t place, uint32_t rtt_us, uint32_t outstanding, bool limited);
void ub_window_lost(struct ub_window *w, uint32_t place);
void ub_window_timed_out(struct ub_window *w);
bool ub_window_is_lossy(const struct ub_window *w);
uint32_t ub_window_timeout_us(const struct ub_window *w);
uint32_t ub_window_reordering_us(const struct ub_window *w);

/* --- receiver.c: what is wanted of one object as a stream; protocol.md §4.10 to §4.12 --- */

/* A stretch of the object that is used up as a whole: an erase block, or a slice of the document. */
struct ub_segment {
	uint32_t index, offset, length;	/* length 0: there is none, the stream is at its end */
};

/* A block that was asked for. */
struct ub_block {
	uint32_t offset;
	uint16_t length;
	uint8_t state;
};

/* One that has not arrived, or had not when it was given up. */
struct ub_flight {
	uint32_t offset;
	uint32_t place;			/* its number in the order of asking */
	uint32_t asked_us;		/* the low 32 bits of the time */
	uint16_t request;		/* the low 16 bits of the BlockRequest's number */
	uint16_t outstanding;		/* blocks, with it, when it had been asked for; 0: the window did not bound them */
};

#define UB_MAX_GIVEN_UP 32

/* What a receiver works with: the caller's, and stays. */
struct ub_storage {
	struct unbrickd *ub;
	uint8_t *ring;
	struct ub_flight *flights;	/* the oldest first; room for window.max_blocks */
	struct ub_block *blocks;	/* asked for and not used up, in the order of the stream */
	uint32_t block_room;
};

/* Positions in the stream count its bytes from 0. */
struct ub_receiver {
	struct ub_storage storage;
	uint32_t stream_bytes, ring_bytes, ring_blocks, block_bytes;
	struct ub_segment head;		/* the one that is used up next */
	uint32_t head_at, released, asked;	/* positions: where it begins; the ring is free up to; asked for up to */
	struct ub_segment unasked;	/* what is left to ask for of the segment that is asked for next, and its last block */
	uint32_t blocks_at;		/* where in the stream the first of the blocks begins: it may reach into the head */
	uint32_t block_count, lost_count, flight_count;
	uint32_t request, void_up_to;	/* the last one's number; what is of one up to that does not count */
	uint32_t armed_us, quiet_since_us;	/* the low 32 bits of the time */
	uint32_t end_request, end_us;	/* of the last DataEnd, 0: none; when what is outstanding of it is lost */
	uint32_t newest_place;		/* after it; of those that arrived. 0: none did */
	uint32_t reordering_places;
	uint32_t blocks_received;
	struct ub_window window;
	uint32_t given_up_count;	/* the last UB_MAX_GIVEN_UP are kept */
	struct ub_flight given_up[UB_MAX_GIVEN_UP];
};

void ub_receiver_start(struct ub_receiver *r, uint16_t block_bytes);
/* What was not asked for is ignored. */
void ub_receiver_block(struct ub_receiver *r, const struct ub_message *message);
void ub_receiver_end(struct ub_receiver *r, uint32_t request);
/* All of the head is there. */
bool ub_receiver_is_whole(const struct ub_receiver *r);
/* Bytes of the head; `length`: of those wanted, how many lie there in one piece. */
uint8_t *ub_receiver_head(const struct ub_receiver *r, uint32_t offset, uint32_t *length);
/* It is used up: on to the next. */
void ub_receiver_accept(struct ub_receiver *r);
/* It is not what it must be: fetch it again, and what follows. */
void ub_receiver_reject(struct ub_receiver *r);
/* Give up what is lost by now; whether to request, or better wait for more arrivals. */
bool ub_receiver_is_due(struct ub_receiver *r);
/* Begin the next BlockRequest; how often to send it, 0 if there is none. */
uint32_t ub_receiver_request(struct ub_receiver *r);
uint64_t ub_receiver_timer(const struct ub_receiver *r);

/* --- fetch.c: one object, from DataRequest to its last segment; protocol.md §4.7 to §4.13 --- */

struct ub_fetch {
	bool started, ack_due;
	bool is_writing, is_second_try;	/* the erase block at the head, once it was verified */
	uint8_t component;		/* id; 0: the document */
	uint16_t transfer, max_block;	/* transfer: 0 if nothing is being fetched */
	const struct unbrickd_part *part;	/* NULL: the document */
	uint32_t length;
	uint32_t done, rejected;	/* of segments */
	uint32_t written;		/* of it */
};

void ub_fetch_document(struct unbrickd *ub);
/* The first component from that part on of which something differs; false: there is none. */
bool ub_fetch_component(struct unbrickd *ub, const struct unbrickd_part *part);
int ub_fetch_receive(struct unbrickd *ub, const struct ub_message *message);
int ub_fetch_poll(struct unbrickd *ub);
/* The first segment that is wanted, from that index on. */
void ub_find_segment(const struct unbrickd *ub, uint32_t index, struct ub_segment *segment);
/* There is a whole erase block at the receiver's head. */
bool ub_fetch_is_writable(const struct unbrickd *ub);
/* The head was used up. True if it was the last. */
bool ub_fetch_accept(struct unbrickd *ub);

/* --- session.c: with servers, one after the other --- */

enum ub_state { UB_IDLE, UB_PROBING, UB_ASKING, UB_FETCHING };

void ub_session_start(struct unbrickd *ub);
void ub_session_receive(struct unbrickd *ub, const struct unbrickd_peer *from, const uint8_t *octets, uint32_t length);
void ub_session_poll(struct unbrickd *ub);
uint64_t ub_session_timer(const struct unbrickd *ub);
/* The document's buffer was used for something else: ask the server for its offer again. */
void ub_session_forget_transfer(struct unbrickd *ub);
/* All of the object is there. */
int ub_session_fetched(struct unbrickd *ub);
/* What stands in ub->writer. */
void ub_send(struct unbrickd *ub, const struct unbrickd_peer *to);
/* The same, to the server of this session. */
void ub_answer(struct unbrickd *ub);

/* --- event.c and bootloader.c --- */

/* An empty one in ub->event, to be filled and told. */
struct unbrickd_event *ub_event(struct unbrickd *ub, enum unbrickd_event_kind kind, const struct unbrickd_peer *server);
void ub_tell(struct unbrickd *ub);

/* What is small and used everywhere comes first, octets before words: it is reached by the shortest instructions. */
struct unbrickd {
	const struct unbrickd_config *config;
	const struct unbrickd_io *io;
	uint64_t now_us;
	bool stopped;		/* a flash function said so: no function is called any more */
	bool stirred;		/* a message came or went, or flash worked: see session.c */
	bool muted;		/* what is sent now would not be answered any more */
	bool holds_record;	/* the document in memory is the boot record's, opened */
	bool is_compared;	/* with the flash as it is; each part and the map of damage say how */
	bool offered, booted;
	bool flash_changed, installing, restored;
	uint8_t light;		/* enum unbrickd_light */
	uint8_t state;		/* enum ub_state */
	uint8_t setbacks, withdrawn, recorded_count;
	struct ub_fetch fetch;

	uint8_t *buffer;	/* the receiver's ring; else for erase blocks, the largest fits */
	uint32_t buffer_bytes;
	uint8_t *document;	/* what is being verified, installed or fetched */
	uint32_t document_bytes;
	struct unbrickd_checked checked;
	uint16_t transfer, max_message;	/* transfer: the number of the last one begun */
	uint32_t session;	/* 0: with none */
	uint32_t offer_generation, offer_document_bytes;
	uint64_t retry_us, boot_anyway_us;	/* UNBRICKD_NEVER: not set */
	uint64_t progress_us;
	struct ub_repeater repeater;
	struct unbrickd_generation generation;	/* of the document, once it is opened */

	uint32_t half_bytes;	/* of the boot record */
	uint32_t document_room;
	uint8_t *damage;	/* a bit per erase block of all components */
	uint32_t failed_generation;
	int flash_failure;
	uint32_t payload_bytes;
	uint8_t offer_digest[UB_DIGEST];
	uint8_t object_digest[UB_DIGEST];	/* of what is being fetched */
	struct ub_server server;
	struct ub_receiver receiver;
	struct ub_identity identity;
	struct ub_record record;
	uint8_t keys[UB_KEYS][UB_DIGEST];
	struct unbrickd_booting booting;
	struct ub_writer writer;
	struct unbrickd_event event;	/* the one being told */
	struct ub_discovery discovery;
	struct ub_recorded recorded[UNBRICKD_MAX_COMPONENTS];
};

#endif
