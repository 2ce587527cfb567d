# SPDX-License-Identifier: Apache-2.0
"""What a session sees of the server: where answers and events go, and how it refuses. Knows no order of messages."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from unbrickd.errors import RemoteProtocolError, StorageError, UnbrickdError
from unbrickd.model.peer import Datagram, Peer
from unbrickd.server.events import Event
from unbrickd.wire.messages import ErrorCode
from unbrickd.wire.packet import Message, encode

SessionKey = tuple[Peer, int]
"""A session belongs to the address that proved, by its cookie, that it receives; elsewhere it is unknown."""


class Refusal(Exception):
    """A message that is answered with Error `code`. Never leaves this package."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    @classmethod
    def of(cls, error: Refusal | UnbrickdError) -> Refusal:
        """What to tell the device of an error of ours or of its own."""
        if isinstance(error, Refusal):
            return error
        if isinstance(error, RemoteProtocolError):
            return cls(ErrorCode(error.wire_code), str(error))
        if isinstance(error, StorageError):
            codes = {"disk-full": ErrorCode.NO_SPACE, "rotten": ErrorCode.ROTTEN}
            return cls(codes.get(error.code, ErrorCode.STORAGE), str(error))
        return cls(ErrorCode.MALFORMED, str(error))


@dataclass(slots=True, kw_only=True)
class DiskWork:
    """A wait for the disk of one session. `run` it on any thread, so that all others go on; then `Server.work_done`."""

    key: SessionKey
    sync: Callable[[], None]
    done: Callable[[StorageError | None, float], None]
    error: StorageError | None = None

    def run(self) -> None:
        try:
            self.sync()
        except StorageError as error:
            self.error = error


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """The replies, events and waits of one session. All queues are the server's, and bounded."""

    peer: Peer
    session: int
    replies: deque[Datagram]
    events: deque[Event]
    work: deque[DiskWork]

    @property
    def key(self) -> SessionKey:
        return self.peer, self.session

    def send(self, message: Message, transfer: int = 0) -> None:
        self.replies.append((self.peer, encode(message, session=self.session, transfer=transfer)))

    def wait_for(self, sync: Callable[[], None], done: Callable[[StorageError | None, float], None]) -> None:
        """done: called with what `sync` raised, and the time, after this turn; it may raise Refusal, UnbrickdError."""
        self.work.append(DiskWork(key=self.key, sync=sync, done=done))

    def emit(self, event: Event) -> None:
        self.events.append(event)
