# SPDX-License-Identifier: Apache-2.0
"""Fetching one object: from DataRequest until its last segment was accepted (spec/protocol.md §4.7 to §4.13, §5.1).

In charge of the transfer, as receivers are. Knows no server, no flash and no keys: whoever drives it verifies each
segment. Nothing a server sends makes it keep more than it declares.
"""

from __future__ import annotations

from dataclasses import dataclass

from unbrickd.transfer.receiver import Completed, Receiver
from unbrickd.transfer.retry import FIRST_WAIT_S, Repeater
from unbrickd.transfer.segments import DOCUMENT_SLICE_BYTES, Segment
from unbrickd.wire import messages as m
from unbrickd.wire.framing import MIN_MAX_MESSAGE_BYTES
from unbrickd.wire.packet import BLOCK_OVERHEAD_BYTES, Message

SILENCE_S = 10.0
"""A server that sends no block for so long has gone (spec/protocol.md §6)."""
NO_FIRST_BLOCK_S = 1.5
"""After this long without any block at all, blocks are made to fit a 1280-byte path (§1)."""
SAFE_BLOCK_BYTES = MIN_MAX_MESSAGE_BYTES - BLOCK_OVERHEAD_BYTES
SHORTEST_BLOCK_BYTES = 512
"""A server that can send no longer blocks than this is given up: what is known of each block costs memory."""
MAX_WINDOW_BLOCKS = 256
"""Blocks outstanding."""
AHEAD_BYTES = 16 << 10
"""So much of what follows an erase block is taken while that is filled or written: network and flash work at once."""
AMPLE_AHEAD_BYTES = 1 << 20
"""The same where memory is no matter, as under Linux: what a gigabit link has under way in 8 ms."""
BLOCK_STATE_BYTES = 8
"""Per block that the buffer takes: where it belongs, its length, and whether it is there."""
FLIGHT_BYTES = 16
"""Per block outstanding: which it is, when and by which request it was asked for, and in which order."""
MISC_RAM_BYTES = 4096
"""Contexts, blocks given up of late, decoded message, keys."""


