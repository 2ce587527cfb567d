# SPDX-License-Identifier: Apache-2.0
"""The fifteen messages as frozen values, each with its body's bytes (spec/protocol.md §4); import them from here.

Decoding takes a body of any origin and raises only RemoteProtocolError. Bytes after the known fields are ignored (§3).
"""

from unbrickd.wire.fields import Type
from unbrickd.wire.frozen import (
    COOKIE_BYTES,
    MAX_ERROR_TEXT_BYTES,
    NONCE_BYTES,
    SERVER_ID_BYTES,
    Announce,
    Error,
    ErrorCode,
    Probe,
    ProbeAck,
    Purpose,
)
from unbrickd.wire.moving import (
    MAX_RANGES,
    BlockRequest,
    DataBlock,
    DataEnd,
    DataEndAck,
    DataRequest,
    DataStart,
    DataStartAck,
    EndStatus,
    StartStatus,
)
from unbrickd.wire.opening import (
    BACKUP_SIGNATURE_CONTEXT,
    NO_SEAL,
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    Backup,
    BackupAck,
    ComponentRecord,
    ComponentStatus,
    Restore,
    RestoreAck,
)

__all__ = [
    "BACKUP_SIGNATURE_CONTEXT",
    "COOKIE_BYTES",
    "MAX_ERROR_TEXT_BYTES",
    "MAX_RANGES",
    "NONCE_BYTES",
    "NO_SEAL",
    "PUBLIC_KEY_BYTES",
    "SERVER_ID_BYTES",
    "SIGNATURE_BYTES",
    "Announce",
    "Backup",
    "BackupAck",
    "BlockRequest",
    "ComponentRecord",
    "ComponentStatus",
    "DataBlock",
    "DataEnd",
    "DataEndAck",
    "DataRequest",
    "DataStart",
    "DataStartAck",
    "EndStatus",
    "Error",
    "ErrorCode",
    "Probe",
    "ProbeAck",
    "Purpose",
    "Restore",
    "RestoreAck",
    "StartStatus",
    "Type",
]
