# SPDX-License-Identifier: Apache-2.0
"""Finding a server: when Probes go out, to whom, and which server is taken; and the repeating of requests."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from unbrickd.model.peer import Peer, Transport
from unbrickd.transfer.discovery import (
    AVOID_S,
    COLLECT_S,
    MAX_ANNOUNCED,
    MAX_AVOID_S,
    MAX_AVOIDED,
    MAX_FOUND,
    Discovery,
    is_announce,
)
from unbrickd.transfer.retry import FIRST_WAIT_S, LONGEST_WAIT_S, SHORTEST_WAIT_S, TRIES, Repeater
from unbrickd.wire import messages as m
from unbrickd.wire.packet import decode, encode

NONCE = b"\x80" * 7 + b"\x81"
"""Of the first Probe."""


def peer(host: str) -> Peer:
    return Peer(transport=Transport.UDP, host=host, port=21530)


EVERYBODY = peer("broadcast")


def discovery(
    *,
    tries: int | None = None,
    pick: int = 0x80,
    purpose: m.Purpose = m.Purpose.RESTORE,
    targets: tuple[Peer, ...] = (EVERYBODY,),
) -> Discovery:
    """pick: every random byte; 0x80 is no jitter worth mentioning."""
    return Discovery(
        device_id=bytes(16),
        purpose=purpose,
        targets=targets,
        max_message_bytes=1452,
        ring_frames=0,
        entropy=lambda count: bytes([pick]) * count,
        tries=tries,
        now_s=0.0,
    )


def ack(name: str = "a", *, holds: bool = False, busy_s: int = 0, nonce: bytes = NONCE, version: int = 1) -> m.ProbeAck:
    return m.ProbeAck(
        nonce=nonce,
        server_id=name.encode().ljust(16),
        cookie=bytes(16),
        holds_device=holds,
        busy=busy_s > 0,
        retry_after_s=busy_s,
        version=version,
        max_message_bytes=1300,
    )


def announce(number: int = 0, *, lowest: int = 1) -> m.Announce:
    return m.Announce(server_id=number.to_bytes(16, "big"), version_lowest=lowest, version_highest=9)


def probe_times(d: Discovery, until_s: float) -> list[float]:
    """Called at its timers, when does it probe?"""
    times: list[float] = []
    now_s = 0.0
    while now_s <= until_s:
        if d.outgoing(now_s):
            times.append(now_s)
        due_s = d.timer()
        if due_s is None:
            break
        assert due_s > now_s, "called for nothing"
        now_s = due_s
    return times


def test_discovery_nobody_answers_probes_double_to_two_seconds_and_never_end() -> None:
    times = probe_times(discovery(), 1000.0)
    waits = [b - a for a, b in pairwise(times)]
    assert waits[:7] == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0], rel=0.01)
    assert all(wait == pytest.approx(2.0, rel=0.01) for wait in waits[6:])
    assert len(times) > 495


@pytest.mark.parametrize(("pick", "factor"), [(0, 0.8), (255, 1.2)])
def test_discovery_wait_varies_by_a_fifth(pick: int, factor: float) -> None:
    times = probe_times(discovery(pick=pick), 30.0)
    assert times[-1] - times[-2] == pytest.approx(2.0 * factor)


def test_discovery_set_number_of_rounds_then_exhausted() -> None:
    d = discovery(tries=3)
    for at_s in (0.0, 0.06, 0.17):
        assert d.outgoing(at_s) and not d.exhausted(at_s)
    due_s = d.timer()
    assert due_s is not None and due_s == pytest.approx(0.37, abs=0.01)
    assert not d.exhausted(due_s - 0.1) and d.outgoing(due_s) == [] and d.exhausted(due_s)


def test_discovery_probe_says_who_asks_and_what_it_takes() -> None:
    ((target, octets),) = discovery().outgoing(0.0)
    probe = decode(octets).message
    assert target == EVERYBODY and isinstance(probe, m.Probe)
    assert (probe.nonce, probe.purpose, probe.max_message_bytes) == (NONCE, m.Purpose.RESTORE, 1452)


def test_discovery_server_that_holds_the_device_is_taken_at_once() -> None:
    d = discovery()
    d.outgoing(0.0)
    d.receive(peer("a"), ack("a"), 0.01)
    d.receive(peer("b"), ack("b", holds=True), 0.02)
    assert d.timer() == 0.02
    assert d.outgoing(0.02) == []
    assert d.chosen is not None and d.chosen.peer == peer("b") and d.chosen.max_message_bytes == 1300
    assert d.timer() is None


def test_discovery_server_that_does_not_hold_it_is_taken_after_a_moment() -> None:
    d = discovery()
    d.outgoing(0.0)
    d.receive(peer("a"), ack("a"), 0.01)
    assert d.timer() == 0.01 + COLLECT_S
    d.outgoing(0.30)
    assert d.chosen is None
    d.outgoing(0.01 + COLLECT_S)
    assert d.chosen is not None and not d.exhausted(99.0)


@pytest.mark.parametrize(
    ("purpose", "targets", "waits"),
    [
        (m.Purpose.BACKUP, (peer("a"),), False),
        (m.Purpose.BACKUP, (peer("a"), peer("b")), True),
        (m.Purpose.BACKUP, (peer("a"), EVERYBODY), True),
        (m.Purpose.RESTORE, (peer("a"),), True),
    ],
)
def test_discovery_server_asked_by_name_answered_waits_only_for_another(
    purpose: m.Purpose, targets: tuple[Peer, ...], waits: bool
) -> None:
    d = discovery(purpose=purpose, targets=targets)
    d.outgoing(0.0)
    d.receive(replace(peer("a"), scope=2), ack("a"), 0.01)  # how it was met is more than how it was asked
    d.outgoing(0.01)
    assert (d.chosen is None) == waits


def test_discovery_backup_of_two_named_servers_the_second_answer_ends_the_wait() -> None:
    d = discovery(purpose=m.Purpose.BACKUP, targets=(peer("a"), peer("b")), pick=1)
    d.outgoing(0.0)
    d.receive(peer("a"), ack("a", nonce=b"\1" * 7 + b"\2"), 0.01)
    d.receive(peer("b"), ack("b", nonce=b"\1" * 7 + b"\2"), 0.02)
    d.outgoing(0.02)
    assert d.chosen is not None and d.chosen.peer == peer("b"), "at random among them"


@pytest.mark.parametrize("wrong", [ack(nonce=bytes(8)), ack(version=2), announce(lowest=2)])
def test_discovery_answer_not_meant_for_it_is_ignored(wrong: m.ProbeAck | m.Announce) -> None:
    d = discovery()
    d.outgoing(0.0)
    d.receive(peer("a"), wrong, 0.01)
    times = probe_times(d, 3.0)
    assert d.chosen is None and len(times) == 5
    assert all(target == EVERYBODY for target, _ in d.outgoing(9.0))


def test_discovery_announcement_is_answered_at_its_address_soon_but_not_before_a_quarter_second() -> None:
    d = discovery()
    for at_s in (0.0, 0.06, 0.2, 0.5, 1.0, 2.0):
        d.outgoing(at_s)
    d.receive(peer("pc"), announce(), 2.1)
    assert d.timer() == 2.25
    assert [target for target, _ in d.outgoing(2.25)] == [EVERYBODY, peer("pc")]
    d.receive(peer("pc"), announce(), 2.3)
    assert d.timer() == pytest.approx(4.25, abs=0.05), "one known does not hurry it again"


def test_discovery_announcements_beyond_the_bound_push_out_the_oldest() -> None:
    d = discovery()
    for number in range(100):
        d.receive(peer(f"spoofed-{number}"), announce(number), 0.0)
    d.receive(peer("pc"), announce(7), 0.0)
    targets = [target for target, _ in d.outgoing(0.0)]
    assert len(targets) == 1 + MAX_ANNOUNCED and targets[-1] == peer("pc")


def test_discovery_begins_again_probes_keep_their_distance_and_the_nonce_is_new() -> None:
    seen: list[int] = []

    def entropy(count: int) -> bytes:
        seen.append(count)
        return bytes([len(seen) % 251]) * count

    d = Discovery(
        device_id=bytes(16), purpose=m.Purpose.BACKUP, targets=(EVERYBODY,), max_message_bytes=1232, ring_frames=0,
        entropy=entropy, tries=2, now_s=5.0,
    )  # fmt: skip
    ((_, first),) = d.outgoing(5.0)
    d.restart(5.1)
    assert d.outgoing(5.1) == [] and d.timer() == 5.25
    ((_, second),) = d.outgoing(5.25)
    assert decode(first).message != decode(second).message
    d.restart(60.0)
    assert len(d.outgoing(60.0)) == 1


def test_discovery_avoided_server_is_passed_over_for_a_while() -> None:
    d = discovery()
    d.avoid(peer("a"), now_s=0.0)
    d.outgoing(0.0)
    d.receive(peer("a"), ack("a", holds=True), 0.1)
    assert d.timer() != 0.1 and d.chosen is None
    d.receive(peer("a"), ack("a", holds=True), AVOID_S)
    d.outgoing(AVOID_S)
    assert d.chosen is not None


def test_discovery_where_one_was_avoided_the_choice_waits_and_is_made_at_random() -> None:
    chosen: set[str] = set()
    for pick in range(2):
        d = discovery(pick=pick)
        d.avoid(peer("x"), now_s=0.0)
        d.outgoing(0.0)
        for name in ("a", "b"):
            d.receive(peer(name), ack(name, holds=True, nonce=bytes([pick]) * 7 + bytes([pick + 1])), 0.1)
        d.outgoing(0.1)
        assert d.chosen is None
        d.outgoing(0.1 + COLLECT_S)
        assert d.chosen is not None
        chosen.add(d.chosen.peer.host)
    assert chosen == {"a", "b"}


def test_discovery_busy_server_is_avoided_as_long_as_it_asks_but_not_for_ever() -> None:
    d = discovery(tries=1)
    d.outgoing(0.0)
    d.receive(peer("a"), ack(busy_s=0xFFFF), 0.0)
    assert d.busy_s == 0xFFFF and d.exhausted(1.0)
    d.restart(MAX_AVOID_S)
    d.receive(peer("a"), ack(holds=True), MAX_AVOID_S)
    d.outgoing(MAX_AVOID_S)
    assert d.chosen is not None and d.busy_s == 0


def test_discovery_flood_of_answers_keeps_a_few_and_one_of_each_server() -> None:
    d = discovery()
    d.outgoing(0.0)
    for number in range(1000):
        d.receive(peer(f"{number}"), ack(f"{number}"), 0.0)
        d.receive(peer("one"), ack(f"other {number}"), 0.0)
        d.avoid(peer(f"avoided {number}"), now_s=0.0)
    assert len(d._found) == MAX_FOUND and len(d._avoided) == MAX_AVOIDED
    assert len({f.peer for f in d._found}) == len({f.server_id for f in d._found}) == MAX_FOUND


@pytest.mark.parametrize(
    ("octets", "expected"),
    [(encode(announce()), True), (encode(announce(lowest=2)), False), (encode(ack()), False), (b"noise", False)],
)
def test_is_announce_of_any_bytes_says_whether_a_server_is_there(octets: bytes, expected: bool) -> None:
    assert is_announce(octets) is expected


@pytest.mark.parametrize(
    ("answered", "took_s", "wait_s"),
    [
        (1, 0.01, 0.03),
        (1, 0.001, SHORTEST_WAIT_S),
        (1, 1.5, LONGEST_WAIT_S),
        (0, 0.01, FIRST_WAIT_S),
    ],
)
def test_discovery_server_that_answers_the_last_probe_is_waited_for_by_its_round_trip(
    answered: int, took_s: float, wait_s: float
) -> None:
    d = discovery(purpose=m.Purpose.BACKUP, targets=(peer("a"),))
    nonces: list[bytes] = []
    for at_s in (0.0, 0.1):
        probe = decode(d.outgoing(at_s)[0][1]).message
        assert isinstance(probe, m.Probe)
        nonces.append(probe.nonce)
    d.receive(peer("a"), ack(nonce=nonces[answered]), 0.1 + took_s)
    d.outgoing(0.1 + took_s)
    assert d.chosen is not None and d.chosen.wait_s == pytest.approx(wait_s)


def test_discovery_nonce_of_the_last_octet_goes_round() -> None:
    d = discovery(pick=0xFF)
    probe = decode(d.outgoing(0.0)[0][1]).message
    assert isinstance(probe, m.Probe) and probe.nonce == b"\xff" * 7 + b"\0"


@pytest.mark.parametrize("first_wait_s", [SHORTEST_WAIT_S, FIRST_WAIT_S])
def test_repeater_default_tries_take_longer_than_a_disk_takes_to_spin_up(first_wait_s: float) -> None:
    r = Repeater(now_s=0.0, first_wait_s=first_wait_s)
    sent = 0
    while not r.exhausted(r.due_s):
        assert r.due(r.due_s)
        r.sent(r.due_s)
        sent += 1
    assert sent == TRIES and 10.0 < r.due_s < 16.0 and not r.due(r.due_s)


def test_repeater_hurried_after_its_last_try_is_not_exhausted_sooner() -> None:
    r = Repeater(now_s=0.0, tries=1)
    r.sent(0.0)
    r.hurry(0.05)
    assert not r.exhausted(0.05) and r.exhausted(FIRST_WAIT_S)
