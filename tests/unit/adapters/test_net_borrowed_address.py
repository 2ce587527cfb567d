# SPDX-License-Identifier: Apache-2.0
"""A device without an address takes one that is free in the server's network, or goes on without (R3)."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbrickd.adapters.net import borrowed_address
from unbrickd.adapters.net.arp import probe, takes
from unbrickd.adapters.net.borrowed_address import (
    MAX_TRIES,
    PROBE_GAP_S,
    PROBES,
    WAIT_S,
    BorrowedAddress,
    candidate,
    network_told,
)
from unbrickd.model.peer import Peer, Transport
from unbrickd.wire import messages as m
from unbrickd.wire.framing import Octets
from unbrickd.wire.packet import encode

LAN, WIFI = 7, 8
HARDWARE = bytes.fromhex("020000000001")
OTHER_HARDWARE = bytes.fromhex("020000000002")
SERVER = IPv4Interface("10.99.99.9/24")
PC = Peer(transport=Transport.UDP, host=str(SERVER.ip), port=21530, scope=LAN)
Received = list[tuple[Peer, Octets]]


def announce(prefix_bits: int = 24) -> bytes:
    return encode(m.Announce(server_id=bytes(16), prefix_bits=prefix_bits))


# Which address


@given(
    address=st.integers(0, 2**32 - 1).map(IPv4Address),
    prefix_bits=st.integers(8, 30),
    hardware=st.binary(min_size=6, max_size=6),
    number=st.integers(0, MAX_TRIES - 1),
)
def test_candidate_of_any_network_is_another_host_of_it(
    address: IPv4Address, prefix_bits: int, hardware: bytes, number: int
) -> None:
    server = IPv4Interface((address, prefix_bits))
    network = server.network
    chosen = candidate(server, hardware, number)
    assert chosen in network
    assert chosen not in (network.network_address, network.broadcast_address, server.ip)


def test_candidate_of_the_smallest_network_is_the_only_other_host() -> None:
    for number in range(MAX_TRIES):
        assert candidate(IPv4Interface("192.168.1.1/30"), HARDWARE, number) == IPv4Address("192.168.1.2")
        assert candidate(IPv4Interface("192.168.1.2/30"), HARDWARE, number) == IPv4Address("192.168.1.1")


def test_candidate_is_the_same_again_and_others_for_other_tries_and_devices() -> None:
    tries = [candidate(SERVER, HARDWARE, number) for number in range(MAX_TRIES)]
    assert tries == [candidate(SERVER, HARDWARE, number) for number in range(MAX_TRIES)]
    assert len({*tries, candidate(SERVER, OTHER_HARDWARE, 0)}) == MAX_TRIES + 1


@pytest.mark.parametrize("prefix_bits", [8, 24, 30])
def test_network_told_of_an_announce_is_the_servers(prefix_bits: int) -> None:
    assert network_told(PC, announce(prefix_bits)) == IPv4Interface(f"10.99.99.9/{prefix_bits}")


@pytest.mark.parametrize("prefix_bits", [0, 1, 7, 31, 32, 33, 255])
def test_network_told_of_a_prefix_that_makes_no_lan_is_none(prefix_bits: int) -> None:
    assert network_told(PC, announce(prefix_bits)) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "0.0.0.9", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"])
def test_network_told_from_what_is_no_hosts_address_is_none(host: str) -> None:
    assert network_told(replace(PC, host=host), announce()) is None


@pytest.mark.parametrize(
    "octets",
    [b"", b"noise", announce()[:-1], encode(m.Announce(server_id=bytes(16))), encode(m.Error(code=1), session=1)],
)
def test_network_told_of_anything_else_is_none(octets: bytes) -> None:
    assert network_told(PC, octets) is None


# Whether it is free

WANTED = candidate(SERVER, HARDWARE, 0)


def arp(sender: bytes, own: IPv4Address | None, target: IPv4Address) -> bytes:
    head, own_bytes = bytes.fromhex("0001 0800 06 04 0002"), own.packed if own else bytes(4)
    return head + sender + own_bytes + bytes(6) + target.packed


def test_arp_probe_is_as_rfc_5227_has_it() -> None:
    octets = probe(HARDWARE, IPv4Address("10.99.99.31"))
    assert octets == bytes.fromhex("0001 0800 06 04 0001 020000000001 00000000 000000000000 0a63631f")


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (arp(OTHER_HARDWARE, WANTED, SERVER.ip), True),
        (probe(OTHER_HARDWARE, WANTED), True),
        (arp(OTHER_HARDWARE, WANTED, SERVER.ip) + bytes(18), True),
        (arp(HARDWARE, WANTED, SERVER.ip), False),
        (probe(HARDWARE, WANTED), False),
        (arp(OTHER_HARDWARE, SERVER.ip, WANTED), False),
        (probe(OTHER_HARDWARE, SERVER.ip), False),
        (arp(OTHER_HARDWARE, WANTED, SERVER.ip)[:-1], False),
        (b"\x00\x06" + arp(OTHER_HARDWARE, WANTED, SERVER.ip)[2:], False),
    ],
    ids=["has it", "wants it too", "padded", "own", "own probe", "asks for it", "wants another", "cut", "no Ethernet"],
)
def test_arp_of_another_host_takes_the_address_it_has_or_wants(octets: bytes, expected: bool) -> None:
    assert takes(octets, HARDWARE, WANTED) is expected


# From the Announce to the address


class Link:
    """A link whose hosts have `taken`; `log`: what was asked, given and taken away, and said."""

    hardware = HARDWARE

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: set[IPv4Address] = set()
        self.has_address = False
        self.log: list[str] = []
        self.fails: dict[str, OSError] = {}
        monkeypatch.setattr(sys, "platform", "linux")
        monkeypatch.setattr(socket, "if_nametoindex", lambda name: {"lan": LAN}[name])
        monkeypatch.setattr(borrowed_address, "ArpSocket", self._open)
        monkeypatch.setattr(borrowed_address, "broadcast_sources", lambda: {LAN: SERVER} if self.has_address else {})
        for name, word in (("add_address", "add"), ("remove_address", "remove")):
            monkeypatch.setattr(borrowed_address, name, self._changes(word))

    def _open(self, interface: str) -> Link:
        self._may("open")
        return self

    def _may(self, what: str) -> None:
        if what in self.fails:
            raise self.fails[what]

    def _changes(self, word: str) -> Callable[[int, IPv4Address, IPv4Address], None]:
        def change(interface: int, own: IPv4Address, other: IPv4Address) -> None:
            assert (interface, other) == (LAN, SERVER.ip)
            self._may(word)
            self.log.append(f"{word} {own}")

        return change

    def ask(self, wanted: IPv4Address) -> None:
        self._may("ask")
        self.log.append(f"ask {wanted}")

    def is_taken(self, wanted: IPv4Address) -> bool:
        return wanted in self.taken and self.log[-1:] == [f"ask {wanted}"]

    def close(self) -> None:
        self.log.append("close")

    def say(self, what: str, **details: str) -> None:
        self.log.append(what)


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Link:
    return Link(monkeypatch)


def settle(borrowed: BorrowedAddress, *first: tuple[Peer, Octets]) -> tuple[Received, float]:
    """Let a second and a half and more go by from when `first` came. What it passed on, and when it had settled."""
    passed, now_s = borrowed.sift(list(first), 0.0), 0.0
    while not borrowed.is_settled and now_s < 10.0:
        now_s = borrowed.due_s
        passed += borrowed.sift([], now_s)
    return passed, now_s


def test_borrowed_address_that_nobody_has_is_taken_and_given_back(link: Link) -> None:
    borrowed = BorrowedAddress("lan", say=link.say)
    passed, settled_s = settle(borrowed, (PC, announce()))
    assert passed == [(PC, announce())], "the server is asked at once, and from there"
    assert settled_s == pytest.approx(PROBES * PROBE_GAP_S)
    assert link.log == [f"ask {WANTED}"] * PROBES + [f"add {WANTED}", "AddressBorrowed"]
    borrowed.close()
    assert link.log[-2:] == ["close", f"remove {WANTED}"]


def test_borrowed_address_that_somebody_has_is_left_for_the_next(link: Link) -> None:
    link.taken = {WANTED}
    passed, settled_s = settle(BorrowedAddress("lan", say=link.say), (PC, announce()))
    assert len(passed) == 1 and settled_s < (PROBES + 1.5) * PROBE_GAP_S, "no time is lost"
    assert link.log[-2:] == [f"add {candidate(SERVER, HARDWARE, 1)}", "AddressBorrowed"]


def test_borrowed_address_where_all_are_taken_does_without(link: Link) -> None:
    link.taken = {candidate(SERVER, HARDWARE, number) for number in range(MAX_TRIES)}
    borrowed = BorrowedAddress("lan", say=link.say)
    passed, _ = settle(borrowed, (PC, announce()))
    assert passed == [(PC, announce())]
    assert [entry for entry in link.log if not entry.startswith("ask")] == ["NoAddressBorrowed"]
    borrowed.close()
    assert link.log[-1] == "close", "nothing is given back that was not taken"


def test_borrowed_address_from_servers_that_tell_no_network_is_waited_for_and_done_without(link: Link) -> None:
    borrowed = BorrowedAddress("lan", say=link.say)
    assert borrowed.due_s == float("inf"), "until a server is heard"
    passed, settled_s = settle(borrowed, (PC, b"Probe-Ack"), (PC, announce(0)))
    assert (passed, settled_s) == ([], WAIT_S)
    assert link.log == ["NoAddressBorrowed"]
    assert borrowed.sift([(PC, b"Probe-Ack")], 2.0) == [(PC, b"Probe-Ack")]


def test_borrowed_address_holds_back_nothing_of_other_links_or_ipv6(link: Link) -> None:
    borrowed = BorrowedAddress("lan", say=link.say)
    others: Received = [(replace(PC, scope=WIFI), announce()), (replace(PC, host="fe80::9"), announce())]
    assert borrowed.sift(others, 0.0) == others
    assert borrowed.sift([*others, (PC, announce())], 0.0) == others
    assert borrowed.sift([(PC, b"Probe-Ack"), *others], 0.05) == others


@pytest.mark.parametrize("where", ["open", "ask", "add"])
def test_borrowed_address_without_the_privilege_is_done_without(link: Link, where: str) -> None:
    link.fails[where] = PermissionError(1, "Operation not permitted")
    passed, _ = settle(BorrowedAddress("lan", say=link.say), (PC, announce()))
    assert passed == [(PC, announce())]
    assert [entry for entry in link.log if not entry.startswith("ask")] == ["NoAddressBorrowed"]


def test_borrowed_address_of_an_interface_that_has_one_is_none(link: Link) -> None:
    link.has_address = True
    borrowed = BorrowedAddress("lan", say=link.say)
    assert borrowed.sift([(PC, announce())], 0.0) == [(PC, announce())] and borrowed.is_settled
    assert link.log == []


def test_borrowed_address_of_no_interface_is_said_and_done_without(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(_: str) -> int:
        raise OSError(19, "No such device")

    monkeypatch.setattr(socket, "if_nametoindex", lacks)
    assert BorrowedAddress("lan", say=link.say).is_settled and link.log == ["NoAddressBorrowed"]
