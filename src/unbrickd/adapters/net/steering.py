# SPDX-License-Identifier: Apache-2.0
"""Two processes on one UDP port, each of which gets what is its own: the kernel looks into the messages (Linux).

The second gets every other restore, by the last bit of its session; all else is the first's. A restore is told by the
types that only it has of a device (spec/protocol.md §4), so that neither process needs to know the other's sessions.
Which socket of the port gets a datagram, a classic BPF program says (socket(7), SO_ATTACH_REUSEPORT_CBPF); a broadcast
goes to both, where another lets in only what is that process's (SO_ATTACH_FILTER).
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence

from unbrickd.wire.framing import SESSION_AT, TYPE_AT
from unbrickd.wire.messages import BlockRequest, DataEndAck, DataRequest, DataStartAck, Restore

OF_RESTORES = tuple(kind.TYPE.value for kind in (Restore, DataRequest, DataStartAck, BlockRequest, DataEndAck))
_SO_ATTACH_FILTER, _SO_DETACH_FILTER, _SO_ATTACH_REUSEPORT_CBPF = 26, 27, 51
"""asm-generic/socket.h; the socket module does not name them."""
_UDP_HEADER_BYTES = 8
"""Seen by a filter, not by what chooses the socket."""
_LOAD_BYTE, _LOAD, _AND, _JUMP, _JUMP_IF_EQUAL, _RETURN, _RETURN_A = 0x30, 0x00, 0x54, 0x05, 0x15, 0x06, 0x16
"""linux/filter.h, linux/bpf_common.h."""
_ALL = 0xFFFFFFFF

_Instruction = tuple[int, int, int, int]
"""Of struct sock_filter: code, jump if true, jump if false, constant."""


def share_out(first: socket.socket, second: socket.socket) -> None:
    """Two sockets bound to one port with SO_REUSEPORT, `first` before `second`. Raises OSError."""
    _attach(first, _SO_ATTACH_REUSEPORT_CBPF, [*_whose(payload_at=0), (_RETURN_A, 0, 0, 0)])
    for index, sock in enumerate((first, second)):
        if_mine = [(_JUMP_IF_EQUAL, 0, 1, index), (_RETURN, 0, 0, _ALL), (_RETURN, 0, 0, 0)]
        _attach(sock, _SO_ATTACH_FILTER, [*_whose(payload_at=_UDP_HEADER_BYTES), *if_mine])


def take_all(first: socket.socket) -> None:
    """The second is gone: all is the first's again."""
    first.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def _whose(*, payload_at: int) -> list[_Instruction]:
    """Leaves the process's index in the accumulator; a message that is too short is nobody's."""
    kinds = len(OF_RESTORES)
    return [
        (_LOAD_BYTE, 0, 0, payload_at + TYPE_AT),
        *((_JUMP_IF_EQUAL, kinds - n + 1, 0, kind) for n, kind in enumerate(OF_RESTORES)),
        (_LOAD, 0, 0, 0),
        (_JUMP, 0, 0, 2),
        (_LOAD_BYTE, 0, 0, payload_at + SESSION_AT + 3),
        (_AND, 0, 0, 1),
    ]


def _attach(sock: socket.socket, option: int, program: Sequence[_Instruction]) -> None:
    octets = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *instruction) for instruction in program))
    # struct sock_fprog: unsigned short, and a pointer.
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@HP", len(program), ctypes.addressof(octets)))
