# SPDX-License-Identifier: Apache-2.0
"""Restores, message by message (spec/protocol.md §5.1)."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from unbrickd.errors import StorageError
from unbrickd.model.manifest import GENERATION_OBJECT_ID
from unbrickd.model.peer import Batch
from unbrickd.seal.generation import good_seal
from unbrickd.server import events
from unbrickd.server.limits import BATCH_BYTES, BATCH_MESSAGES, ServerLimits
from unbrickd.sim.trace import BLOCK_BYTES, CONFIG, ERASE_BLOCK_BYTES, FIRMWARE, TracedDevice, TracedServer
from unbrickd.transfer.sender import MAX_EARLY_REQUESTS
from unbrickd.wire import messages as m
from unbrickd.wire.packet import BLOCK_OVERHEAD_BYTES, decode, encode

FIRMWARE_1 = random.Random(1).randbytes(5 * ERASE_BLOCK_BYTES - 100)
FIRMWARE_2 = random.Random(3).randbytes(5 * ERASE_BLOCK_BYTES)
CONFIG_1 = random.Random(2).randbytes(2 * ERASE_BLOCK_BYTES)


@pytest.fixture
def backed_up(device: TracedDevice) -> TracedDevice:
    """Generation 1 is good, generation 2 on trial."""
    device.make(1, FIRMWARE_1, CONFIG_1)
    device.back_up(good=True)
    device.make(2, FIRMWARE_2, CONFIG_1)
    device.back_up(good=False)
    return device


def rot(lab: TracedServer, octets: bytes) -> None:
    """One bit of a stored image flips."""
    (digest,) = [d for d, (held, _) in lab.blobs.images.items() if held == octets]
    lab.blobs.images[digest] = (bytes([octets[0] ^ 1]) + octets[1:], lab.now_s)


def test_restore_offers_the_named_generation_though_it_is_on_trial(backed_up: TracedDevice) -> None:
    assert backed_up.sealed is not None
    offer = backed_up.offered(named=2)
    assert offer == m.RestoreAck(
        generation=2,
        document_length_bytes=len(backed_up.sealed.document),
        document_digest=backed_up.sealed.digest,
        components=tuple(m.ComponentRecord.of(c) for c in backed_up.sealed.generation.components),
        good_seal=None,
    )


def test_restore_offers_the_newest_good_one_where_none_is_named_or_held(backed_up: TracedDevice) -> None:
    for named in (0, 77):
        offer = backed_up.offered(named=named)
        assert offer.generation == 1
        sealed = backed_up.make(1, FIRMWARE_1, CONFIG_1)
        assert offer.good_seal == good_seal(backed_up.keys, sealed)


def test_restore_offers_nothing_that_is_rejected(backed_up: TracedDevice) -> None:
    assert backed_up.offered(named=2, rejected=(2, 2)).generation == 1
    assert backed_up.offered(named=2, rejected=(1, 2)) == m.RestoreAck()


def test_restore_serves_document_and_ranges_of_a_component(lab: TracedServer, backed_up: TracedDevice) -> None:
    offer = backed_up.offered(named=2)
    assert backed_up.sealed is not None
    document = backed_up.fetch(offer, GENERATION_OBJECT_ID, 1, ((0, offer.document_length_bytes),))
    assert document == backed_up.sealed.document
    lo, hi = ERASE_BLOCK_BYTES, 3 * ERASE_BLOCK_BYTES
    octets = backed_up.fetch(offer, FIRMWARE, 2, ((lo, hi - lo), (4 * ERASE_BLOCK_BYTES, 100)))
    assert octets == FIRMWARE_2[lo:hi] + FIRMWARE_2[4 * ERASE_BLOCK_BYTES :][:100]
    served = [e for e in lab.events() if isinstance(e, events.RestoreServed)]
    assert [(e.component, e.moved_bytes) for e in served] == [("", len(document)), ("firmware", len(octets))]


def test_restore_range_across_erase_blocks_is_cut_into_blocks_not_at_them(backed_up: TracedDevice) -> None:
    offer = backed_up.offered(named=2)
    assert backed_up.fetch(offer, FIRMWARE, 1, ((100, 9000),)) == FIRMWARE_2[100:9100]


def test_restore_repeated_messages_get_the_same_answers(backed_up: TracedDevice) -> None:
    offer = backed_up.offered(named=2)
    restore = backed_up.restore(named=2)
    assert backed_up.ask(restore, m.RestoreAck) == offer
    request = backed_up.data_request(offer, FIRMWARE)
    start = backed_up.ask(request, m.DataStart, transfer=1)
    assert backed_up.ask(request, m.DataStart, transfer=1) == start
    wanted = m.BlockRequest(request=1, last=False, ranges=((0, 10),))
    for _ in range(2):
        assert backed_up.ask(wanted, m.DataStart, transfer=1) == start, "before DataStart-Ack, DataStart is said again"
    block = m.DataBlock(request=1, offset_bytes=0, payload=FIRMWARE_2[:10])
    assert backed_up.ask(m.DataStartAck(block_bytes=BLOCK_BYTES), m.DataBlock, transfer=1) == block
    assert not backed_up.say(m.DataStartAck(block_bytes=BLOCK_BYTES), transfer=1)
    assert not backed_up.say(wanted, transfer=1), "each block is sent once"


def test_restore_flood_of_requests_before_data_start_ack_keeps_the_last_few(backed_up: TracedDevice) -> None:
    offer = backed_up.offered(named=2)
    backed_up.ask(backed_up.data_request(offer, FIRMWARE), m.DataStart, transfer=1)
    for number in range(1, 101):
        backed_up.say(m.BlockRequest(request=number, last=False, ranges=((number, 1),)), transfer=1)
    sent = backed_up.say(m.DataStartAck(block_bytes=BLOCK_BYTES), transfer=1)
    blocks = [p.message.request for p in sent if isinstance(p.message, m.DataBlock)]
    assert blocks == [*range(101 - MAX_EARLY_REQUESTS, 101)]


def test_restore_transfer_opened_anew_with_smaller_blocks_starts_from_request_1(backed_up: TracedDevice) -> None:
    offer = backed_up.offered(named=2)
    backed_up.ask(backed_up.data_request(offer, FIRMWARE), m.DataStart, transfer=1)
    for size in (BLOCK_BYTES, 512):
        backed_up.say(m.DataStartAck(block_bytes=size), transfer=1)
        sent = backed_up.say(m.BlockRequest(request=1, last=False, ranges=((0, 1024),)), transfer=1)
        assert [len(p.message.payload) for p in sent if isinstance(p.message, m.DataBlock)] == [size] * (1024 // size)


def test_restore_late_messages_of_a_transfer_that_is_over_are_passed_over(backed_up: TracedDevice) -> None:
    offer = backed_up.offered(named=2)
    backed_up.fetch(offer, FIRMWARE, 1, ((0, 10),))
    assert not backed_up.say(m.BlockRequest(request=2, last=True, ranges=((0, 10),)), transfer=1)
    assert not backed_up.say(m.DataEndAck(status=m.EndStatus.VERIFIED), transfer=1)


def test_restore_after_a_server_restart_begins_with_a_probe_and_goes_on(
    lab: TracedServer, backed_up: TracedDevice
) -> None:
    offer = backed_up.offered(named=2)
    backed_up.ask(backed_up.data_request(offer, FIRMWARE), m.DataStart, transfer=1)
    lab.restart()
    lost = backed_up.ask(m.BlockRequest(request=1, last=True, ranges=((0, 10),)), m.Error, transfer=1)
    assert lost.code == m.ErrorCode.NO_SESSION
    assert backed_up.ask(backed_up.restore(named=2), m.Error).code == m.ErrorCode.COOKIE
    assert backed_up.offered(named=2) == offer
    assert backed_up.fetch(offer, FIRMWARE, 1, ((0, 10),)) == FIRMWARE_2[:10]


def test_restore_of_a_rotten_image_is_refused_and_the_older_good_generation_offered(
    lab: TracedServer, backed_up: TracedDevice
) -> None:
    offer = backed_up.offered(named=2)
    rot(lab, FIRMWARE_2)
    backed_up.ask(backed_up.data_request(offer, FIRMWARE), m.DataStart, transfer=1)
    backed_up.say(m.DataStartAck(block_bytes=BLOCK_BYTES), transfer=1)
    error = backed_up.ask(m.BlockRequest(request=1, last=True, ranges=((0, 10),)), m.Error, transfer=1)
    assert error.code == m.ErrorCode.ROTTEN
    assert any(isinstance(e, events.Rotten) and e.number == 2 for e in lab.events())
    older = backed_up.ask(backed_up.restore(named=2), m.RestoreAck)
    assert older.generation == 1
    assert backed_up.fetch(older, FIRMWARE, 2, ((0, 10),)) == FIRMWARE_1[:10]
    assert backed_up.offered(named=2).generation == 1, "nor is it offered in another session"


def test_restore_of_which_all_is_rotten_ends_with_no_offer(lab: TracedServer, backed_up: TracedDevice) -> None:
    rot(lab, CONFIG_1)
    offer = backed_up.offered(named=2)
    for transfer in (1, 2):
        backed_up.ask(backed_up.data_request(offer, CONFIG), m.DataStart, transfer=transfer)
        backed_up.say(m.DataStartAck(block_bytes=BLOCK_BYTES), transfer=transfer)
        wanted = m.BlockRequest(request=1, last=True, ranges=((0, 10),))
        assert backed_up.ask(wanted, m.Error, transfer=transfer).code == m.ErrorCode.ROTTEN
        offer = backed_up.ask(backed_up.restore(named=2), m.RestoreAck)
    assert offer == m.RestoreAck()


def test_restore_goes_on_while_the_catalogue_cannot_be_written(
    lab: TracedServer, backed_up: TracedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StorageError("the disk is full", code="disk-full")

    monkeypatch.setattr(lab.catalogue, "saw", fail)
    assert backed_up.offered(named=2).generation == 2


def test_restore_blocks_of_two_sessions_take_turns_and_a_blocked_channel_keeps_its_own(
    lab: TracedServer, backed_up: TracedDevice, other: TracedDevice
) -> None:
    other.peer = replace(other.peer, channel=7)
    other.make(1, FIRMWARE_1, b"c")
    other.back_up()
    for device in (backed_up, other):
        offer = device.offered()
        device.ask(device.data_request(offer, FIRMWARE), m.DataStart, transfer=1)
        device.say(m.DataStartAck(block_bytes=32), transfer=1)
    for device in (backed_up, other):
        wanted = m.BlockRequest(request=1, last=False, ranges=((0, 3 * BATCH_MESSAGES * 32),))
        lab.server.receive(device.peer, encode(wanted, session=device.session, transfer=1), lab.now_s)
    slow = frozenset({7})
    turns = [(batch.peer, len(list(batch.messages()))) for _ in range(3) if (batch := lab.server.next_batch())]
    whole = BATCH_MESSAGES
    assert turns == [(backed_up.peer, whole), (other.peer, 1), (backed_up.peer, whole)], "a newcomer waits for nobody"
    held = [lab.server.next_batch(slow) for _ in range(2)]
    assert [batch and batch.peer for batch in held] == [backed_up.peer, None]
    assert lab.server.wants_write
    assert [peer for peer, _ in lab.drain()] == (3 * BATCH_MESSAGES - 1) * [other.peer]


def blocks_of(batch: Batch) -> list[tuple[int, int, int]]:
    """(request, offset, length) of every DataBlock in it."""
    blocks = []
    for octets in batch.messages():
        message = decode(octets).message
        assert isinstance(message, m.DataBlock)
        blocks.append((message.request, message.offset_bytes, len(message.payload)))
    return blocks


def test_restore_batches_hold_what_was_asked_for_in_order_and_no_more(
    lab: TracedServer, backed_up: TracedDevice
) -> None:
    seed = random.randrange(1 << 32)
    rng, size = random.Random(seed), 100
    offer = backed_up.offered(named=2)
    backed_up.ask(backed_up.data_request(offer, FIRMWARE), m.DataStart, transfer=1)
    backed_up.say(m.DataStartAck(block_bytes=size), transfer=1)
    asked: list[tuple[int, int, int]] = []
    for request in range(1, 9):
        starts = sorted(rng.sample(range(0, len(FIRMWARE_2), size), 2 * rng.randint(1, 4)))
        ranges = [(a, min(b, len(FIRMWARE_2)) - a - rng.choice((0, 0, 7))) for a, b in pairwise(starts)][::2]
        for offset, length in ranges:
            asked += [(request, at, min(size, offset + length - at)) for at in range(offset, offset + length, size)]
        wanted = m.BlockRequest(request=request, last=False, ranges=tuple(ranges))
        lab.server.receive(backed_up.peer, encode(wanted, session=backed_up.session, transfer=1), lab.now_s)
    sent: list[tuple[int, int, int]] = []
    batches = 0
    while (batch := lab.server.next_batch()) is not None:
        blocks, batches = blocks_of(batch), batches + 1
        assert batch.message_bytes == size + BLOCK_OVERHEAD_BYTES
        assert len(blocks) <= BATCH_MESSAGES and len(batch.octets) <= BATCH_BYTES
        assert all(length == size for _, _, length in blocks[:-1]), f"only the last may be shorter; seed {seed}"
        sent += blocks
    assert sent == asked, f"seed {seed}"
    assert batches <= len(asked) // BATCH_MESSAGES + sum(length < size for _, _, length in asked) + 1, f"seed {seed}"


def test_restore_of_a_device_from_its_own_host_replaces_its_older_session_but_no_strangers_does(
    lab: TracedServer, backed_up: TracedDevice
) -> None:
    offer = backed_up.offered(named=2)
    victim = backed_up.peer
    backed_up.peer = replace(victim, host="198.51.100.9")
    backed_up.offered()
    assert lab.server.sessions >= 2
    backed_up.peer = victim
    backed_up.session -= 1
    backed_up.ask(backed_up.data_request(offer, FIRMWARE), m.DataStart, transfer=1)
    backed_up.session += 5
    backed_up.probe()
    superseded, ack = backed_up.say(backed_up.restore(named=2))
    assert isinstance(superseded.message, m.Error) and superseded.message.code == m.ErrorCode.SUPERSEDED
    assert isinstance(ack.message, m.RestoreAck)


def test_restore_that_has_what_it_asked_for_makes_room_and_one_under_way_does_not(device: TracedDevice) -> None:
    lab = TracedServer(ServerLimits(max_sessions=1))
    device.lab, other = lab, TracedDevice(lab, "bb")
    for each in (device, other):
        each.make(1, FIRMWARE_1, CONFIG_1)
        each.back_up()
    offer = device.offered()
    assert other.probe(m.Purpose.RESTORE).busy, "it may be about to ask"
    device.ask(device.data_request(offer, FIRMWARE), m.DataStart, transfer=1)
    assert other.probe(m.Purpose.RESTORE).busy
    device.fetch(offer, FIRMWARE, 2, ((0, 10),))
    assert other.offered().generation == 1
    lost = device.ask(device.data_request(offer, CONFIG), m.Error, transfer=3)
    assert lost.code == m.ErrorCode.NO_SESSION, "from which it goes on with a Probe"


def test_restores_of_many_devices_are_noted_by_one_write_within_a_second(
    lab: TracedServer, device: TracedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[set[bytes]] = []
    monkeypatch.setattr(lab.vault, "saw", noted.append)
    street = [device, *(TracedDevice(lab, name) for name in ("b", "c"))]
    for each in street:
        each.make(1, FIRMWARE_1, CONFIG_1)
        each.back_up()
        each.offered()
    lab.wait(0.9)
    assert noted == []
    lab.wait(0.2)
    assert noted == [{each.device_id for each in street}]
    device.offered()
    lab.server.close()
    assert noted[1:] == [{device.device_id}], "and what is left when the server stops"


def test_restore_session_is_forgotten_after_a_minute(lab: TracedServer, backed_up: TracedDevice) -> None:
    backed_up.offered()
    lab.wait(61)
    assert lab.server.sessions == 0 and lab.server.timer() is None


def test_rot_that_another_process_found_is_marked_and_its_sightings_noted(
    lab: TracedServer, backed_up: TracedDevice
) -> None:
    offer = backed_up.offered(named=2)
    device_id, peer = backed_up.device_id, backed_up.peer
    found = events.Rotten(device_id=device_id, peer=peer, number=offer.generation, component="firmware")
    opened = events.SessionOpened(device_id=device_id, peer=peer, purpose=m.Purpose.RESTORE)
    lab.events()
    lab.now_s += 1000
    for event in (opened, found):
        lab.server.told(event, lab.now_s)
    assert lab.events() == [opened, found]
    assert [row.key.number for row in lab.vault.generations(device_id) if row.damaged] == [2]
    assert backed_up.offered(named=2).generation == 1
    lab.wait(2.0)
    assert [row.last_seen_s for row in lab.vault.devices()] == [lab.now_s - 1.0]
