# SPDX-License-Identifier: Apache-2.0
"""The fields that bodies of messages are made of, and the types of messages (spec/protocol.md, introduction and §4).

Knows no message. Taking fields apart raises only RemoteProtocolError; putting them together asserts what we promise.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

from unbrickd.errors import RemoteProtocolError

_Closed = TypeVar("_Closed", bound=IntEnum)


class Type(IntEnum):
    PROBE = 1
    PROBE_ACK = 2
    BACKUP = 3
    BACKUP_ACK = 4
    RESTORE = 5
    RESTORE_ACK = 6
    DATA_REQUEST = 7
    DATA_START = 8
    DATA_START_ACK = 9
    DATA_BLOCK = 10
    DATA_END = 11
    DATA_END_ACK = 12
    BLOCK_REQUEST = 13
    ERROR = 14
    ANNOUNCE = 15


class Body:
    """Takes fields from the front of a body; whatever is missing or out of range is the peer's error."""

    def __init__(self, octets: bytes, what: str) -> None:
        self._octets = octets
        self._at = 0
        self.what = what

    def take(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._octets):
            raise RemoteProtocolError(f"{self.what} ends too early")
        piece = self._octets[self._at : end]
        self._at = end
        return piece

    def skip(self, count: int) -> None:
        """Reserved bytes: they must be there, and are ignored."""
        self.take(count)

    def unsigned(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def rest(self) -> bytes:
        return self.take(len(self._octets) - self._at)

    def text(self, limit: int) -> str:
        octets = self.take(self.unsigned(1))
        if len(octets) > limit:
            raise RemoteProtocolError(f"{self.what} has a text of {len(octets)} bytes; at most {limit}")
        try:
            return octets.decode("utf-8")
        except UnicodeDecodeError as error:
            raise RemoteProtocolError(f"{self.what} has a text that is not UTF-8") from error

    def closed(self, kind: type[_Closed], size: int = 1) -> _Closed:
        value = self.unsigned(size)
        try:
            return kind(value)
        except ValueError as error:
            raise RemoteProtocolError(f"{self.what}: {value} is no {kind.__name__}") from error

    def require(self, ok: bool, what: str) -> None:
        if not ok:
            raise RemoteProtocolError(f"{self.what}: {what}")


def fixed(octets: bytes, size: int) -> bytes:
    """A field of that many bytes; struct would pad or cut a wrong one in silence."""
    assert len(octets) == size, f"{len(octets)} bytes in a field of {size}"
    return octets


def text_field(words: str, limit: int) -> bytes:
    """A length byte and at most `limit` bytes of UTF-8."""
    octets = words.encode()
    assert len(octets) <= limit <= 255, f"a text of {len(octets)} bytes; at most {limit}"
    return bytes([len(octets)]) + octets
