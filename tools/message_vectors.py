# SPDX-License-Identifier: Apache-2.0
"""The golden datagrams of spec/vectors/messages.json: every message in its least, its usual and its greatest form.

Called by make_vectors.py. Fields of bytes count up from a value of their own, so that they are seen in a hex dump.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

from unbrickd.model.manifest import ComponentKind
from unbrickd.wire import messages as m
from unbrickd.wire.packet import Message, encode


def messages() -> object:
    return {
        "what": "every message: its fields by name, and the whole datagram (protocol.md §2, §4)",
        "cases": [
            {
                "name": name,
                "type": int(message.TYPE),
                "session": session,
                "transfer": transfer,
                "fields": _fields(message),
                "octets": encode(message, session=session, transfer=transfer),
            }
            for name, session, transfer, message in vector_messages()
        ],
    }


def _fields(message: object) -> dict[str, object]:
    """A message's fields by name, records within records likewise; enumerations as numbers, no good seal as null."""
    assert is_dataclass(message)
    named = {f.name: getattr(message, f.name) for f in fields(message) if f.compare}
    return {
        name: [_fields(v) if is_dataclass(v) else v for v in value] if isinstance(value, tuple) else value
        for name, value in named.items()
    }


def vector_messages() -> list[tuple[str, int, int, Message]]:
    """(name, session, transfer, message): each type in its least, its usual and its greatest form."""
    device_id, server_id, nonce, cookie = _run(0x10, 16), _run(0x20, 16), _run(0x30, 8), _run(0x40, 16)
    key, digest, seal, signature = _run(0x60, 32), _run(0x80, 32), _run(0xA0, 32), _run(0xC0, 64)
    session, top = 0x01020304, 0xFFFFFFFF
    firmware = m.ComponentRecord(
        component_id=1,
        kind=ComponentKind.FIRMWARE,
        sealed=False,
        length_bytes=0x00700000,
        image_digest=_run(0x01, 32),
        version="2.4.1",
    )
    config = m.ComponentRecord(
        component_id=2,
        kind=ComponentKind.CONFIG,
        sealed=True,
        length_bytes=0x00010203,
        image_digest=_run(0x02, 32),
        version="",
    )
    eight = tuple(replace(firmware, component_id=248 + i, version="é" * 32) for i in range(8))
    backup = m.Backup(
        cookie=cookie,
        device_id=device_id,
        public_key=key,
        generation=5,
        document_length_bytes=1234,
        document_digest=digest,
        components=(firmware, config),
        good_seal=seal,
        signature=signature,
    )
    restore_ack = m.RestoreAck(
        generation=5,
        document_length_bytes=1234,
        document_digest=digest,
        components=(firmware, config),
        good_seal=seal,
    )
    probe = m.Probe(device_id=device_id, nonce=nonce, purpose=m.Purpose.RESTORE, max_message_bytes=1232, ring_frames=8)
    probe_ack = m.ProbeAck(nonce=nonce, server_id=server_id, cookie=cookie, holds_device=True, max_message_bytes=1452)
    start = m.DataStart(
        component_id=1, max_block_bytes=1428, generation=5, length_bytes=0x00700000, digest=digest, version="2.4.1"
    )
    return [
        ("probe to restore, ring of 8", 0, 0, probe),
        ("probe to back up", 0, 0, replace(probe, purpose=m.Purpose.BACKUP, max_message_bytes=65535, ring_frames=0)),
        ("probe-ack of a server that holds the device", 0, 0, probe_ack),
        ("probe-ack of a busy server", 0, 0, replace(probe_ack, holds_device=False, busy=True, retry_after_s=300)),
        ("backup of two components, good", session, 0, backup),
        ("backup of one component, not yet good", session, 0, replace(backup, components=(config,), good_seal=None)),
        ("backup of eight components, versions of 64 bytes", top, 0, replace(backup, components=eight)),
        ("backup-ack, two wanted and the document", session, 0, _backup_ack(m.ComponentStatus.WANTED, True, False)),
        ("backup-ack, committed", session, 0, _backup_ack(m.ComponentStatus.SAME, False, True)),
        ("restore by name", session, 0, m.Restore(cookie=cookie, device_id=device_id, named=5)),
        (
            "restore with rejected generations",
            session,
            0,
            m.Restore(cookie=cookie, device_id=device_id, named=0, rejected_from=3, rejected_to=top),
        ),
        ("restore-ack of two components, good", session, 0, restore_ack),
        ("restore-ack, not good", session, 0, replace(restore_ack, good_seal=None, components=(config,))),
        ("restore-ack of eight components, versions of 64 bytes", top, 0, replace(restore_ack, components=eight)),
        ("restore-ack of nothing", session, 0, m.RestoreAck()),
        (
            "data-request of a component",
            session,
            7,
            m.DataRequest(component_id=1, max_block_bytes=1208, generation=5, digest=digest),
        ),
        (
            "data-request of the document",
            session,
            1,
            m.DataRequest(component_id=0, max_block_bytes=1, generation=top, digest=digest),
        ),
        ("data-start of a component", session, 7, start),
        ("data-start of the document", session, 1, replace(start, component_id=0, length_bytes=1234, version="")),
        ("data-start-ack, go on", session, 7, m.DataStartAck(block_bytes=1208)),
        (
            "data-start-ack, held and committed",
            session,
            7,
            m.DataStartAck(block_bytes=0, status=m.StartStatus.HELD, committed=True),
        ),
        ("data-block of one byte", session, 7, m.DataBlock(request=1, offset_bytes=0, payload=b"\x00")),
        (
            "data-block that fills 1232 bytes",
            top,
            0xFFFF,
            m.DataBlock(request=top, offset_bytes=top - 1208, payload=_run(0x00, 1208)),
        ),
        ("data-end", session, 7, m.DataEnd(request=3, blocks_sent=5803)),
        ("data-end-ack, verified and committed", session, 7, _end_ack(m.EndStatus.VERIFIED, True)),
        ("data-end-ack, incomplete", session, 7, _end_ack(m.EndStatus.INCOMPLETE, False)),
        ("data-end-ack, refused", session, 7, _end_ack(m.EndStatus.REFUSED, False)),
        ("block-request of one range", session, 7, m.BlockRequest(request=1, last=False, ranges=((65536, 12080),))),
        (
            "block-request of 64 ranges, last",
            session,
            7,
            m.BlockRequest(request=top, last=True, ranges=tuple((i << 16, i + 1) for i in range(64))),
        ),
        ("block-request of no range, last", session, 7, m.BlockRequest(request=2, last=True, ranges=())),
        *(
            (f"error {code.name.lower().replace('_', '-')}", session, 7, m.Error(code=code, about=m.Type.BLOCK_REQUEST))
            for code in m.ErrorCode
        ),
        ("error of a later version", session, 0, m.Error(code=999, about=200, retry_after_s=60, text="später")),
        (
            "error with the longest text",
            session,
            0,
            m.Error(code=m.ErrorCode.BUSY, retry_after_s=65535, text="x" * 200),
        ),
        ("announce", 0, 0, m.Announce(server_id=server_id, version_lowest=1, version_highest=3)),
        ("announce with a network", 0, 0, m.Announce(server_id=server_id, prefix_bits=24)),
    ]


def _backup_ack(status: m.ComponentStatus, wanted: bool, committed: bool) -> m.BackupAck:
    return m.BackupAck(generation=5, document_wanted=wanted, committed=committed, statuses=((1, status), (2, status)))


def _end_ack(status: m.EndStatus, committed: bool) -> m.DataEndAck:
    return m.DataEndAck(status=status, committed=committed)


def _run(first: int, count: int) -> bytes:
    return bytes((first + i) & 0xFF for i in range(count))
