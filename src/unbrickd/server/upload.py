# SPDX-License-Identifier: Apache-2.0
"""One transfer from a device to us: the receiver that asks for it, and the sinks that verify and keep what comes.

Knows no sessions and sends nothing itself: it says which messages are due. Spec: spec/protocol.md §4.8 to §4.13.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol

from unbrickd.model.codec import decode_generation
from unbrickd.model.manifest import Manifest, SealedGeneration
from unbrickd.server.limits import (
    GATHER_BLOCKS,
    GATHER_MOST_S,
    GATHER_PART,
    GATHER_STEP_S,
    REOPEN_S,
    SILENCE_S,
    ServerLimits,
)
from unbrickd.server.port import Refusal
from unbrickd.store.vault import Vault
from unbrickd.transfer.receiver import Receiver, TransferStats
from unbrickd.transfer.rtt import RttEstimator
from unbrickd.transfer.segments import Segment, document_segments, segments_of
from unbrickd.wire import messages as m
from unbrickd.wire.framing import MIN_MAX_MESSAGE_BYTES
from unbrickd.wire.packet import BLOCK_OVERHEAD_BYTES

SAFE_BLOCK_BYTES = MIN_MAX_MESSAGE_BYTES - BLOCK_OVERHEAD_BYTES
"""What every path carries whole (§1)."""


class Sink(Protocol):
    """Where the segments of a transfer go."""

    def missing(self) -> tuple[Segment, ...]:
        """What has still to come, in the order it is wanted."""

    def take(self, segment: Segment, octets: bytes | memoryview) -> bool:
        """Verify and keep one segment; False if it is not what it should be. Raises StorageError."""

    def suspend(self) -> None:
        """Keep what came, so that it need not come again. Raises StorageError."""


class DocumentSink:
    """Collects a generation document in memory; it is verified as a whole, by the digest the device signed."""

    def __init__(self, backup: m.Backup) -> None:
        self._backup = backup
        self._octets = bytearray(backup.document_length_bytes)

    def missing(self) -> tuple[Segment, ...]:
        return document_segments(len(self._octets))

    def take(self, segment: Segment, octets: bytes | memoryview) -> bool:
        self._octets[segment.offset_bytes : segment.end_bytes] = octets
        return True

    def suspend(self) -> None:
        """Nothing is kept: a document is small beside its images."""

    def finish(self) -> SealedGeneration:
        """The document, checked against the signed Backup. Raises IntegrityError, Refusal."""
        document, backup = bytes(self._octets), self._backup
        if hashlib.sha256(document).digest() != backup.document_digest:
            raise Refusal(m.ErrorCode.MALFORMED, "the document is not the one that Backup names")
        sealed = decode_generation(document)
        generation = sealed.generation
        if generation.device_id != backup.device_id or generation.number != backup.generation:
            raise Refusal(m.ErrorCode.MALFORMED, "the document is of another device or generation")
        if tuple(m.ComponentRecord.of(c) for c in generation.components) != backup.components:
            raise Refusal(m.ErrorCode.MALFORMED, "the document and Backup name different components")
        return sealed


class ImageSink:
    """Takes the erase blocks of one image into the store, each against its transfer digest."""

    def __init__(self, vault: Vault, device_id: bytes, manifest: Manifest) -> None:
        """Begin, or resume what came before. Raises StorageError."""
        self._vault = vault
        self._staging = vault.stage(device_id, manifest)
        self._missing = segments_of(manifest, self._staging.missing)
        self.held_bytes = manifest.length_bytes - sum(s.length_bytes for s in self._missing)

    def missing(self) -> tuple[Segment, ...]:
        return self._missing

    def take(self, segment: Segment, octets: bytes | memoryview) -> bool:
        if not self._staging.put(segment.index, octets):
            return False
        self.held_bytes += segment.length_bytes
        return True

    def suspend(self) -> None:
        self._staging.suspend()

    def sync(self) -> None:
        """What came is made durable; on any thread, while nothing else is called. Raises StorageError."""
        self._staging.sync()

    def finish(self) -> None:
        """The image is whole: make it show. Raises IntegrityError, StorageError."""
        self._vault.commit_image(self._staging)


class IncomingTransfer:
    """Drives a Receiver into a sink. rtt: of the session's path; `on_take` hears of every segment that was kept."""

    def __init__(
        self,
        sink: Sink,
        *,
        transfer: int,
        start: m.DataStart,
        block_bytes: int,
        limits: ServerLimits,
        rtt: RttEstimator,
        on_take: Callable[[], None],
        now_s: float,
    ) -> None:
        self.transfer = transfer
        self.start = start
        self._sink = sink
        self._limits = limits
        self._rtt = rtt
        self._on_take = on_take
        self._open(sink.missing(), block_bytes, now_s)

    def _open(self, segments: tuple[Segment, ...], block_bytes: int, now_s: float) -> None:
        largest = max((s.length_bytes for s in segments), default=1)
        self._block_bytes = block_bytes
        self._opened_s = now_s
        self._receiver = Receiver(
            segments=segments,
            block_bytes=block_bytes,
            ahead_bytes=max(0, self._limits.upload_buffer_bytes - largest),
            max_window_blocks=self._limits.max_window_blocks,
            rtt=self._rtt,
            now_s=now_s,
        )

    @property
    def ack(self) -> m.DataStartAck:
        return m.DataStartAck(block_bytes=self._block_bytes)

    @property
    def complete(self) -> bool:
        return self._receiver.complete

    @property
    def stats(self) -> TransferStats:
        return self._receiver.stats

    @property
    def gather_s(self) -> float:
        """For how long blocks may wait to be taken together; 0.0: not at all."""
        outstanding = self._receiver.outstanding_blocks
        if outstanding < GATHER_BLOCKS:
            return 0.0
        until_s = min(self._rtt.queueing_s / GATHER_PART, self.stats.srtt_s * GATHER_BLOCKS / outstanding)
        return min(until_s // GATHER_STEP_S * GATHER_STEP_S, GATHER_MOST_S)

    def silent(self, now_s: float) -> bool:
        return not self.complete and self._receiver.silent_s(now_s) >= SILENCE_S

    def receive_block(self, block: m.DataBlock, now_s: float) -> bool:
        """Whether all is there now. Raises StorageError; Refusal if too many erase blocks were wrong."""
        receiver = self._receiver
        receiver.receive_block(
            request=block.request, offset_bytes=block.offset_bytes, payload=block.payload, now_s=now_s
        )
        if not receiver.is_whole:
            return False
        while receiver.is_whole:
            whole = receiver.head()
            if self._sink.take(whole.segment, whole.octets):
                receiver.accept()
                self._on_take()
                continue
            receiver.reject()
            if self.stats.rejected_segments > self._limits.max_rejected:
                raise Refusal(m.ErrorCode.MALFORMED, "too many erase blocks are not what the document says")
        return receiver.complete

    def receive_end(self, end: m.DataEnd, now_s: float) -> None:
        self._receiver.receive_end(request=end.request, blocks_sent=end.blocks_sent, now_s=now_s)

    def messages(self, now_s: float) -> list[m.BlockRequest | m.DataStartAck]:
        """What is to be sent now. If blocks of this size do not pass at all, the transfer is opened anew (§1)."""
        nothing_came = not self.stats.blocks_received and now_s - self._opened_s >= REOPEN_S
        opened: list[m.BlockRequest | m.DataStartAck] = []
        if nothing_came and not self.complete and self._block_bytes > SAFE_BLOCK_BYTES:
            self._open(self._sink.missing(), SAFE_BLOCK_BYTES, now_s)
            opened.append(self.ack)
        return opened + list(self._receiver.requests(now_s))

    def timer(self) -> float | None:
        return self._receiver.timer()

    def suspend(self) -> None:
        """Raises StorageError."""
        self._sink.suspend()
