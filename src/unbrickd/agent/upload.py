# SPDX-License-Identifier: Apache-2.0
"""Uploading one object: DataStart, blocks as the server asks for them, DataEnd (R12; spec/protocol.md §4.8 to §4.13).

Knows no server and no flash: what is sent is read through a function. Nothing a server sends makes it keep more than
its Sender does, or go on without being asked for anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum, auto

from unbrickd.transfer.retry import FIRST_WAIT_S, Repeater
from unbrickd.transfer.sender import MAX_EARLY_REQUESTS, Sender
from unbrickd.wire import messages as m
from unbrickd.wire.packet import BLOCK_OVERHEAD_BYTES, Message, encode, encode_blocks

SILENCE_S = 10.0
"""A server that neither requests nor acknowledges for so long has gone (spec/protocol.md §6)."""
BURST_BLOCKS = 64
"""Blocks given out by one call of `outgoing`, so that incoming requests are looked at in between."""


class UploadError(Exception):
    """The upload does not go on, for the reason given; never leaves this package.

    gone: the server fell silent; it may be back at any moment, and what it has it will not ask for again.
    """

    def __init__(self, why: str, *, gone: bool = False) -> None:
        super().__init__(why)
        self.gone = gone


class _State(Enum):
    STARTING = auto()
    SENDING = auto()
    ENDING = auto()
    DONE = auto()


class Upload:
    """One transfer. read: (offset, length) to the bytes of the object; what it raises comes out of `outgoing`.

    first_wait_s: for an answer.
    """

    def __init__(
        self,
        start: m.DataStart,
        read: Callable[[int, int], bytes],
        *,
        session: int,
        transfer: int,
        first_wait_s: float = FIRST_WAIT_S,
        now_s: float,
    ) -> None:
        self.transfer = transfer
        self._start = start
        self._read = read
        self._session = session
        self._state = _State.STARTING
        self._first_wait_s = first_wait_s
        self._repeater = Repeater(now_s=now_s, first_wait_s=first_wait_s)
        self._sender: Sender | None = None
        self._early: deque[m.BlockRequest] = deque(maxlen=MAX_EARLY_REQUESTS)
        self._block_bytes = start.max_block_bytes + 1
        self._end: m.DataEnd | None = None
        self._asked_s = now_s
        self._start_due = False
        self.sent_bytes = 0
        """Given to the network so far, repeats included."""
        self.committed = False
        """Whether the server said that this made the generation whole."""

    @property
    def done(self) -> bool:
        """Whether the server said that it holds the object."""
        return self._state is _State.DONE

    def receive(self, message: Message, now_s: float) -> None:
        """A message of this transfer. Raises UploadError; RemoteProtocolError for what the server must be told of."""
        if isinstance(message, m.DataStartAck):
            self._start_ack(message, now_s)
        elif isinstance(message, m.BlockRequest):
            self._block_request(message, now_s)
        elif isinstance(message, m.DataEndAck):
            self._end_ack(message)

    def outgoing(self, now_s: float) -> list[bytes]:
        """Messages that are due, at most BURST_BLOCKS DataBlocks among them. Raises UploadError, what `read` raises."""
        if self._state is _State.STARTING:
            due = self._repeat(self._start, now_s) if not self._start_due else [self._encode(self._start)]
            self._start_due = False
            return due
        if self._state is _State.ENDING and self._end is not None:
            return self._repeat(self._end, now_s)
        if self._state is _State.SENDING and self._sender is not None:
            if now_s >= self._asked_s + SILENCE_S:
                raise UploadError("it stopped asking for blocks", gone=True)
            return self._blocks(self._sender, now_s)
        return []

    def timer(self) -> float | None:
        """When to call `outgoing` again though nothing arrived."""
        if self._state is not _State.SENDING:
            return self._repeater.due_s
        return self._asked_s if self._sender is not None and self._sender.pending else self._asked_s + SILENCE_S

    def _start_ack(self, ack: m.DataStartAck, now_s: float) -> None:
        """The first, or one of a server that opens the transfer anew as blocks of this length do not pass (§1)."""
        if ack.status is m.StartStatus.HELD:
            if self._state is _State.STARTING:
                self._finish(committed=ack.committed)
        elif ack.block_bytes < self._block_bytes:
            self._block_bytes = ack.block_bytes
            self._sender = Sender(length_bytes=self._start.length_bytes, block_bytes=ack.block_bytes)
            self._end = None
            while self._early:
                self._sender.request(self._early.popleft())
            self._await_requests(now_s)

    def _block_request(self, request: m.BlockRequest, now_s: float) -> None:
        if self._sender is None:
            # Its acknowledgement was lost; DataStart makes it come again (§4.10).
            self._early.append(request)
            self._start_due = True
            return
        self._sender.request(request)
        # One that was served before is no news: DataEnd goes on being repeated.
        if self._sender.pending:
            self._await_requests(now_s)

    def _end_ack(self, ack: m.DataEndAck) -> None:
        """Incomplete is no news: either the server asks for more, or this was of an earlier DataEnd."""
        if self._sender is None:
            return
        if ack.status is m.EndStatus.VERIFIED:
            self._finish(committed=ack.committed)
        elif ack.status is m.EndStatus.REFUSED:
            raise UploadError("what arrived was not what was announced")

    def _await_requests(self, now_s: float) -> None:
        self._state = _State.SENDING
        self._asked_s = now_s

    def _finish(self, *, committed: bool) -> None:
        self._state = _State.DONE
        self.committed = committed

    def _blocks(self, sender: Sender, now_s: float) -> list[bytes]:
        messages: list[bytes] = []
        message_bytes = self._block_bytes + BLOCK_OVERHEAD_BYTES
        while (room := BURST_BLOCKS - len(messages)) and (blocks := sender.next_blocks(room)) is not None:
            payload = self._read(blocks.offset_bytes, blocks.length_bytes)
            self.sent_bytes += len(payload)
            octets = encode_blocks(
                session=self._session,
                transfer=self.transfer,
                request=blocks.request,
                offset_bytes=blocks.offset_bytes,
                block_bytes=self._block_bytes,
                payload=payload,
            )
            messages += [octets[at : at + message_bytes] for at in range(0, len(octets), message_bytes)]
        if messages:
            self._asked_s = now_s
        request = sender.end_due()
        if request is not None:
            self._end = m.DataEnd(request=request, blocks_sent=sender.blocks_sent)
            self._state = _State.ENDING
            self._repeater = Repeater(now_s=now_s, first_wait_s=self._first_wait_s)
            messages += self._repeat(self._end, now_s)
        elif self._end is not None and not sender.pending:
            # All was asked for before, so this may be the last that the server needs, if what came late was not lost.
            self._state = _State.ENDING
            self._repeater = Repeater(now_s=now_s + self._first_wait_s, first_wait_s=self._first_wait_s)
        return messages

    def _repeat(self, message: Message, now_s: float) -> list[bytes]:
        if self._repeater.exhausted(now_s):
            raise UploadError("it stopped answering", gone=True)
        if not self._repeater.due(now_s):
            return []
        self._repeater.sent(now_s)
        return [self._encode(message)]

    def _encode(self, message: Message) -> bytes:
        return encode(message, session=self._session, transfer=self.transfer)
