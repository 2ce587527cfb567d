# SPDX-License-Identifier: Apache-2.0
"""One restore session: the offer, and the ranges the device asks for (spec/protocol.md §5.1).

Keeps next to nothing: which generation was offered and the ranges still to send. The device holds the rest, so that a
restart of the server costs it one Probe. Restore is not authenticated, for a bootloader does not sign: it gives out
only what is sealed or no secret, and changes nothing in the store but the mark on what is rotten.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from unbrickd.errors import StorageError
from unbrickd.model.manifest import GENERATION_OBJECT_ID, Manifest
from unbrickd.model.peer import Batch
from unbrickd.server.cache import EraseBlockCache
from unbrickd.server.events import RestoreOffered, RestoreServed, Rotten
from unbrickd.server.limits import BATCH_BYTES, BATCH_MESSAGES, ServerLimits
from unbrickd.server.port import Port, Refusal
from unbrickd.store.interface import GenerationKey
from unbrickd.store.vault import StoredGeneration, Vault
from unbrickd.transfer.sender import MAX_EARLY_REQUESTS, Sender
from unbrickd.wire import messages as m
from unbrickd.wire.packet import BLOCK_OVERHEAD_BYTES, Message, encode, encode_blocks

REMEMBERED_TRANSFERS = 16
"""Of those that are over, so that their late messages are passed over in silence."""


@dataclass(slots=True)
class _Outgoing:
    """One transfer to the device. manifest: None for the document. sender: None until DataStart-Ack; early: what was
    asked for before."""

    transfer: int
    start: m.DataStart
    manifest: Manifest | None
    begun_s: float
    sender: Sender | None = None
    early: deque[m.BlockRequest] = field(default_factory=lambda: deque(maxlen=MAX_EARLY_REQUESTS))
    block_bytes: int = 0
    moved_bytes: int = 0

    @property
    def name(self) -> str:
        return "" if self.manifest is None else self.manifest.name


class RestoreSession:
    """A session whose Restore returned a valid cookie."""

    purpose = m.Purpose.RESTORE

    def __init__(
        self, *, vault: Vault, cache: EraseBlockCache, limits: ServerLimits, port: Port, restore: m.Restore
    ) -> None:
        self.port = port
        self.device_id = restore.device_id
        self._vault = vault
        self._cache = cache
        self._limits = limits
        self._restore = restore
        self._offer: m.RestoreAck | None = None
        self._stored: StoredGeneration | None = None
        self._rotten: set[GenerationKey] = set()
        self._outgoing: _Outgoing | None = None
        self._ended: deque[int] = deque(maxlen=REMEMBERED_TRANSFERS)
        self._has_served = False

    # The offer

    def open(self) -> None:
        """Choose what to offer, and answer Restore. Raises StorageError."""
        self._end_transfer()
        chosen = self._choose()
        self._stored = None if chosen is None else self._cache.share(chosen)
        self._offer = m.RestoreAck() if self._stored is None else _offer_of(self._stored)
        self.port.send(self._offer)
        self.port.emit(
            RestoreOffered(
                device_id=self.device_id,
                peer=self.port.peer,
                number=self._offer.generation,
                good=self._offer.good_seal is not None,
            )
        )

    def _choose(self) -> StoredGeneration | None:
        """The named generation if it is whole, else the newest good one that is not rejected (§4.6)."""
        wanted, lowest, highest = self._restore.named, self._restore.rejected_from, self._restore.rejected_to
        if wanted and not lowest <= wanted <= highest:
            named = self._find_whole(wanted)
            if named is not None:
                return named
        good = self._vault.newest_good(self.device_id, excluding=(lowest, highest))
        return None if good is None or good.key in self._rotten else good

    def _find_whole(self, number: int) -> StoredGeneration | None:
        try:
            stored = self._vault.find(self.device_id, number)
        except StorageError as error:
            if error.code != "rotten":
                raise
            return None
        if stored is None or stored.damaged or stored.key in self._rotten:
            return None
        return stored if all(self._vault.has_image(c) for c in stored.generation.components) else None

    # Messages

    def receive(self, transfer: int, message: Message, now_s: float) -> bool:
        """Any message of the session; whether `pending` may say something else now. Raises Refusal, UnbrickdError."""
        match message:
            case m.Restore():
                self._again(message)
            case m.DataRequest():
                self._request(transfer, message, now_s)
            case m.DataStartAck():
                self._start_ack(self._current(transfer), message, now_s)
            case m.BlockRequest():
                self._block_request(self._current(transfer), message)
            case m.DataEndAck():
                self._end_ack(self._current(transfer), message, now_s)
            case _:
                raise Refusal(m.ErrorCode.UNEXPECTED, "this message has no place in a restore")
        return True

    def _again(self, restore: m.Restore) -> None:
        if restore == self._restore and self._offer is not None:
            self.port.send(self._offer)
            return
        self._restore = restore
        self.open()

    def _request(self, transfer: int, request: m.DataRequest, now_s: float) -> None:
        if transfer in self._ended:
            return
        if self._outgoing is not None and self._outgoing.transfer == transfer:
            self.port.send(self._outgoing.start, transfer)
            return
        if transfer == 0:
            raise Refusal(m.ErrorCode.UNEXPECTED, "transfer 0")
        start, manifest = self._start_of(request)
        self._end_transfer()
        self._outgoing = _Outgoing(transfer, start, manifest, now_s)
        self.port.send(start, transfer)

    def _start_of(self, request: m.DataRequest) -> tuple[m.DataStart, Manifest | None]:
        """What we will send. Only what was offered is given out, and only under its digest."""
        stored = self._stored
        if stored is None or stored.number != request.generation:
            raise Refusal(m.ErrorCode.UNKNOWN_COMPONENT, f"generation {request.generation} was not offered")
        if request.component_id == GENERATION_OBJECT_ID:
            manifest, version = None, ""
            digest, length = stored.sealed.digest, len(stored.sealed.document)
        else:
            manifest = stored.generation.component(request.component_id)
            if manifest is None:
                raise Refusal(m.ErrorCode.UNKNOWN_COMPONENT, f"there is no component {request.component_id}")
            digest, length, version = manifest.image_digest, manifest.length_bytes, manifest.version
        if digest != request.digest:
            raise Refusal(m.ErrorCode.UNKNOWN_COMPONENT, "the digest is another")
        longest = min(request.max_block_bytes, self._limits.max_block_bytes(self.port.peer.transport))
        start = m.DataStart(
            component_id=request.component_id,
            max_block_bytes=longest,
            generation=stored.number,
            length_bytes=length,
            digest=digest,
            version=version,
        )
        return start, manifest

    def _current(self, transfer: int) -> _Outgoing | None:
        """The transfer meant; None if it is over, and its late message means nothing."""
        if self._outgoing is not None and self._outgoing.transfer == transfer:
            return self._outgoing
        if transfer in self._ended:
            return None
        raise Refusal(m.ErrorCode.NO_SESSION, f"transfer {transfer} is not open")

    def _start_ack(self, outgoing: _Outgoing | None, ack: m.DataStartAck, now_s: float) -> None:
        if outgoing is None:
            return
        if ack.status is m.StartStatus.HELD:
            self._served(outgoing, now_s)
            return
        if ack.block_bytes > outgoing.start.max_block_bytes:
            raise Refusal(m.ErrorCode.MALFORMED, f"blocks of {ack.block_bytes} bytes are more than was offered")
        if outgoing.block_bytes != ack.block_bytes:
            # The first, or the device opens the transfer anew with blocks that fit the path.
            outgoing.block_bytes = ack.block_bytes
            outgoing.sender = Sender(length_bytes=outgoing.start.length_bytes, block_bytes=ack.block_bytes)
            while outgoing.early:
                outgoing.sender.request(outgoing.early.popleft())

    def _block_request(self, outgoing: _Outgoing | None, request: m.BlockRequest) -> None:
        if outgoing is None:
            return
        if outgoing.sender is None:
            outgoing.early.append(request)
            self.port.send(outgoing.start, outgoing.transfer)
            return
        outgoing.sender.request(request)

    def _end_ack(self, outgoing: _Outgoing | None, ack: m.DataEndAck, now_s: float) -> None:
        if outgoing is None or ack.status is m.EndStatus.INCOMPLETE:
            return
        if ack.status is m.EndStatus.VERIFIED:
            self._served(outgoing, now_s)
        else:
            self._end_transfer()

    def _served(self, outgoing: _Outgoing, now_s: float) -> None:
        self._has_served = True
        self.port.emit(
            RestoreServed(
                device_id=self.device_id,
                peer=self.port.peer,
                number=outgoing.start.generation,
                component=outgoing.name,
                moved_bytes=outgoing.moved_bytes,
                duration_s=now_s - outgoing.begun_s,
            )
        )
        self._end_transfer()

    def _end_transfer(self) -> None:
        if self._outgoing is not None:
            self._ended.append(self._outgoing.transfer)
            self._outgoing = None

    @property
    def at_rest(self) -> bool:
        """Whether the device has what it asked for; it may be booting, and never say so."""
        return self._outgoing is None and self._has_served

    def close(self) -> None:
        """Nothing more is sent."""
        self._end_transfer()

    # Sending

    @property
    def pending(self) -> bool:
        """Whether there is a block or a DataEnd to send."""
        return self._outgoing is not None and self._outgoing.sender is not None and self._outgoing.sender.pending

    def next_batch(self, most: int = BATCH_MESSAGES) -> Batch | None:
        """The next DataBlocks, no more than were asked for, or DataEnd. Raises Refusal, StorageError."""
        outgoing = self._outgoing
        if outgoing is None or outgoing.sender is None:
            return None
        message_bytes = outgoing.block_bytes + BLOCK_OVERHEAD_BYTES
        octets = self._blocks(outgoing, outgoing.sender, max(1, min(most, BATCH_BYTES // message_bytes)))
        if octets:
            return Batch(peer=self.port.peer, octets=octets, message_bytes=message_bytes)
        due = outgoing.sender.end_due()
        if due is None:
            return None
        end = m.DataEnd(request=due, blocks_sent=outgoing.sender.blocks_sent)
        octets = encode(end, session=self.port.session, transfer=outgoing.transfer)
        return Batch(peer=self.port.peer, octets=octets, message_bytes=len(octets))

    def _blocks(self, outgoing: _Outgoing, sender: Sender, room: int) -> bytes:
        """So many DataBlocks, of one range or of several, up to the first that is shorter than the others."""
        block_bytes = outgoing.block_bytes
        parts: list[bytes] = []
        while room > 0 and (blocks := sender.next_blocks(room)) is not None:
            payload = self._read(outgoing, blocks.offset_bytes, blocks.length_bytes)
            outgoing.moved_bytes += len(payload)
            parts.append(
                encode_blocks(
                    session=self.port.session,
                    transfer=outgoing.transfer,
                    request=blocks.request,
                    offset_bytes=blocks.offset_bytes,
                    block_bytes=block_bytes,
                    payload=payload,
                )
            )
            count, shorter = divmod(len(payload), block_bytes)
            room = 0 if shorter else room - count
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read(self, outgoing: _Outgoing, offset_bytes: int, length_bytes: int) -> bytes:
        stored, manifest = self._stored, outgoing.manifest
        assert stored is not None
        if manifest is None:
            return stored.sealed.document[offset_bytes : offset_bytes + length_bytes]
        parts: list[bytes] = []
        end = offset_bytes + length_bytes
        while offset_bytes < end:
            erase_block = manifest.geometry.at(offset_bytes)
            octets = self._read_erase_block(outgoing, stored, erase_block.index)
            stop = min(end, erase_block.end_bytes)
            parts.append(octets[offset_bytes - erase_block.offset_bytes : stop - erase_block.offset_bytes])
            offset_bytes = stop
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_erase_block(self, outgoing: _Outgoing, stored: StoredGeneration, index: int) -> bytes:
        start = outgoing.start
        try:
            return self._cache.read(stored, start.component_id, start.digest, index)
        except StorageError as error:
            if error.code == "rotten":
                self._withdraw(outgoing, stored)
            raise

    def _withdraw(self, outgoing: _Outgoing, stored: StoredGeneration) -> None:
        """Nothing of this generation is offered again in this session; the next Restore gets another offer."""
        self._rotten.add(stored.key)
        self._offer = self._stored = None
        self._end_transfer()
        self.port.emit(
            Rotten(device_id=self.device_id, peer=self.port.peer, number=stored.number, component=outgoing.name)
        )


def _offer_of(stored: StoredGeneration) -> m.RestoreAck:
    return m.RestoreAck(
        generation=stored.number,
        document_length_bytes=len(stored.sealed.document),
        document_digest=stored.sealed.digest,
        components=tuple(m.ComponentRecord.of(c) for c in stored.generation.components),
        good_seal=stored.good_seal,
    )
