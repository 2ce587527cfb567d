# SPDX-License-Identifier: Apache-2.0
"""What is asked of the Linux kernel about its links, and told to it: the messages of rtnetlink(7) and netlink(7).

Asking needs no privilege. Knows how messages are laid out, not what they mean.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

_NETLINK_ROUTE = 0
_DUMP = 0x301
"""NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH."""
_REQUEST = 0x5
"""NLM_F_REQUEST | NLM_F_ACK."""
CREATE_NEW = 0x600
"""NLM_F_EXCL | NLM_F_CREATE."""
_DONE, _ERROR = 3, 2
_MESSAGE = struct.Struct("=IHHII")
"""struct nlmsghdr: length, type, flags, sequence, port."""
_ERROR_CODE = struct.Struct("=i")
"""The beginning of struct nlmsgerr: a negative errno, or 0."""
_ATTRIBUTE = struct.Struct("=HH")
_RECEIVE_BYTES = 1 << 16
_MAX_READS = 64
_PATIENCE_S = 1.0


def dump(kind: int, body: bytes) -> Iterator[bytes]:
    """The bodies of the kernel's answers. Raises OSError."""
    with _asked(kind, _DUMP, body) as sock:
        for _ in range(_MAX_READS):
            octets = sock.recv(_RECEIVE_BYTES)
            while len(octets) >= _MESSAGE.size:
                length, answer, *_ = _MESSAGE.unpack_from(octets)
                if answer in (_DONE, _ERROR):
                    return
                yield octets[_MESSAGE.size : length]
                octets = octets[_padded(length) :]


def change(kind: int, body: bytes, flags: int = 0) -> None:
    """Have something changed, which is done when it returns. Raises OSError: PermissionError without CAP_NET_ADMIN."""
    with _asked(kind, _REQUEST | flags, body) as sock:
        (code,) = _ERROR_CODE.unpack_from(sock.recv(_RECEIVE_BYTES), _MESSAGE.size)
    if code:
        raise OSError(-code, os.strerror(-code))


@contextmanager
def _asked(kind: int, flags: int, body: bytes) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as sock:
        sock.settimeout(_PATIENCE_S)
        sock.send(_MESSAGE.pack(_MESSAGE.size + len(body), kind, flags, 1, 0) + body)
        yield sock


def attributes(octets: bytes) -> dict[int, bytes]:
    """By kind; what is cut off is left out."""
    found: dict[int, bytes] = {}
    while len(octets) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(octets)
        found[kind] = octets[_ATTRIBUTE.size : length]
        octets = octets[max(_padded(length), _ATTRIBUTE.size) :]
    return found


def attribute(kind: int, octets: bytes) -> bytes:
    """One attribute, of a whole number of words."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(octets), kind) + octets


def _padded(length: int) -> int:
    return (length + 3) & ~3
