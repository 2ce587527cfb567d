# SPDX-License-Identifier: Apache-2.0
"""The restore session: from the first Probe to the boot record (R18 to R23; spec/protocol.md §5.1).

A state machine without sockets and clocks: `receive` takes a message, `outgoing` gives what is due, `timer` says when
to ask again. It writes flash as erase blocks arrive, each verified first and read back after, the boot record last.
Nothing a server says can make it write a byte that this device did not seal, or name anything in the boot record that
it may not run: the worst a server can do is not to help.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from enum import Enum, auto

from unbrickd.errors import FlashError, IntegrityError, RemoteProtocolError
from unbrickd.flash.device import DeviceFlash
from unbrickd.flash.write import write_erase_block
from unbrickd.model.manifest import GENERATION_OBJECT_ID, Manifest, SealedGeneration
from unbrickd.model.peer import Datagram, Peer
from unbrickd.recovery import events
from unbrickd.recovery.check import Decision, Findings, Reason
from unbrickd.recovery.offer import check_document, check_offer, next_record
from unbrickd.seal.content import open_erase_block
from unbrickd.transfer.discovery import AVOID_S, Discovery, FoundServer
from unbrickd.transfer.receiver import Completed, Receiver
from unbrickd.transfer.retry import Repeater
from unbrickd.transfer.segments import Segment, document_segments, segments_of
from unbrickd.wire import messages as m
from unbrickd.wire.framing import MIN_MAX_MESSAGE_BYTES
from unbrickd.wire.packet import BLOCK_OVERHEAD_BYTES, Message, Packet, decode, encode

SILENCE_S = 10.0
"""A server that sends no block for so long has gone (spec/protocol.md §6)."""
NO_FIRST_BLOCK_S = 1.5
"""After this long without any block at all, blocks are made to fit a 1280-byte path (§1)."""
MAX_REJECTED_ERASE_BLOCKS = 3
"""Erase blocks with a wrong digest before a server is given up: damage on the way is rare, a hostile server is not."""
MISC_RAM_BYTES = 4096
"""Context, header and decoded message; what the C core declares for its structures."""


class _State(Enum):
    PROBING = auto()
    ASKING = auto()
    STARTING = auto()
    FETCHING = auto()
    DONE = auto()


class RestoreSession:
    """Restores what `decision` calls for. Ends with `restored`, the generation now in flash and named by the record.

    targets: where Probes go. max_message_bytes, ring_frames: what the device can take. entropy: random bytes.
    """

    def __init__(
        self,
        device: DeviceFlash,
        findings: Findings,
        decision: Decision,
        *,
        targets: tuple[Peer, ...],
        entropy: Callable[[int], bytes],
        now_s: float,
        max_message_bytes: int = MIN_MAX_MESSAGE_BYTES,
        ring_frames: int = 0,
    ) -> None:
        self._device = device
        self._findings = findings
        self._decision = decision
        self._entropy = entropy
        self._max_message_bytes = max_message_bytes
        self._ring_frames = ring_frames
        self._discovery = Discovery(
            device_id=device.keys.identity.device_id,
            purpose=m.Purpose.RESTORE,
            targets=targets,
            max_message_bytes=max_message_bytes,
            ring_frames=ring_frames,
            entropy=entropy,
            tries=None,
            now_s=now_s,
        )
        self._state = _State.PROBING
        self._session = 0
        self._transfer = 0
        self._server: FoundServer | None = None
        self._repeater = Repeater(now_s=now_s)
        self._offer = m.RestoreAck()
        self._target: SealedGeneration | None = None
        self._document = bytearray()
        self._pending: list[tuple[Manifest, tuple[int, ...]]] = []
        self._receiver: Receiver | None = None
        self._to_send: list[Datagram] = []
        self._events: list[events.Event] = []
        self._bytes_received = self._bytes_sent = self._payload_bytes = 0
        self.restored: SealedGeneration | None = None
        self.flash_failure = ""

    # The five calls

    def receive(self, peer: Peer, octets: bytes, now_s: float) -> None:
        """Take one message. Nothing of a peer's raises; what does not belong here is ignored."""
        try:
            packet = decode(octets)
        except RemoteProtocolError:
            return
        if self._state is _State.PROBING:
            self._discovery.receive(peer, packet.message, now_s)
            self._choose(now_s)
        elif self._server is not None and peer == self._server.peer and packet.session == self._session:
            self._bytes_received += len(octets)
            self._in_session(packet, now_s)

    def outgoing(self, now_s: float) -> list[Datagram]:
        """Every message that is due now."""
        self._choose(now_s)
        if self._state is _State.PROBING:
            self._to_send += self._discovery.outgoing(now_s)
            self._choose(now_s)
        if self._state in (_State.ASKING, _State.STARTING):
            if self._repeater.exhausted(now_s):
                self._lost_server("it stopped answering", now_s)
            elif self._repeater.due(now_s):
                self._repeater.sent(now_s)
                self._send(self._restore() if self._state is _State.ASKING else self._data_request())
        elif self._state is _State.FETCHING:
            self._pull(now_s)
        due, self._to_send = self._to_send, []
        self._bytes_sent += sum(len(octets) for _, octets in due)
        return due

    def timer(self) -> float | None:
        """When to call `outgoing` again though nothing arrived."""
        if self._state is _State.PROBING:
            return self._discovery.timer()
        if self._state is _State.FETCHING and self._receiver is not None:
            return self._receiver.timer()
        return None if self._state is _State.DONE else self._repeater.due_s

    def events(self) -> list[events.Event]:
        """What happened since the last call."""
        happened, self._events = self._events, []
        return happened

    @property
    def ram_bytes(self) -> int:
        """Buffers in use besides manifests: what a bootloader must declare (at most one erase block plus 32 KiB)."""
        receiver = self._receiver.buffer_bytes if self._receiver is not None else 0
        return receiver + self._max_message_bytes * 2 + MISC_RAM_BYTES

    # Finding a server and asking it

    def _choose(self, now_s: float) -> None:
        found = self._discovery.chosen
        if self._state is not _State.PROBING or found is None:
            return
        self._server = found
        self._session = int.from_bytes(self._entropy(4), "big") or 1
        self._transfer = 0
        self._state = _State.ASKING
        self._repeater = Repeater(now_s=now_s)
        self._events.append(events.ServerFound(server=str(found.peer), holds_device=found.holds_device))

    def _restore(self) -> m.Restore:
        assert self._server is not None
        lowest, highest = self._decision.rejected
        return m.Restore(
            cookie=self._server.cookie,
            device_id=self._device.keys.identity.device_id,
            named=self._decision.named,
            rejected_from=lowest,
            rejected_to=highest,
        )

    def _in_session(self, packet: Packet, now_s: float) -> None:
        message = packet.message
        if isinstance(message, m.Error):
            self._error(message, now_s)
        elif isinstance(message, m.RestoreAck) and self._state is _State.ASKING:
            self._take_offer(message, now_s)
        elif packet.transfer == self._transfer:
            self._in_transfer(message, now_s)

    def _error(self, error: m.Error, now_s: float) -> None:
        if error.code == m.ErrorCode.ROTTEN:
            self._ask_again(now_s)
        elif error.code in (m.ErrorCode.COOKIE, m.ErrorCode.NO_SESSION):
            self._lost_server(f"it asks to begin again ({error.name})", now_s)
        else:
            self._give_up(error.text or error.name, now_s, wait_s=error.retry_after_s)

    def _take_offer(self, offer: m.RestoreAck, now_s: float) -> None:
        if offer.generation == 0:
            self._give_up("it holds no good backup of this device that may be restored", now_s)
            return
        held = self._findings.loaded.record.sealed if self._findings.loaded else None
        self._offer = offer
        try:
            check_offer(self._device.keys, offer, held=held, decision=self._decision)
            if held is not None and held.digest == offer.document_digest:
                self._select(held, now_s)
            else:
                self._document = bytearray(offer.document_length_bytes)
                self._start(now_s)
        except IntegrityError as error:
            self._give_up(str(error), now_s, refused=True)

    # Transfers: the document, then each component that needs erase blocks

    def _select(self, target: SealedGeneration, now_s: float) -> None:
        """Compare the flash with the generation to be restored, and begin to fetch what differs."""
        self._target = target
        self._pending = []
        for manifest in target.generation.components:
            slot = self._device.slot(manifest.component_id)
            assert slot is not None, "check_document made sure of it"
            damaged = slot.damaged(manifest, self._device.keys.content)
            self._pending.append((manifest, damaged))
        self._events.append(
            events.OfferTaken(
                generation=target.generation.number,
                is_named=target.generation.number == self._decision.named,
                components=tuple(
                    (c.name, len(damaged), c.geometry.count, sum(c.content_bytes(i) for i in damaged))
                    for c, damaged in self._pending
                ),
            )
        )
        self._next_component(now_s)

    def _next_component(self, now_s: float) -> None:
        self._receiver = None
        while self._pending and not self._pending[0][1]:
            del self._pending[0]
        if self._pending:
            self._start(now_s)
        else:
            self._finish()

    def _start(self, now_s: float) -> None:
        self._transfer = self._transfer % 0xFFFF + 1
        self._state = _State.STARTING
        self._repeater = Repeater(now_s=now_s)

    def _object(self) -> tuple[int, int, bytes]:
        """(component id, length, digest) of what is being fetched."""
        if self._target is None:
            return GENERATION_OBJECT_ID, self._offer.document_length_bytes, self._offer.document_digest
        manifest = self._pending[0][0]
        return manifest.component_id, manifest.length_bytes, manifest.image_digest

    def _data_request(self) -> m.DataRequest:
        assert self._server is not None
        component_id, _, digest = self._object()
        longest = min(self._server.max_message_bytes, self._max_message_bytes)
        return m.DataRequest(
            component_id=component_id,
            max_block_bytes=longest - BLOCK_OVERHEAD_BYTES,
            generation=self._offer.generation,
            digest=digest,
        )

    def _in_transfer(self, message: Message, now_s: float) -> None:
        if isinstance(message, m.DataStart):
            self._data_start(message, now_s)
        elif self._receiver is None or self._state is not _State.FETCHING:
            return
        elif isinstance(message, m.DataBlock):
            completed = self._receiver.receive_block(
                request=message.request, offset_bytes=message.offset_bytes, payload=message.payload, now_s=now_s
            )
            for segment in completed:
                self._complete(segment, now_s)
                if self._state is not _State.FETCHING:
                    return
        elif isinstance(message, m.DataEnd):
            self._receiver.receive_end(request=message.request, blocks_sent=message.blocks_sent, now_s=now_s)

    def _data_start(self, start: m.DataStart, now_s: float) -> None:
        component_id, length, digest = self._object()
        if (start.component_id, start.length_bytes, start.digest) != (component_id, length, digest):
            self._give_up("it announced another image than was asked for", now_s, refused=True)
            return
        block_bytes = min(start.max_block_bytes, self._data_request().max_block_bytes)
        if self._state is _State.STARTING:
            self._receiver = Receiver(
                segments=self._segments(),
                block_bytes=block_bytes,
                max_open_segments=1,
                max_window_blocks=self._ring_frames or 256,
                now_s=now_s,
            )
            self._state = _State.FETCHING
        self._send(m.DataStartAck(block_bytes=block_bytes))

    def _segments(self) -> tuple[Segment, ...]:
        if self._target is None:
            return document_segments(self._offer.document_length_bytes)
        return segments_of(*self._pending[0])

    def _pull(self, now_s: float) -> None:
        receiver = self._receiver
        assert receiver is not None
        silent_s = receiver.silent_s(now_s)
        if silent_s > SILENCE_S:
            self._lost_server("it stopped sending", now_s)
        elif (
            silent_s > NO_FIRST_BLOCK_S
            and receiver.stats.blocks_received == 0
            and self._max_message_bytes > MIN_MAX_MESSAGE_BYTES
        ):
            self._max_message_bytes = MIN_MAX_MESSAGE_BYTES
            self._start(now_s)
        else:
            for request in receiver.requests(now_s):
                self._send(request)

    def _complete(self, completed: Completed, now_s: float) -> None:
        """One erase block (or slice of the document) has arrived whole: verify, program, read back, then count it."""
        assert self._receiver is not None
        segment = completed.segment
        if self._target is None:
            self._document[segment.offset_bytes : segment.offset_bytes + segment.length_bytes] = completed.octets
        else:
            try:
                octets = self._verified(bytes(completed.octets), segment.index)
            except IntegrityError as error:
                self._receiver.reject(segment.index, now_s)
                if self._receiver.stats.rejected_segments >= MAX_REJECTED_ERASE_BLOCKS:
                    self._give_up(f"what it sends is not what was backed up: {error}", now_s, refused=True)
                return
            if not self._program(segment.index, octets):
                return
        self._receiver.accept(segment.index)
        self._payload_bytes += segment.length_bytes
        if self._receiver.complete:
            self._send(m.DataEndAck(status=m.EndStatus.VERIFIED))
            self._transfer_done(now_s)

    def _verified(self, octets: bytes, index: int) -> bytes:
        """The erase block's contents, decrypted if sealed. Raises IntegrityError."""
        manifest = self._pending[0][0]
        if manifest.sealed:
            return open_erase_block(
                self._device.keys.content,
                component_id=manifest.component_id,
                index=index,
                digest=manifest.digests[index],
                ciphertext=octets,
            )
        if hashlib.sha256(octets).digest() != manifest.digests[index]:
            raise IntegrityError(f"erase block {index} of {manifest.name!r} has another digest", code="digest")
        return octets

    def _program(self, index: int, octets: bytes) -> bool:
        manifest, damaged = self._pending[0]
        slot = self._device.slot(manifest.component_id)
        assert slot is not None
        try:
            write_erase_block(slot.flash, slot.flash.geometry.erase_block(index), octets)
        except FlashError as error:
            self._flash_failed(f"{manifest.name}: {error}")
            return False
        self._events.append(
            events.EraseBlockRestored(
                component=manifest.name, index=index, done=damaged.index(index) + 1, wanted=len(damaged)
            )
        )
        return True

    def _transfer_done(self, now_s: float) -> None:
        if self._target is not None:
            del self._pending[0]
            self._next_component(now_s)
            return
        try:
            target = check_document(self._device, self._offer, bytes(self._document), self._floor)
        except IntegrityError as error:
            self._give_up(str(error), now_s, refused=True)
            return
        self._document = bytearray()
        self._select(target, now_s)

    # Ends

    @property
    def _floor(self) -> int:
        return self._findings.loaded.record.rollback_floor if self._findings.loaded else 0

    def _finish(self) -> None:
        """All erase blocks are in flash and were read back; now, last, the record that makes them count."""
        assert self._target is not None
        record = self._findings.loaded.record if self._findings.loaded else None
        named_already = record is not None and record.sealed.digest == self._target.digest
        try:
            # Only damage was mended: the record, its journal of boots included, is right as it stands.
            if not (named_already and self._decision.reason is Reason.DAMAGED):
                self._device.record.commit(next_record(record, self._target, rejected=self._decision.rejected))
        except FlashError as error:
            self._flash_failed(f"boot record: {error}")
            return
        self._state = _State.DONE
        self.restored = self._target
        self._events.append(
            events.Restored(
                generation=self._target.generation.number,
                bytes_received=self._bytes_received,
                bytes_sent=self._bytes_sent,
                payload_bytes=self._payload_bytes,
            )
        )

    def _flash_failed(self, why: str) -> None:
        self.flash_failure = why
        self._state = _State.DONE

    def _ask_again(self, now_s: float) -> None:
        """The server found its copy rotten: it will offer another generation."""
        self._forget_offer()
        self._state = _State.ASKING
        self._repeater = Repeater(now_s=now_s)

    def _give_up(self, why: str, now_s: float, *, refused: bool = False, wait_s: int = 0) -> None:
        """This server cannot help for now: look for another, come back to it later."""
        assert self._server is not None
        self._events.append(events.ServerGivenUp(server=str(self._server.peer), why=why, refused=refused))
        self._discovery.avoid(self._server.server_id, now_s=now_s, for_s=wait_s or AVOID_S)
        self._probe_again(now_s)

    def _lost_server(self, why: str, now_s: float) -> None:
        """The server vanished or was restarted: probe at once, it may be back."""
        assert self._server is not None
        self._events.append(events.ServerGivenUp(server=str(self._server.peer), why=why, refused=False))
        self._probe_again(now_s)

    def _probe_again(self, now_s: float) -> None:
        self._forget_offer()
        self._server = None
        self._state = _State.PROBING
        self._discovery.restart(now_s)

    def _forget_offer(self) -> None:
        self._receiver = None
        self._target = None
        self._pending = []
        self._document = bytearray()

    def _send(self, message: Message) -> None:
        assert self._server is not None
        transfer = 0 if isinstance(message, m.Restore) else self._transfer
        self._to_send.append((self._server.peer, encode(message, session=self._session, transfer=transfer)))
