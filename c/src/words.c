/* SPDX-License-Identifier: GPL-2.0-or-later OR BSD-2-Clause */
/* Errors in words, for the console. Left out, nothing else misses it. */
#include "unbrickd.h"

const char *unbrickd_words(int error)
{
	switch (error) {
	case UNBRICKD_OK: return "all is well";
	case UNBRICKD_E_CONFIG: return "the configuration of the core is wrong";
	case UNBRICKD_E_MEMORY: return "too little memory";
	case UNBRICKD_E_IDENTITY: return "no device identity in the protected sector";
	case UNBRICKD_E_FLASH: return "the flash cannot be read or written";
	case UNBRICKD_E_VERIFY: return "the flash reads back wrong: it is worn out";
	case UNBRICKD_E_NO_RECORD: return "the boot record is lost";
	case UNBRICKD_E_CAPACITY: return "the generation document is too long";
	case UNBRICKD_E_STOP: return "stopped";
	case UNBRICKD_E_SILENT: return "it stopped answering";
	case UNBRICKD_E_STALLED: return "it stopped sending";
	case UNBRICKD_E_AGAIN: return "it asks to begin again";
	case UNBRICKD_E_NOTHING_HELD: return "it holds no good backup of this device that may be restored";
	case UNBRICKD_E_NOTHING_WHOLE: return "it offers nothing that is whole";
	case UNBRICKD_E_SLOW: return "it is too slow";
	case UNBRICKD_E_ERROR: return "it refused";
	case UNBRICKD_E_MESSAGE: return "this is no message of the protocol";
	case UNBRICKD_E_OTHER_IMAGE: return "it announces another image than it was asked for";
	case UNBRICKD_E_SHORT_BLOCKS: return "it sends blocks that are too short";
	case UNBRICKD_E_REJECTED: return "it offers a generation which failed here before";
	case UNBRICKD_E_GOOD_SEAL: return "it offers a generation without this device's good seal";
	case UNBRICKD_E_DOCUMENT: return "its generation document is not the one it offered";
	case UNBRICKD_E_MAC: return "its generation document was not sealed by this device";
	case UNBRICKD_E_DIGEST: return "an erase block is not what was backed up";
	case UNBRICKD_E_ROLLBACK: return "the firmware has a rollback index below what this device accepts";
	case UNBRICKD_E_SIGNATURE: return "the maker did not sign this firmware for this model";
	case UNBRICKD_E_LAYOUT: return "the generation does not fit this device's flash layout";
	default: return "unknown";
	}
}
