# SPDX-License-Identifier: Apache-2.0
"""The hosts that share a link with this one, as its kernel knows them, and which of them to greet when.

A strict firewall on the server's host lets in what answers a flow that this host opened to that very address; a
broadcast opens none. But a device that heard a broadcast Announce asks by ARP or neighbour discovery for the address it
came from, before the firewall drops its Probe; so the kernel knows the device, and an Announce to it alone opens the
flow (spec/protocol.md §4.15). Reads rtnetlink(7), which needs no privilege; other platforms tell nothing here.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from unbrickd.adapters.net.rtnetlink import attributes, dump

MAX_NEIGHBOURS = 64
"""Greeted at most, so that a large network is not flooded."""
REPEAT_S = 10.0
"""A flow that nobody answers is forgotten by Linux after 30 s (nf_conntrack_udp_timeout)."""

_RTM_GETROUTE, _RTM_GETNEIGH = 26, 30
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
"""struct ndmsg: family, interface, state, flags, type (rtnetlink(7))."""
_ROUTE_BYTES = 12
"""struct rtmsg."""
_NDA_DST = 1
_RTA_OIF, _RTA_GATEWAY = 4, 5
_UNREACHED = 0x01 | 0x20 | 0x40
"""NUD_INCOMPLETE, NUD_FAILED, NUD_NOARP (which multicast has)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """interface: the index of the link that it is on."""

    host: str
    interface: int


class OpenFlows:
    """Keeps a flow open to each neighbour: who is new is greeted at once, all others every REPEAT_S."""

    def __init__(self) -> None:
        self._due_s: dict[Neighbour, float] = {}

    def due(self, here: Sequence[Neighbour], now_s: float) -> list[Neighbour]:
        """Those to be greeted now, of those who are here; the first MAX_NEIGHBOURS count."""
        self._due_s = {n: self._due_s.get(n, now_s) for n in here[:MAX_NEIGHBOURS]}
        due = [n for n, due_s in self._due_s.items() if due_s <= now_s]
        self._due_s |= dict.fromkeys(due, now_s + REPEAT_S)
        return due


def neighbours() -> list[Neighbour]:
    """Gateways of routes first, for the router is often one of them; then all that were seen. Empty if none is told."""
    if sys.platform != "linux":
        return []
    try:
        found = [*_gateways(), *_seen()]
    except (OSError, struct.error):
        return []
    return list(dict.fromkeys(found))


def _gateways() -> Iterator[Neighbour]:
    for body in dump(_RTM_GETROUTE, bytes(_ROUTE_BYTES)):
        told = attributes(body[_ROUTE_BYTES:])
        if _RTA_GATEWAY in told and _RTA_OIF in told:
            yield Neighbour(host=_host(told[_RTA_GATEWAY]), interface=_index(told[_RTA_OIF]))


def _seen() -> Iterator[Neighbour]:
    for body in dump(_RTM_GETNEIGH, bytes(_NEIGHBOUR.size)):
        _, interface, state, _, _ = _NEIGHBOUR.unpack_from(body)
        address = attributes(body[_NEIGHBOUR.size :]).get(_NDA_DST)
        if address is not None and state and not state & _UNREACHED:
            yield Neighbour(host=_host(address), interface=interface)


def _host(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def _index(octets: bytes) -> int:
    return int.from_bytes(octets, sys.byteorder)
