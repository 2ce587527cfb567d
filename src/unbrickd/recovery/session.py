# SPDX-License-Identifier: Apache-2.0
"""The restore session: from the first Probe to the boot record (R18 to R23; spec/protocol.md §5.1).

A state machine without sockets and clocks: `receive` takes a message, `outgoing` gives what is due, `timer` says when
to ask again. It writes flash as erase blocks arrive, each verified first and read back after, the boot record last; in
steps, one at each `outgoing` before which nothing came and in which nothing had to be sent.
Nothing a server says can make it write a byte that this device did not seal, or name anything in the boot record that
it may not run: the worst a server can do is not to help.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto

from unbrickd.errors import FlashError, IntegrityError, RemoteProtocolError
from unbrickd.flash.device import DeviceFlash
from unbrickd.model.manifest import GENERATION_OBJECT_ID, SealedGeneration
from unbrickd.model.peer import Datagram, Peer
from unbrickd.recovery import events
from unbrickd.recovery.check import Decision, Findings, named_again
from unbrickd.recovery.fetch import (
    AHEAD_BYTES,
    MAX_WINDOW_BLOCKS,
    SHORTEST_BLOCK_BYTES,
    Fetch,
    NoHelp,
    Wanted,
    declared_ram_bytes,
)
from unbrickd.recovery.install import Installation
from unbrickd.recovery.offer import check_offer, open_document
from unbrickd.transfer.discovery import AVOID_S, Discovery, FoundServer
from unbrickd.transfer.receiver import Completed
from unbrickd.transfer.retry import Repeater
from unbrickd.transfer.segments import Segment, document_segments, segments_of
from unbrickd.wire import messages as m
from unbrickd.wire.framing import MIN_MAX_MESSAGE_BYTES, Octets
from unbrickd.wire.packet import BLOCK_OVERHEAD_BYTES, Message, Packet, decode, encode

PROGRESS_S = 60.0
"""A server that does not get one erase block across in this time is given up: it may be doing so on purpose."""
MAX_REJECTED_ERASE_BLOCKS = 3
"""Erase blocks with a wrong digest before a server is given up: damage on the way is rare, a hostile server is not."""
MAX_SETBACKS = 3
"""How often in a row a server is lost with nothing gained, until others get their turn."""
MAX_WITHDRAWN = 8
"""Offers that one server takes back as rotten, before it is given up."""


class _State(Enum):
    PROBING = auto()
    ASKING = auto()
    FETCHING = auto()
    DONE = auto()


class RestoreSession:
    """Restores what `decision` calls for. Ends with `restored`, the generation now in flash and named by the record.

    targets: where Probes go. max_message_bytes, ring_frames: what the device can take. polled: no frame is taken while
    flash is written, so no more may be outstanding. ahead_bytes: RAM for what follows an erase block. entropy: random.
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
        polled: bool = True,
        ahead_bytes: int = AHEAD_BYTES,
    ) -> None:
        self._device = device
        self._record = findings.loaded.record if findings.loaded is not None else None
        self._findings = findings
        self._flash_changed = False
        self._decision = decision
        self._entropy = entropy
        self._max_message_bytes = max_message_bytes
        self._ahead_bytes = ahead_bytes
        self._ring_frames = ring_frames
        self._window_blocks = min(ring_frames or MAX_WINDOW_BLOCKS, MAX_WINDOW_BLOCKS) if polled else MAX_WINDOW_BLOCKS
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
        self._session = self._transfer = 0
        self._server: FoundServer | None = None
        self._repeater = Repeater(now_s=now_s)
        self._offer = m.RestoreAck()
        self._setbacks = self._withdrawn = 0
        self._document = bytearray()
        self._installation: Installation | None = None
        self._fetch: Fetch | None = None
        self._progress_s = now_s
        self._stirred = False
        """Whether a message came or went, or flash worked, since `outgoing` last looked for such work."""
        self._to_send: list[Datagram] = []
        self._events: list[events.Event] = []
        self._bytes_received = self._bytes_sent = self._payload_bytes = 0
        self.restored: SealedGeneration | None = None
        self.flash_failure = ""

    # The calls

    def receive(self, peer: Peer, octets: Octets, now_s: float) -> None:
        """Take one message. Nothing of a peer's raises; what does not belong here is ignored."""
        try:
            packet = decode(octets)
        except RemoteProtocolError:
            return
        if self._state is _State.PROBING:
            self._discovery.receive(peer, packet.message, now_s)
        elif self._server is not None and peer == self._server.peer and packet.session == self._session:
            self._bytes_received += len(octets)
            self._stirred = True
            try:
                self._in_session(packet, now_s)
            except (NoHelp, IntegrityError, FlashError) as error:
                self._fail(error, now_s)

    def outgoing(self, now_s: float) -> list[Datagram]:
        """Every message that is due now."""
        if self._state is _State.PROBING:
            self._to_send += self._discovery.outgoing(now_s)
            self._open_session(now_s)
        try:
            if self._state is _State.ASKING:
                self._ask(now_s)
            elif self._state is _State.FETCHING:
                self._pull(now_s)
        except (NoHelp, IntegrityError, FlashError) as error:
            self._fail(error, now_s)
        due, self._to_send = self._to_send, []
        self._bytes_sent += sum(len(octets) for _, octets in due)
        return due

    def timer(self) -> float | None:
        """When to call `outgoing` again though nothing arrived."""
        if self._state is _State.PROBING:
            return self._discovery.timer()
        if self._state is _State.FETCHING and self._fetch is not None:
            writes = self._installation is not None and (self._stirred or self._fetch.head is not None)
            return 0.0 if writes else self._fetch.timer()
        return None if self._state is _State.DONE else self._repeater.due_s

    def events(self) -> list[events.Event]:
        """What happened since the last call."""
        happened, self._events = self._events, []
        return happened

    @property
    def ram_bytes(self) -> int:
        """What is kept now besides manifests; never more than `fetch.worst_ram_bytes`."""
        return declared_ram_bytes(
            ahead_bytes=self._ahead_bytes,
            segment_bytes=self._fetch.largest_segment_bytes if self._fetch is not None else 0,
            block_bytes=self._fetch.block_bytes if self._fetch is not None else SHORTEST_BLOCK_BYTES,
            max_message_bytes=self._max_message_bytes,
        )

    # Finding a server and asking it

    def _open_session(self, now_s: float) -> None:
        found = self._discovery.chosen
        if found is None:
            return
        self._server = found
        self._session = int.from_bytes(self._entropy(4), "big") or 1
        self._transfer = self._withdrawn = 0
        self._progress_s = now_s
        self._state = _State.ASKING
        self._repeater = Repeater(now_s=now_s, first_wait_s=found.wait_s)
        self._events.append(events.ServerFound(server=str(found.peer), holds_device=found.holds_device))

    def _ask(self, now_s: float) -> None:
        assert self._server is not None
        if self._repeater.exhausted(now_s):
            raise NoHelp("it stopped answering", gone=True)
        if self._repeater.due(now_s):
            self._repeater.sent(now_s)
            lowest, highest = self._decision.rejected
            restore = m.Restore(
                cookie=self._server.cookie,
                device_id=self._device.keys.identity.device_id,
                named=self._decision.named,
                rejected_from=lowest,
                rejected_to=highest,
            )
            self._send(restore, transfer=0)

    def _in_session(self, packet: Packet, now_s: float) -> None:
        message = packet.message
        if isinstance(message, m.Error):
            if packet.transfer in (0, self._transfer):
                self._error(message, now_s)
        elif isinstance(message, m.RestoreAck):
            if self._state is _State.ASKING:
                self._take_offer(message, now_s)
        elif self._state is _State.FETCHING and self._fetch is not None and packet.transfer == self._fetch.transfer:
            self._fetch.receive(message, now_s)
            if self._installation is None:
                self._take_slices(self._fetch, now_s)

    def _error(self, error: m.Error, now_s: float) -> None:
        if error.code == m.ErrorCode.ROTTEN:
            self._ask_again(now_s)
        elif error.code in (m.ErrorCode.COOKIE, m.ErrorCode.NO_SESSION):
            raise NoHelp(f"it asks to begin again ({error.name})", gone=True)
        else:
            self._give_up(error.text or error.name, now_s, wait_s=error.retry_after_s or AVOID_S)

    def _take_offer(self, offer: m.RestoreAck, now_s: float) -> None:
        """Raises NoHelp, IntegrityError if it must not be taken."""
        if offer.generation == 0:
            self._take_none(now_s)
            return
        held = self._record.sealed if self._record is not None else None
        check_offer(self._device, offer, held=held, decision=self._decision)
        self._offer = offer
        if held is not None and held.digest == offer.document_digest:
            self._install(held, now_s)
        else:
            self._fetch_document(now_s)

    def _take_none(self, now_s: float) -> None:
        """Half-way back to a generation that no server has any more, the recorded one is better than nothing."""
        boots_as_it_is = self._findings.bootable and not self._flash_changed
        if self._record is None or self._findings.refused or self._decision.named or boots_as_it_is:
            raise NoHelp("it holds no good backup of this device that may be restored")
        self._decision = named_again(self._record)
        self._ask_again(now_s)

    # Transfers: the document, then each component that needs erase blocks

    def _install(self, target: SealedGeneration, now_s: float) -> None:
        """Compare the flash with the generation to be restored, and begin to fetch what differs."""
        self._installation = Installation(
            self._device,
            target,
            before=self._record,
            found=None if self._flash_changed else self._findings,
            decision=self._decision,
            ahead_bytes=self._ahead_bytes,
        )
        self._events.append(self._installation.summary)
        self._fetch_component(self._installation, now_s)

    def _fetch_component(self, installation: Installation, now_s: float) -> None:
        if installation.next is None:
            self._finish(installation)
            return
        manifest, differing = installation.next
        wanted = Wanted(
            component_id=manifest.component_id,
            generation=self._offer.generation,
            length_bytes=manifest.length_bytes,
            digest=manifest.image_digest,
            segments=segments_of(manifest, differing),
        )
        self._begin_fetch(wanted, now_s)

    def _fetch_document(self, now_s: float) -> None:
        length = self._offer.document_length_bytes
        wanted = Wanted(
            component_id=GENERATION_OBJECT_ID,
            generation=self._offer.generation,
            length_bytes=length,
            digest=self._offer.document_digest,
            segments=document_segments(length),
        )
        self._document = bytearray(length)
        self._begin_fetch(wanted, now_s)

    def _begin_fetch(self, wanted: Wanted, now_s: float) -> None:
        assert self._server is not None
        self._transfer = self._transfer % 0xFFFF + 1
        self._fetch = Fetch(
            wanted,
            transfer=self._transfer,
            max_block_bytes=min(self._server.max_message_bytes, self._max_message_bytes) - BLOCK_OVERHEAD_BYTES,
            max_window_blocks=self._window_blocks,
            ring_frames=self._ring_frames,
            now_s=now_s,
            first_wait_s=self._server.wait_s,
            ahead_bytes=self._ahead_bytes,
        )
        self._state = _State.FETCHING

    def _pull(self, now_s: float) -> None:
        assert self._fetch is not None
        if now_s - self._progress_s >= PROGRESS_S:
            raise NoHelp("it is too slow")
        if self._fetch.blocks_do_not_pass(now_s):
            self._max_message_bytes = MIN_MAX_MESSAGE_BYTES
            self._begin_fetch(self._fetch.wanted, now_s)
        for message in self._fetch.outgoing(now_s):
            self._send(message, transfer=self._fetch.transfer)
        # Flash works only when the network is quiet: what has come is taken first, what is asked for is on its way.
        head = self._fetch.head if self._installation is not None and not self._stirred else None
        self._stirred = head is not None
        if head is not None and self._installation is not None:
            self._write(self._installation, self._fetch, head, now_s)

    def _take_slices(self, fetch: Fetch, now_s: float) -> None:
        """What has come of the document, in order. Raises IntegrityError."""
        while (head := fetch.head) is not None:
            self._document[head.segment.offset_bytes : head.segment.end_bytes] = head.octets
            self._accept(fetch, head.segment, now_s)

    def _write(self, installation: Installation, fetch: Fetch, head: Completed, now_s: float) -> None:
        """One step of writing the erase block that is whole. Raises IntegrityError, FlashError."""
        index = head.segment.index
        try:
            written = installation.step(index, head.octets)
        except IntegrityError:
            fetch.reject()
            if fetch.rejected >= MAX_REJECTED_ERASE_BLOCKS:
                raise
            return
        self._flash_changed = True
        if written < 0:
            fetch.again()
            return
        fetch.release(written)
        if (restored := installation.erase_block_done(index)) is not None:
            self._events.append(restored)
            self._accept(fetch, head.segment, now_s)

    def _accept(self, fetch: Fetch, segment: Segment, now_s: float) -> None:
        fetch.accept()
        self._setbacks = 0
        self._progress_s = now_s
        self._payload_bytes += segment.length_bytes
        if fetch.complete:
            self._send(m.DataEndAck(status=m.EndStatus.VERIFIED), transfer=fetch.transfer)
            self._fetched(now_s)

    def _fetched(self, now_s: float) -> None:
        self._fetch = None
        if self._installation is not None:
            self._installation.component_done()
            self._fetch_component(self._installation, now_s)
        else:
            document, self._document = bytes(self._document), bytearray()
            self._install(open_document(self._device.keys, self._offer, document), now_s)

    # Ends

    def _finish(self, installation: Installation) -> None:
        installation.finish()
        self._state = _State.DONE
        self.restored = installation.target
        self._events.append(
            events.Restored(
                generation=installation.target.generation.number,
                bytes_received=self._bytes_received,
                bytes_sent=self._bytes_sent,
                payload_bytes=self._payload_bytes,
            )
        )

    def _fail(self, error: NoHelp | IntegrityError | FlashError, now_s: float) -> None:
        if isinstance(error, FlashError):
            self.flash_failure = str(error)
            self._state = _State.DONE
        elif isinstance(error, NoHelp) and error.gone and self._setbacks < MAX_SETBACKS:
            self._setbacks += 1
            self._leave(str(error), now_s)
        else:
            self._give_up(str(error), now_s, refused=isinstance(error, IntegrityError) or error.refused)

    def _give_up(self, why: str, now_s: float, *, refused: bool = False, wait_s: float = AVOID_S) -> None:
        """This server cannot help for now: look for another, come back to it later."""
        assert self._server is not None
        self._setbacks = 0
        self._discovery.avoid(self._server.peer, now_s=now_s, for_s=wait_s)
        self._leave(why, now_s, refused=refused)

    def _leave(self, why: str, now_s: float, *, refused: bool = False) -> None:
        """Probe again; a server that vanished or was restarted may be back at any moment."""
        assert self._server is not None
        self._events.append(events.ServerGivenUp(server=str(self._server.peer), why=why, refused=refused))
        self._forget_offer()
        self._server = None
        self._state = _State.PROBING
        self._discovery.restart(now_s)

    def _ask_again(self, now_s: float) -> None:
        """The server has something else to offer. Raises NoHelp if that never comes to an end."""
        self._withdrawn += 1
        if self._withdrawn > MAX_WITHDRAWN:
            raise NoHelp("it offers nothing that is whole")
        self._forget_offer()
        assert self._server is not None
        self._state = _State.ASKING
        self._repeater = Repeater(now_s=now_s, first_wait_s=self._server.wait_s)

    def _forget_offer(self) -> None:
        self._fetch = None
        self._installation = None
        self._document = bytearray()

    def _send(self, message: Message, *, transfer: int) -> None:
        assert self._server is not None
        self._stirred = True
        self._to_send.append((self._server.peer, encode(message, session=self._session, transfer=transfer)))