def declared_ram_bytes(
    *, segment_bytes: int, block_bytes: int, max_message_bytes: int, ahead_bytes: int = AHEAD_BYTES
) -> int:
    """What recovery keeps beyond the manifest while it fetches segments of at most so many bytes.

    The buffer for a segment and what is taken ahead, what is known of its blocks, one message each way, and the rest.
    The C core reserves just this; Python's short-lived copies are not counted.
    """
    buffer = segment_bytes + ahead_bytes
    blocks = -(-buffer // block_bytes) * BLOCK_STATE_BYTES + MAX_WINDOW_BLOCKS * FLIGHT_BYTES
    return buffer + blocks + 2 * max_message_bytes + MISC_RAM_BYTES


def worst_ram_bytes(*, erase_block_bytes: int, max_message_bytes: int) -> int:
    """The same for a device whose largest erase block has so many bytes, whatever a server does."""
    return declared_ram_bytes(
        segment_bytes=max(erase_block_bytes, DOCUMENT_SLICE_BYTES),
        block_bytes=SHORTEST_BLOCK_BYTES,
        max_message_bytes=max_message_bytes,
    )


class NoHelp(Exception):
    """The server does not help, for the reason given; never leaves this package.

    refused: it gave what must not be taken; gone: it fell silent, so it may be back at any moment.
    """

    def __init__(self, why: str, *, refused: bool = False, gone: bool = False) -> None:
        super().__init__(why)
        self.refused = refused
        self.gone = gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An object of the offered generation, and what of it is to be fetched."""

    component_id: int
    generation: int
    length_bytes: int
    digest: bytes
    segments: tuple[Segment, ...]


class Fetch:
    """One transfer. max_block_bytes: what fits the messages of both sides. ring_frames: what the device takes at once,
    0 if no matter. first_wait_s: for an answer. ahead_bytes: what is taken of the segments that follow."""

    def __init__(
        self,
        wanted: Wanted,
        *,
        transfer: int,
        max_block_bytes: int,
        max_window_blocks: int = MAX_WINDOW_BLOCKS,
        ring_frames: int = 0,
        now_s: float,
        first_wait_s: float = FIRST_WAIT_S,
        ahead_bytes: int = AHEAD_BYTES,
    ) -> None:
        self.transfer = transfer
        self.wanted = wanted
        self.largest_segment_bytes = max(segment.length_bytes for segment in wanted.segments)
        self._max_block_bytes = max_block_bytes
        self._max_window_blocks = max_window_blocks
        self._ring_frames = ring_frames
        self._ahead_bytes = ahead_bytes
        self._repeater = Repeater(now_s=now_s, first_wait_s=first_wait_s)
        self._receiver: Receiver | None = None
        self._block_bytes = max_block_bytes
        self._ack_due = False
        self.rejected = 0
        """Segments that were not what their digest says."""

    @property
    def complete(self) -> bool:
        return self._receiver is not None and self._receiver.complete

    @property
    def head(self) -> Completed | None:
        """The first segment that was not accepted, once all of it is there."""
        return self._receiver.head() if self._receiver is not None and self._receiver.is_whole else None

    @property
    def block_bytes(self) -> int:
        """Length of a block, as far as it is settled."""
        return self._block_bytes

    def receive(self, message: Message, now_s: float) -> None:
        """A message of this transfer. Raises NoHelp."""
        if self._receiver is not None and isinstance(message, m.DataBlock):
            self._receiver.receive_block(
                request=message.request, offset_bytes=message.offset_bytes, payload=message.payload, now_s=now_s
            )
        elif isinstance(message, m.DataStart):
            self._start(message, now_s)
        elif self._receiver is not None and isinstance(message, m.DataEnd):
            self._receiver.receive_end(request=message.request, blocks_sent=message.blocks_sent, now_s=now_s)

    def release(self, length_bytes: int) -> None:
        """So many more bytes of the head are used up."""
        assert self._receiver is not None
        self._receiver.release(length_bytes)

    def accept(self) -> None:
        """All of the head is."""
        assert self._receiver is not None
        self._receiver.accept()

    def again(self) -> None:
        """Fetch the head again, and what follows."""
        assert self._receiver is not None
        self._receiver.reject()

    def reject(self) -> None:
        """The head is not what its digest says: fetch it again."""
        self.rejected += 1
        self.again()

    def outgoing(self, now_s: float) -> list[Message]:
        """What is due now. Raises NoHelp."""
        messages: list[Message] = []
        if self._receiver is None:
            if self._repeater.exhausted(now_s):
                raise NoHelp("it stopped answering", gone=True)
            if self._repeater.due(now_s):
                self._repeater.sent(now_s)
                messages.append(self._request())
            return messages
        if self._receiver.silent_s(now_s) >= SILENCE_S:
            raise NoHelp("it stopped sending", gone=True)
        if self._ack_due:
            self._ack_due = False
            messages.append(m.DataStartAck(block_bytes=self._block_bytes))
        messages += self._receiver.requests(now_s)
        return messages

    def blocks_do_not_pass(self, now_s: float) -> bool:
        """Whether to fetch it with shorter blocks: none of this length came, and shorter ones may."""
        receiver = self._receiver
        return (
            receiver is not None
            and self._block_bytes > SAFE_BLOCK_BYTES
            and receiver.stats.blocks_received == 0
            and receiver.silent_s(now_s) > NO_FIRST_BLOCK_S
        )

    def timer(self) -> float | None:
        """When to call `outgoing` again if nothing arrives."""
        return self._repeater.due_s if self._receiver is None else self._receiver.timer()

    def _request(self) -> m.DataRequest:
        wanted = self.wanted
        return m.DataRequest(
            component_id=wanted.component_id,
            max_block_bytes=self._max_block_bytes,
            generation=wanted.generation,
            digest=wanted.digest,
        )

    def _start(self, start: m.DataStart, now_s: float) -> None:
        wanted = self.wanted
        named = (start.component_id, start.generation, start.length_bytes, start.digest)
        if named != (wanted.component_id, wanted.generation, wanted.length_bytes, wanted.digest):
            raise NoHelp("it announces another image than it was asked for", refused=True)
        self._ack_due = True
        if self._receiver is not None:
            return
        self._block_bytes = min(start.max_block_bytes, self._max_block_bytes)
        if self._block_bytes < SHORTEST_BLOCK_BYTES:
            raise NoHelp(f"it sends blocks of {self._block_bytes} bytes, which are too short", refused=True)
        self._receiver = Receiver(
            segments=wanted.segments,
            block_bytes=self._block_bytes,
            ahead_bytes=self._ahead_bytes,
            max_window_blocks=self._max_window_blocks,
            ring_frames=self._ring_frames,
            now_s=now_s,
        )
