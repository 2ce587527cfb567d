# SPDX-License-Identifier: Apache-2.0
"""An IPv4 address for a device that has none, of the network that a server's Announce tells (spec/protocol.md §4.15).

Without one it is answered by broadcast, which every host of the LAN gets, and firewalls let nothing in that answers a
broadcast. The address is a way to be reached by that server and no more: the only route that comes with it is to the
server, and it is given back at the end. Whether it is free is asked three times in 0.3 s, not in 4 to 7 as RFC 5227 has
it, for a device that is to be healed; and nobody looks for conflicts later, as it is kept for a restore.

Nothing waits here: a call takes what came and looks at the clock. Linux; needs CAP_NET_RAW and CAP_NET_ADMIN. Without
them, or where no address can be had, the device goes on without.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import sys
from ipaddress import IPv4Address, IPv4Interface
from typing import Protocol

from unbrickd.adapters.net.addresses import add_address, broadcast_sources, remove_address
from unbrickd.adapters.net.arp import ArpSocket
from unbrickd.errors import RemoteProtocolError
from unbrickd.model.peer import Peer
from unbrickd.wire import messages as m
from unbrickd.wire.framing import Octets
from unbrickd.wire.packet import decode

WAIT_S = 1.5
"""For an Announce, which comes once a second, from when a server is heard."""
PROBES, PROBE_GAP_S = 3, 0.1
MAX_TRIES = 4
SHORTEST_PREFIX_BITS, LONGEST_PREFIX_BITS = 8, 30


class Say(Protocol):
    """Tells the device's log of an event."""

    def __call__(self, what: str, **details: str) -> None: ...


def unheard(what: str, **details: str) -> None:
    """Where there is no log."""


def candidate(server: IPv4Interface, hardware: bytes, number: int) -> IPv4Address:
    """The address of the server's network that a device tries as `number`: always the same, of its hardware address.

    Never the network's, the broadcast address or the server's own.
    """
    network = server.network
    digest = hashlib.sha256(hardware + bytes([number])).digest()
    address = network.network_address + 1 + int.from_bytes(digest[:8], "big") % (network.num_addresses - 3)
    return address + (address >= server.ip)


def network_told(peer: Peer, octets: Octets) -> IPv4Interface | None:
    """The server's address with its network, of an Announce that tells one in which there is room."""
    try:
        message = decode(octets).message
    except RemoteProtocolError:
        return None
    if not isinstance(message, m.Announce):
        return None
    if not SHORTEST_PREFIX_BITS <= message.prefix_bits <= LONGEST_PREFIX_BITS:
        return None
    server = IPv4Interface((peer.host, message.prefix_bits))
    no_host = server.network.network_address.packed[0] in (0, 127) or server.is_multicast or server.is_reserved
    return None if no_host else server


class BorrowedAddress:
    """Of one interface, from the first Announce until `close`."""

    def __init__(self, interface: str, *, say: Say) -> None:
        self.is_settled = False
        """Whether it has the address, or does without; then `sift` has nothing more to do."""
        self.due_s = float("inf")
        """When `sift` is to be called at the latest."""
        self.interface = 0
        self.address: IPv4Address | None = None
        """Once it has one."""
        self._name = interface
        self._say = say
        self._server: IPv4Interface | None = None
        self._announce: tuple[Peer, bytes] | None = None
        self._arp: ArpSocket | None = None
        self._number = self._asked = 0
        if sys.platform != "linux":
            self._do_without("only Linux can")
            return
        try:
            self.interface = socket.if_nametoindex(interface)
        except OSError:
            self._do_without("there is no such interface")

    def sift(self, received: list[tuple[Peer, Octets]], now_s: float) -> list[tuple[Peer, Octets]]:
        """Of what came, what may be passed on: of that interface's IPv4 nothing until it is settled.

        So that no session begins without the address; then the Announce follows, for the server to be asked from there.
        """
        passed: list[tuple[Peer, Octets]] = []
        for peer, octets in received:
            if self._keeps(peer, now_s):
                self._hear(peer, octets, now_s)
            else:
                passed.append((peer, octets))
        while not self.is_settled and now_s >= self.due_s:
            self._step(now_s)
        if self.is_settled and self._announce is not None:
            passed.append(self._announce)
            self._announce = None
        return passed

    def close(self) -> None:
        """Give it back."""
        if self._arp is not None:
            self._arp.close()
        if self.address is not None and self._server is not None:
            with contextlib.suppress(OSError):  # the interface may be gone
                remove_address(self.interface, self.address, self._server.ip)

    def _keeps(self, peer: Peer, now_s: float) -> bool:
        if self.is_settled or peer.scope != self.interface or ":" in peer.host:
            return False
        if self.due_s == float("inf"):
            self.due_s = now_s + WAIT_S
            self.is_settled = self.interface in broadcast_sources()
        return not self.is_settled

    def _hear(self, peer: Peer, octets: Octets, now_s: float) -> None:
        server = network_told(peer, octets) if self._server is None else None
        if server is None:
            return
        self._server, self._announce = server, (peer, bytes(octets))
        self.due_s = now_s
        try:
            self._arp = ArpSocket(self._name)
        except OSError as error:
            self._do_without(error.strerror or str(error))

    def _step(self, now_s: float) -> None:
        if self._server is None or self._arp is None:
            self._do_without("no server told of a network")
            return
        wanted = candidate(self._server, self._arp.hardware, self._number)
        try:
            if self._arp.is_taken(wanted):
                self._number, self._asked = self._number + 1, 0
                if self._number == MAX_TRIES:
                    self._do_without("those it tried are taken")
            elif self._asked < PROBES:
                self._arp.ask(wanted)
                self._asked += 1
                self.due_s = now_s + PROBE_GAP_S
            else:
                add_address(self.interface, wanted, self._server.ip)
                self.address = wanted
                self.is_settled = True
                text = f"took the address {wanted} on {self._name}, of the network of the server {self._server.ip}"
                self._say("AddressBorrowed", text=text, address=str(wanted))
        except OSError as error:
            self._do_without(error.strerror or str(error))

    def _do_without(self, why: str) -> None:
        self.is_settled = True
        self._say("NoAddressBorrowed", text=f"no address is borrowed for {self._name}: {why}", why=why)
