# SPDX-License-Identifier: Apache-2.0
"""Asking a link whether an IPv4 address is free on it (RFC 5227 §2.1). Linux, with CAP_NET_RAW (packet(7))."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address

_ETHERTYPE = 0x0806
_ARP = struct.Struct("!HHBBH6s4s6s4s")
"""Hardware and protocol with their lengths, operation; hardware and protocol address of sender and target (RFC 826)."""
_ETHERNET, _IPV4, _REQUEST = 1, 0x0800, 1
_EVERYBODY, _NOBODY, _NO_ADDRESS = b"\xff" * 6, bytes(6), bytes(4)
_MAX_READS = 256


def probe(hardware: bytes, wanted: IPv4Address) -> bytes:
    """Who has it? Asked by nobody, so that no host remembers a wrong answer."""
    return _ARP.pack(_ETHERNET, _IPV4, 6, 4, _REQUEST, hardware, _NO_ADDRESS, _NOBODY, wanted.packed)


def takes(octets: bytes, hardware: bytes, wanted: IPv4Address) -> bool:
    """Whether this comes from another host that has the address, or that asks for it to take it itself."""
    if len(octets) < _ARP.size:
        return False
    kind, protocol, _, _, _, sender, own, _, target = _ARP.unpack_from(octets)
    if (kind, protocol) != (_ETHERNET, _IPV4) or sender == hardware:
        return False
    return bool(own == wanted.packed or (own == _NO_ADDRESS and target == wanted.packed))


class ArpSocket:
    """What a link says by ARP. Raises OSError: PermissionError without the privilege."""

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETHERTYPE))
        self._socket.setblocking(False)
        self._socket.bind((interface, _ETHERTYPE))
        *_, kind, self.hardware = self._socket.getsockname()
        """Its own hardware address."""
        if kind != _ETHERNET:
            self.close()
            raise OSError(f"{interface} is no Ethernet")

    def ask(self, wanted: IPv4Address) -> None:
        """Raises OSError."""
        self._socket.sendto(probe(self.hardware, wanted), (self._interface, _ETHERTYPE, 0, 0, _EVERYBODY))

    def is_taken(self, wanted: IPv4Address) -> bool:
        """Whether somebody said so since the last call. Raises OSError."""
        taken = False
        for _ in range(_MAX_READS):
            try:
                octets = self._socket.recv(_ARP.size)
            except BlockingIOError:
                break
            taken = taken or takes(octets, self.hardware, wanted)
        return taken

    def close(self) -> None:
        self._socket.close()
