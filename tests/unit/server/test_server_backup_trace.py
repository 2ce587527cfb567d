# SPDX-License-Identifier: Apache-2.0
"""Backups, message by message (spec/protocol.md §5.2)."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from unbrickd.errors import StorageError
from unbrickd.model.manifest import GENERATION_OBJECT_ID
from unbrickd.model.peer import Transport
from unbrickd.server import events
from unbrickd.server.limits import GATHER_BLOCKS, GATHER_MOST_S, GATHER_PART, GATHER_STEP_S, ServerLimits
from unbrickd.server.upload import SAFE_BLOCK_BYTES
from unbrickd.sim.memory_store import MemoryUpload
from unbrickd.sim.trace import BLOCK_BYTES, CONFIG, ERASE_BLOCK_BYTES, FIRMWARE, TracedDevice, TracedServer
from unbrickd.transfer.rtt import INITIAL_TIMEOUT_S, MIN_TIMEOUT_S
from unbrickd.wire import messages as m
from unbrickd.wire.packet import encode

FIRMWARE_1 = random.Random(1).randbytes(5 * ERASE_BLOCK_BYTES - 100)
CONFIG_1 = random.Random(2).randbytes(2 * ERASE_BLOCK_BYTES)
WANTED, SAME = m.ComponentStatus.WANTED, m.ComponentStatus.SAME


def stored_image(lab: TracedServer, device: TracedDevice, number: int, component_id: int) -> bytes:
    stored = lab.vault.find(device.device_id, number)
    assert stored is not None
    manifest = stored.generation.component(component_id)
    assert manifest is not None
    return b"".join(lab.vault.read_erase_block(stored, component_id, b.index) for b in manifest.geometry)


def test_backup_first_of_a_device_uploads_document_then_components(lab: TracedServer, device: TracedDevice) -> None:
    sealed = device.make(1, FIRMWARE_1, CONFIG_1)
    assert device.probe() == m.ProbeAck(
        nonce=b"nonce678",
        server_id=bytes(range(16)),
        cookie=device.cookie,
        max_message_bytes=lab.limits.max_udp_message_bytes,
    )
    assert device.ask(device.backup(good=True), m.BackupAck) == m.BackupAck(
        generation=1, document_wanted=True, committed=False, statuses=((FIRMWARE, WANTED), (CONFIG, WANTED))
    )
    assert device.upload(GENERATION_OBJECT_ID, 1) == (
        len(sealed.document),
        m.DataEndAck(status=m.EndStatus.VERIFIED, committed=False),
    )
    assert device.upload(FIRMWARE, 2) == (len(FIRMWARE_1), m.DataEndAck(status=m.EndStatus.VERIFIED, committed=False))
    assert lab.vault.newest(device.device_id) is None, "a half backup must not show"
    assert device.upload(CONFIG, 3) == (len(CONFIG_1), m.DataEndAck(status=m.EndStatus.VERIFIED, committed=True))

    stored = lab.vault.newest_good(device.device_id)
    assert stored is not None and stored.sealed.document == sealed.document
    assert stored_image(lab, device, 1, FIRMWARE) == FIRMWARE_1
    assert stored_image(lab, device, 1, CONFIG) == CONFIG_1
    committed = lab.events()[-1]
    assert isinstance(committed, events.GenerationCommitted)
    assert committed.components == ("firmware", "config") and committed.good
    assert committed.moved_bytes == len(sealed.document) + len(FIRMWARE_1) + len(CONFIG_1)


def test_backup_of_what_is_held_ends_with_the_ack(lab: TracedServer, device: TracedDevice) -> None:
    device.make(1, FIRMWARE_1, CONFIG_1)
    device.back_up(good=False)
    device.session += 1
    assert not device.probe().holds_device
    ack = device.ask(device.backup(good=True), m.BackupAck)
    assert ack == m.BackupAck(
        generation=1, document_wanted=False, committed=True, statuses=((FIRMWARE, SAME), (CONFIG, SAME))
    )
    assert lab.vault.newest_good(device.device_id) is not None, "the device vouched for it"
    device.session += 1
    assert device.probe().holds_device
    unchanged = [e for e in lab.events() if isinstance(e, events.BackupUnchanged)]
    assert [e.became_good for e in unchanged] == [True]


def test_backup_after_a_small_change_moves_document_and_one_erase_block(
    lab: TracedServer, device: TracedDevice
) -> None:
    device.make(1, FIRMWARE_1, CONFIG_1)
    device.back_up()
    config = CONFIG_1[:-1] + bytes([CONFIG_1[-1] ^ 1])
    sealed = device.make(2, FIRMWARE_1, config)
    assert device.back_up() == len(sealed.document) + ERASE_BLOCK_BYTES
    assert stored_image(lab, device, 2, CONFIG) == config
    assert stored_image(lab, device, 1, CONFIG) == CONFIG_1
    committed = [e for e in lab.events() if isinstance(e, events.GenerationCommitted)]
    assert committed[-1].components == ("config",)


def test_backup_of_firmware_that_another_device_gave_is_held_already(
    lab: TracedServer, device: TracedDevice, other: TracedDevice
) -> None:
    device.make(1, FIRMWARE_1, CONFIG_1)
    device.back_up()
    sealed = other.make(1, FIRMWARE_1, b"other config")
    assert other.back_up() == len(sealed.document) + len(b"other config")


def test_backup_repeated_messages_get_the_same_answers(lab: TracedServer, device: TracedDevice) -> None:
    device.make(1, FIRMWARE_1, CONFIG_1)
    device.probe()
    backup = device.backup()
    assert device.say(backup) == device.say(backup)
    start = device.data_start(GENERATION_OBJECT_ID)
    ack, request = device.say(start, transfer=1)
    assert [p.message for p in device.say(start, transfer=1)] == [ack.message]
    device.send_blocks(GENERATION_OBJECT_ID, 1, [request])
    device.upload(FIRMWARE, 2)
    device.upload(CONFIG, 3)
    end = m.DataEnd(request=1, blocks_sent=8)
    committed = m.DataEndAck(status=m.EndStatus.VERIFIED, committed=True)
    assert device.ask(end, m.DataEndAck, transfer=3) == device.ask(end, m.DataEndAck, transfer=3) == committed
    assert device.ask(device.data_start(CONFIG), m.DataStartAck, transfer=4) == m.DataStartAck(
        block_bytes=0, status=m.StartStatus.HELD, committed=True
    )


def test_backup_resumed_after_a_restart_moves_only_what_is_missing(lab: TracedServer, device: TracedDevice) -> None:
    device.make(1, FIRMWARE_1, CONFIG_1)
    device.probe()
    device.ask(device.backup(), m.BackupAck)
    device.upload(GENERATION_OBJECT_ID, 1)
    _, *asked = device.say(device.data_start(FIRMWARE), transfer=2)
    device.send_blocks(FIRMWARE, 2, asked, at_most=3 * ERASE_BLOCK_BYTES)
    lab.restart()
    (refused,) = device.say(device.data_start(FIRMWARE), transfer=2)
    assert isinstance(refused.message, m.Error) and refused.message.code == m.ErrorCode.NO_SESSION
    device.session += 1
    device.probe()
    assert device.ask(device.backup(), m.BackupAck).document_wanted
    device.upload(GENERATION_OBJECT_ID, 1)
    moved, _ = device.upload(FIRMWARE, 2)
    assert moved == len(FIRMWARE_1) - 3 * ERASE_BLOCK_BYTES
    assert device.upload(CONFIG, 3)[1].committed
    resumed = [e for e in lab.events() if isinstance(e, events.UploadStarted) and e.component == "firmware"]
    assert resumed[-1].resumed_bytes == 3 * ERASE_BLOCK_BYTES


def test_backup_of_two_sessions_newer_wins_and_the_older_hears_of_it(lab: TracedServer, device: TracedDevice) -> None:
    device.make(1, FIRMWARE_1, CONFIG_1)
    device.probe()
    old = device.backup()
    device.ask(old, m.BackupAck)
    device.upload(GENERATION_OBJECT_ID, 1)
    device.say(device.data_start(FIRMWARE), transfer=2)
    device.session += 1
    error, ack = device.say(device.backup())
    assert (error.session, error.message) == (
        device.session - 1,
        m.Error(code=m.ErrorCode.SUPERSEDED, text="a newer session of this device took over"),
    )
    assert isinstance(ack.message, m.BackupAck)
    device.upload(GENERATION_OBJECT_ID, 1)
    moved, _ = device.upload(FIRMWARE, 2)
    assert moved == len(FIRMWARE_1), "the older session's upload is free for the newer one"
    (late,) = device.say(old, session=device.session - 1)
    assert isinstance(late.message, m.Error) and late.message.code == m.ErrorCode.SUPERSEDED
    assert device.upload(CONFIG, 3)[1].committed


def test_backup_that_is_whole_is_acknowledged_without_a_data_end(lab: TracedServer, device: TracedDevice) -> None:
    device.make(1, FIRMWARE_1, CONFIG_1)
    device.probe()
    device.ask(device.backup(), m.BackupAck)
    _, asked = device.say(device.data_start(GENERATION_OBJECT_ID), transfer=1)
    assert isinstance(asked.message, m.BlockRequest) and asked.message.last
    asked.message.last = False
    _, answers = device.send_blocks(GENERATION_OBJECT_ID, 1, [asked])
    assert [p.message for p in answers] == [m.DataEndAck(status=m.EndStatus.VERIFIED)]


def test_backup_lost_blocks_are_requested_again_in_time(lab: TracedServer, device: TracedDevice) -> None:
    device.make(1, FIRMWARE_1, CONFIG_1)
    device.probe()
    device.ask(device.backup(), m.BackupAck)
    _, first = device.say(device.data_start(GENERATION_OBJECT_ID), transfer=1)
    assert isinstance(first.message, m.BlockRequest)
    again = device.mine(lab.wait(1.0))
    assert again and all(isinstance(p.message, m.BlockRequest) for p in again)
    requested = {offset for p in again if isinstance(p.message, m.BlockRequest) for offset, _ in p.message.ranges}
    assert 0 in requested


@pytest.mark.parametrize(
    ("rtt_s", "again_s"),
    [
        pytest.param(0.001, MIN_TIMEOUT_S, id="LAN"),
        pytest.param(0.03, 0.09, id="three round trips"),
        pytest.param(9.0, INITIAL_TIMEOUT_S, id="Backup-Ack came late"),
    ],
)
def test_backup_first_request_is_repeated_by_the_round_trip_of_its_opening(
    lab: TracedServer, device: TracedDevice, rtt_s: float, again_s: float
) -> None:
    device.make(1, FIRMWARE_1, CONFIG_1)
    device.probe()
    device.ask(device.backup(), m.BackupAck)
    lab.wait(rtt_s)
    device.say(device.data_start(GENERATION_OBJECT_ID), transfer=1)
    assert lab.wait(again_s * 0.99) == []
    (again,) = device.mine(lab.wait(again_s * 0.02))
    assert isinstance(again.message, m.BlockRequest)


def test_backup_first_request_of_a_later_transfer_is_repeated_by_what_the_earlier_measured(
    lab: TracedServer, device: TracedDevice
) -> None:
    device.make(1, FIRMWARE_1, CONFIG_1)
    device.probe()
    device.ask(device.backup(), m.BackupAck)
    _, *asked = device.say(device.data_start(GENERATION_OBJECT_ID), transfer=1)
    assert lab.wait(rtt_s := MIN_TIMEOUT_S * 0.9) == []
    device.send_blocks(GENERATION_OBJECT_ID, 1, asked)
    device.say(device.data_start(FIRMWARE), transfer=2)
    assert lab.wait(3 * rtt_s * 0.99) == [], "RFC 6298 §2.2"
    assert lab.wait(3 * rtt_s * 0.02)


def test_backup_asks_for_more_once_all_blocks_that_came_together_are_taken(
    lab: TracedServer, device: TracedDevice
) -> None:
    device.make(1, bytes(100 * ERASE_BLOCK_BYTES), CONFIG_1)
    device.probe()
    device.ask(device.backup(), m.BackupAck)
    device.upload(GENERATION_OBJECT_ID, 1)
    _, *asked = device.say(device.data_start(FIRMWARE), transfer=2)
    ranges = [(q.message.request, *r) for q in asked if isinstance(q.message, m.BlockRequest) for r in q.message.ranges]
    came = 0
    for request, offset, length in ranges:
        for at in range(offset, offset + length, BLOCK_BYTES):
            block = m.DataBlock(request=request, offset_bytes=at, payload=bytes(min(BLOCK_BYTES, offset + length - at)))
            lab.server.receive(device.peer, encode(block, session=device.session, transfer=2), lab.now_s)
            came += 1
    assert came > 8 and not lab.drain()
    due_s = lab.server.timer()
    assert due_s is not None and due_s <= lab.now_s, "at once"
    lab.server.handle_timer(lab.now_s)
    more = [packet.message for packet in device.mine(lab.drain())]
    assert more and all(isinstance(message, m.BlockRequest) for message in more)
    due_s = lab.server.timer()
    assert due_s is not None and due_s > lab.now_s


def test_backup_of_a_device_that_falls_silent_ends_and_keeps_what_came(lab: TracedServer, device: TracedDevice) -> None:
    device.make(1, FIRMWARE_1, CONFIG_1)
    device.probe()
    device.ask(device.backup(), m.BackupAck)
    device.upload(GENERATION_OBJECT_ID, 1)
    _, *asked = device.say(device.data_start(FIRMWARE), transfer=2)
    device.send_blocks(FIRMWARE, 2, asked, at_most=2 * ERASE_BLOCK_BYTES)
    lab.wait(15)
    assert lab.server.sessions == 0 and lab.server.timer() is None
    ended = lab.events()[-1]
    assert isinstance(ended, events.SessionEnded) and ended.reason is events.SessionEnd.SILENT
    device.session += 1
    device.probe()
    device.ask(device.backup(), m.BackupAck)
    device.upload(GENERATION_OBJECT_ID, 1)
    assert device.upload(FIRMWARE, 2)[0] == len(FIRMWARE_1) - 2 * ERASE_BLOCK_BYTES


def test_backup_whose_blocks_never_arrive_is_opened_again_with_smaller_ones(
    lab: TracedServer, device: TracedDevice
) -> None:
    device.make(1, FIRMWARE_1, CONFIG_1)
    device.probe()
    device.ask(device.backup(), m.BackupAck)
    start = replace(device.data_start(GENERATION_OBJECT_ID), max_block_bytes=9000)
    ack, _ = device.say(start, transfer=1)
    assert ack.message == m.DataStartAck(block_bytes=lab.limits.max_block_bytes(Transport.UDP))
    acks = [p.message for p in device.mine(lab.wait(5)) if isinstance(p.message, m.DataStartAck)]
    assert acks == [m.DataStartAck(block_bytes=SAFE_BLOCK_BYTES)]


def test_backup_erase_block_with_a_wrong_digest_is_asked_for_again(lab: TracedServer, device: TracedDevice) -> None:
    device.make(1, FIRMWARE_1, CONFIG_1)
    device.probe()
    device.ask(device.backup(), m.BackupAck)
    device.upload(GENERATION_OBJECT_ID, 1)
    right = device.images[FIRMWARE]
    device.images[FIRMWARE] = right[:-10] + b"X" + right[-9:]
    _, *asked = device.say(device.data_start(FIRMWARE), transfer=2)
    _, answers = device.send_blocks(FIRMWARE, 2, asked)
    errors = [p.message for p in answers if isinstance(p.message, m.Error)]
    assert [(e.code, e.about) for e in errors] == [(m.ErrorCode.MALFORMED, m.Type.DATA_BLOCK)]
    end = m.DataEnd(request=1, blocks_sent=0)
    assert device.ask(end, m.DataEndAck, transfer=2) == m.DataEndAck(status=m.EndStatus.REFUSED)
    assert lab.vault.newest(device.device_id) is None
    device.images[FIRMWARE] = right
    assert device.upload(FIRMWARE, 3)[0] == len(right) % ERASE_BLOCK_BYTES, "those before it were right and are kept"


def test_backup_document_that_is_not_the_signed_one_is_refused(lab: TracedServer, device: TracedDevice) -> None:
    sealed = device.make(1, FIRMWARE_1, CONFIG_1)
    device.probe()
    device.ask(device.backup(), m.BackupAck)
    _, *asked = device.say(device.data_start(GENERATION_OBJECT_ID), transfer=1)
    device.sealed = replace(sealed, document=sealed.document[:-1] + bytes([sealed.document[-1] ^ 1]))
    _, answers = device.send_blocks(GENERATION_OBJECT_ID, 1, asked)
    assert [type(p.message) for p in answers] == [m.Error, m.DataEndAck]
    assert answers[1].message == m.DataEndAck(status=m.EndStatus.REFUSED)
    assert lab.vault.newest(device.device_id) is None


@pytest.mark.parametrize("what", ["device", "number", "components", "garbage"])
def test_backup_document_that_contradicts_backup_is_refused(
    lab: TracedServer, device: TracedDevice, other: TracedDevice, what: str
) -> None:
    device.make(1, FIRMWARE_1, CONFIG_1)
    device.probe()
    backup = device.backup()
    if what == "device":
        device.sealed = other.make(1, FIRMWARE_1, CONFIG_1)
    elif what == "number":
        device.make(2, FIRMWARE_1, CONFIG_1)
    elif what == "components":
        device.make(1, FIRMWARE_1, CONFIG_1 + b"!")
    else:
        assert device.sealed is not None
        device.sealed = replace(device.sealed, document=b"no document at all" * 10)
    assert device.sealed is not None
    signed = device.sign(
        replace(backup, document_length_bytes=len(device.sealed.document), document_digest=device.sealed.digest)
    )
    device.ask(signed, m.BackupAck)
    start = replace(device.data_start(GENERATION_OBJECT_ID), generation=1)
    _, *asked = device.say(start, transfer=1)
    _, answers = device.send_blocks(GENERATION_OBJECT_ID, 1, asked)
    error, end = (p.message for p in answers)
    assert isinstance(error, m.Error) and error.code == m.ErrorCode.MALFORMED
    assert end == m.DataEndAck(status=m.EndStatus.REFUSED)
    assert lab.vault.newest(device.device_id) is None


def test_backup_onto_a_full_disk_is_refused_and_told_to_come_back(
    lab: TracedServer, device: TracedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    device.make(1, FIRMWARE_1, CONFIG_1)
    device.probe()
    device.ask(device.backup(), m.BackupAck)
    device.upload(GENERATION_OBJECT_ID, 1)
    monkeypatch.setattr(lab.blobs, "free_bytes", lambda: 10)
    error = device.ask(device.data_start(FIRMWARE), m.Error, transfer=2)
    assert (error.code, error.retry_after_s) == (m.ErrorCode.NO_SPACE, lab.limits.retry_after_s)
    assert device.ask(device.data_start(FIRMWARE), m.Error, transfer=2).code == m.ErrorCode.NO_SPACE
    monkeypatch.undo()
    assert device.back_up() > 0


def test_backup_whose_commit_fails_is_refused_and_shows_nothing(
    lab: TracedServer, device: TracedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StorageError("the disk does not answer", code="io")

    device.make(1, FIRMWARE_1, CONFIG_1)
    device.probe()
    device.ask(device.backup(), m.BackupAck)
    device.upload(GENERATION_OBJECT_ID, 1)
    device.upload(FIRMWARE, 2)
    monkeypatch.setattr(lab.documents, "put", fail)
    _, *asked = device.say(device.data_start(CONFIG), transfer=3)
    _, answers = device.send_blocks(CONFIG, 3, asked)
    assert {p.message.code for p in answers if isinstance(p.message, m.Error)} == {m.ErrorCode.STORAGE}
    assert not any(isinstance(p.message, m.DataEndAck) for p in answers)
    assert lab.vault.newest(device.device_id) is None
    monkeypatch.undo()
    moved = device.back_up()
    assert device.sealed is not None and moved == len(device.sealed.document), "both images were kept"


def test_backup_over_tcp_takes_long_blocks(lab: TracedServer) -> None:
    device = TracedDevice(lab, "a", transport=Transport.TCP)
    device.make(1, FIRMWARE_1, CONFIG_1)
    device.probe()
    device.ask(device.backup(), m.BackupAck)
    start = replace(device.data_start(GENERATION_OBJECT_ID), max_block_bytes=60_000)
    ack, _ = device.say(start, transfer=1)
    assert ack.message == m.DataStartAck(block_bytes=16384)


def test_backup_connection_gone_suspends_its_uploads(lab: TracedServer, device: TracedDevice) -> None:
    device.make(1, FIRMWARE_1, CONFIG_1)
    device.probe()
    device.ask(device.backup(), m.BackupAck)
    lab.server.peer_gone(device.peer)
    assert lab.server.sessions == 0
    (answer,) = device.say(device.data_start(GENERATION_OBJECT_ID), transfer=1)
    assert isinstance(answer.message, m.Error) and answer.message.code == m.ErrorCode.NO_SESSION


def test_backup_replies_are_bounded_when_the_network_takes_none(device: TracedDevice) -> None:
    lab = TracedServer(ServerLimits(max_replies=8))
    device.lab = lab
    device.make(1, FIRMWARE_1, CONFIG_1)
    device.probe()
    octets = encode(device.backup(), session=device.session)
    for _ in range(100):
        lab.server.receive(device.peer, octets, lab.now_s)
    assert len(lab.drain()) == 8


@pytest.mark.parametrize("when", ["started", "ended"])
def test_backup_whose_upload_cannot_be_read_or_synced_leaves_it_free_for_the_next(
    lab: TracedServer, device: TracedDevice, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def fail(*_: object) -> bytes:
        raise StorageError("the disk does not answer", code="io")

    device.make(1, FIRMWARE_1, CONFIG_1)
    device.probe()
    device.ask(device.backup(), m.BackupAck)
    device.upload(GENERATION_OBJECT_ID, 1)
    if when == "started":
        monkeypatch.setattr(MemoryUpload, "read", fail)
        answers = device.say(device.data_start(FIRMWARE), transfer=2)
    else:
        _, *asked = device.say(device.data_start(FIRMWARE), transfer=2)
        monkeypatch.setattr(MemoryUpload, "sync", fail)
        _, answers = device.send_blocks(FIRMWARE, 2, asked)
    assert {p.message.code for p in answers if isinstance(p.message, m.Error)} == {m.ErrorCode.STORAGE}
    monkeypatch.undo()
    device.back_up()
    assert lab.vault.newest_good(device.device_id) is not None


def _all_came(device: TracedDevice) -> None:
    """A backup up to the last block of the firmware, on a disk that takes its time from there on."""
    device.make(1, FIRMWARE_1, CONFIG_1)
    device.probe()
    device.ask(device.backup(), m.BackupAck)
    device.upload(GENERATION_OBJECT_ID, 1)
    _, *asked = device.say(device.data_start(FIRMWARE), transfer=2)
    device.lab.slow_disk = True
    moved, answers = device.send_blocks(FIRMWARE, 2, asked)
    assert moved == len(FIRMWARE_1) and answers == []


def test_backup_on_a_slow_disk_is_answered_when_it_is_durable_and_others_at_once(
    lab: TracedServer, device: TracedDevice
) -> None:
    _all_came(device)
    TracedDevice(lab, "other").probe()
    assert lab.wait(3.0) == [], "nothing is asked for again"
    lab.slow_disk = False
    assert [p.message for p in device.mine(lab.drain())] == [m.DataEndAck(status=m.EndStatus.VERIFIED)]
    assert device.upload(CONFIG, 3)[1].committed


def test_backup_whose_session_ends_while_the_disk_is_slow_lets_go_of_its_upload_then(
    lab: TracedServer, device: TracedDevice
) -> None:
    _all_came(device)
    device.session += 1
    device.probe()
    _superseded, ack = device.say(device.backup())
    assert isinstance(ack.message, m.BackupAck)
    device.upload(GENERATION_OBJECT_ID, 1)
    error = device.ask(device.data_start(FIRMWARE), m.Error, transfer=2)
    assert (error.code, error.retry_after_s) == (m.ErrorCode.STORAGE, lab.limits.retry_after_s)
    lab.slow_disk = False
    assert device.mine(lab.drain()) == []
    device.session += 1
    moved = device.back_up()
    assert device.sealed is not None and moved == len(device.sealed.document) + len(CONFIG_1), "the firmware was kept"


def gathered(lab: TracedServer, device: TracedDevice, *, queue_s: float) -> list[tuple[int, float]]:
    """(blocks outstanding, how long the next may gather) after each block of an image that waits so long in a queue,
    where the document did not.
    """
    firmware = random.Random(3).randbytes(64 * ERASE_BLOCK_BYTES)
    device.make(1, firmware, CONFIG_1)
    device.probe()
    device.ask(device.backup(), m.BackupAck)
    device.upload(GENERATION_OBJECT_ID, 1)
    _, *asked = device.say(device.data_start(FIRMWARE), transfer=2)
    outstanding, seen = 0, []
    while asked:
        lab.now_s += queue_s
        requests = [packet.message for packet in asked if isinstance(packet.message, m.BlockRequest)]
        places = [
            (request.request, at)
            for request in requests
            for offset, length in request.ranges
            for at in range(offset, offset + length, BLOCK_BYTES)
        ]
        outstanding, asked = outstanding + len(places), []
        for request, at in places:
            block = m.DataBlock(request=request, offset_bytes=at, payload=firmware[at : at + BLOCK_BYTES])
            asked += device.say(block, transfer=2)
            outstanding -= 1
            more = sum(length for p in asked if isinstance(p.message, m.BlockRequest) for _, length in p.message.ranges)
            seen.append((outstanding + more // BLOCK_BYTES, lab.server.gather_s))
    return seen


def test_backup_blocks_may_gather_while_many_are_outstanding(lab: TracedServer, device: TracedDevice) -> None:
    queue_s = 2.5 * GATHER_PART * GATHER_STEP_S
    seen = gathered(lab, device, queue_s=queue_s)
    assert {many for many, _ in seen} >= {0, GATHER_BLOCKS - 1, GATHER_BLOCKS}
    assert {gather_s for many, gather_s in seen if many < GATHER_BLOCKS} == {0.0}
    assert [gather_s for many, gather_s in seen if many >= GATHER_BLOCKS][-1] == 2 * GATHER_STEP_S
    assert max(gather_s for _, gather_s in seen) <= queue_s / GATHER_PART


@pytest.mark.parametrize(
    ("queue_s", "most_s"),
    [
        pytest.param(GATHER_PART * GATHER_STEP_S * 0.9, 0.0, id="short"),
        pytest.param(10.0 * GATHER_MOST_S, GATHER_MOST_S, id="long"),
    ],
)
def test_backup_blocks_gather_by_the_queue_within_bounds(
    lab: TracedServer, device: TracedDevice, queue_s: float, most_s: float
) -> None:
    seen = gathered(lab, device, queue_s=queue_s)
    assert max(many for many, _ in seen) >= GATHER_BLOCKS
    assert max(gather_s for _, gather_s in seen) == most_s


def test_backup_blocks_may_not_gather_while_another_device_restores(
    lab: TracedServer, device: TracedDevice, other: TracedDevice
) -> None:
    other.make(1, FIRMWARE_1, b"c")
    other.back_up()
    other.offered()
    assert {gather_s for _, gather_s in gathered(lab, device, queue_s=3 * GATHER_PART * GATHER_STEP_S)} == {0.0}
