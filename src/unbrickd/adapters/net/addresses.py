# SPDX-License-Identifier: Apache-2.0
"""The IPv4 addresses of this host's links: what its kernel has, and one more (rtnetlink(7)). Only Linux tells."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface

from unbrickd.adapters.net import rtnetlink

_RTM_NEWADDR, _RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
_ADDRESS = struct.Struct("=BBBBI")
"""struct ifaddrmsg: family, prefix, flags, scope, interface."""
_AF_INET = 2
"""As Linux numbers it."""
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_SECONDARY = 0x01
_RT_SCOPE_HOST = 254


def broadcast_sources() -> dict[int, IPv4Interface]:
    """By the index of its link, the address from which Linux sends a broadcast there, with its network.

    The first that is no secondary one. Not of a link that has none: it is lent the address of another.
    """
    if sys.platform != "linux":
        return {}
    try:
        return _first(rtnetlink.dump(_RTM_GETADDR, _ADDRESS.pack(_AF_INET, 0, 0, 0, 0)))
    except (OSError, struct.error):
        return {}


def add_address(interface: int, own: IPv4Address, other: IPv4Address) -> None:
    """Give a link an address and a route to one host, and none else. Raises OSError."""
    rtnetlink.change(_RTM_NEWADDR, _to_one_host(interface, own, other), rtnetlink.CREATE_NEW)


def remove_address(interface: int, own: IPv4Address, other: IPv4Address) -> None:
    """What `add_address` gave, and that alone. Raises OSError."""
    rtnetlink.change(_RTM_DELADDR, _to_one_host(interface, own, other))


def _to_one_host(interface: int, own: IPv4Address, other: IPv4Address) -> bytes:
    return (
        _ADDRESS.pack(_AF_INET, 32, 0, 0, interface)
        + rtnetlink.attribute(_IFA_LOCAL, own.packed)
        + rtnetlink.attribute(_IFA_ADDRESS, other.packed)
    )


def _first(bodies: Iterable[bytes]) -> dict[int, IPv4Interface]:
    found: dict[int, IPv4Interface] = {}
    for body in bodies:
        family, prefix_bits, flags, scope, interface = _ADDRESS.unpack_from(body)
        attributes = rtnetlink.attributes(body[_ADDRESS.size :])
        own, shared = attributes.get(_IFA_LOCAL, b""), attributes.get(_IFA_ADDRESS)
        if family != _AF_INET or len(own) != 4 or flags & _IFA_F_SECONDARY or scope >= _RT_SCOPE_HOST:
            continue
        # Where the two differ the link leads to one host, and what is told of the network is that host's.
        found.setdefault(interface, IPv4Interface((own, prefix_bits if own == shared else 32)))
    return found
