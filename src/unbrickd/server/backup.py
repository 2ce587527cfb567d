# SPDX-License-Identifier: Apache-2.0
"""One backup session: what differs, the uploads, and the commit that comes last (spec/protocol.md §5.2).

Pure but for the vault, whose commits wait for the disk; the longest wait, for all of an image, is put off to whoever
drives the server (`Port.wait_for`), and no other message of the session counts until it is over.
Power cut: the generation is held with all its images, or not at all; erase blocks that came need not come again.
"""

from __future__ import annotations

from unbrickd.errors import IntegrityError, StorageError, UnbrickdError
from unbrickd.model.manifest import GENERATION_OBJECT_ID, Manifest, SealedGeneration
from unbrickd.server.events import BackupUnchanged, GenerationCommitted, UploadProgress, UploadStarted
from unbrickd.server.limits import ServerLimits
from unbrickd.server.port import Port, Refusal
from unbrickd.server.upload import DocumentSink, ImageSink, IncomingTransfer
from unbrickd.store.vault import Vault
from unbrickd.transfer.retry import wait_after
from unbrickd.transfer.rtt import INITIAL_TIMEOUT_S, RttEstimator
from unbrickd.wire import messages as m
from unbrickd.wire.packet import Message

MAX_TRANSFERS = 64
"""Of one session: the document and eight components, each begun again a few times."""


class BackupSession:
    """A session whose Backup was authenticated. `body` is that message, by which a repetition is known."""

    purpose = m.Purpose.BACKUP

    def __init__(self, *, vault: Vault, limits: ServerLimits, port: Port, backup: m.Backup, now_s: float) -> None:
        self.port = port
        self.device_id = backup.device_id
        self.done = False
        self._vault = vault
        self._limits = limits
        self._backup = backup
        self._opened_s = now_s
        self._sealed: SealedGeneration | None = None
        self._pending: set[int] = set()
        self._incoming: IncomingTransfer | None = None
        self._sink: DocumentSink | ImageSink | None = None
        self._ended: dict[int, m.DataStartAck | m.DataEndAck] = {}
        self._changed: list[str] = []
        self._moved_bytes = 0
        self._ack: m.BackupAck | None = None
        self._rtt: RttEstimator | None = None
        """Of all transfers."""
        self._has_blocks = False
        """Blocks have come of late: more may be asked for once all that have come with them are taken."""
        self._is_syncing = self._is_suspended = False
        """What came whole is being made durable; meanwhile the session has ended."""

    @property
    def at_rest(self) -> bool:
        return self.done

    # Opening

    def open(self) -> None:
        """Compare with what is held, and answer. Raises Refusal, StorageError."""
        backup = self._backup
        if backup.document_length_bytes > self._limits.max_document_bytes:
            raise Refusal(m.ErrorCode.TOO_LARGE, f"a document of {backup.document_length_bytes} bytes")
        for c in backup.components:
            if not 1 <= c.length_bytes <= self._limits.max_image_bytes:
                raise Refusal(m.ErrorCode.TOO_LARGE, f"an image of {c.length_bytes} bytes")
        if self._is_held():
            self.done = True
        self._ack = m.BackupAck(
            generation=backup.generation,
            document_wanted=self._sealed is None and not self.done,
            committed=self.done,
            statuses=self._statuses(),
        )
        self.port.send(self._ack)
        self._forget_if_done()

    def _is_held(self) -> bool:
        """Whether the very generation is stored whole; if so its good seal is too, when this returns."""
        backup = self._backup
        try:
            stored = self._vault.find(backup.device_id, backup.generation, backup.document_digest)
        except StorageError as error:
            if error.code != "rotten":
                raise
            stored = None
        if stored is None:
            return False
        if tuple(m.ComponentRecord.of(c) for c in stored.generation.components) != backup.components:
            raise Refusal(m.ErrorCode.MALFORMED, "Backup and the document it names list different components")
        self._learn(stored.sealed)
        if self._pending:
            return False
        became_good = backup.good_seal is not None and stored.good_seal != backup.good_seal
        if stored.damaged:
            self._vault.commit_generation(stored.sealed, backup.good_seal)
        elif backup.good_seal is not None and became_good:
            self._vault.mark_good(backup.device_id, backup.generation, backup.document_digest, backup.good_seal)
        self.port.emit(
            BackupUnchanged(
                device_id=self.device_id, peer=self.port.peer, number=backup.generation, became_good=became_good
            )
        )
        return True

    def _statuses(self) -> tuple[tuple[int, m.ComponentStatus], ...]:
        """Without the document only this device's own generations tell; DataStart-Ack still says what is held."""
        if self._sealed is not None:
            held = {r.component_id for r in self._backup.components} - self._pending
        else:
            rows = self._vault.generations(self.device_id)
            images = {image for row in rows if not row.damaged for image in row.images}
            held = {r.component_id for r in self._backup.components if r.image_digest in images}
        same, wanted = m.ComponentStatus.SAME, m.ComponentStatus.WANTED
        return tuple((r.component_id, same if r.component_id in held else wanted) for r in self._backup.components)

    def _learn(self, sealed: SealedGeneration) -> None:
        self._sealed = sealed
        self._pending = {c.component_id for c in sealed.generation.components if not self._vault.has_image(c)}

    # Messages

    def receive(self, transfer: int, message: Message, now_s: float) -> bool:
        """Any message of the session; whether `timer` may say something else now. Raises Refusal, UnbrickdError."""
        match message:
            case m.DataBlock():
                return self._block(transfer, message, now_s)
            case m.Backup():
                self._repeat_ack(message)
            case m.DataStart() | m.DataEnd() if self._is_syncing:
                return False  # the answer comes when that is over
            case m.DataStart():
                self._start(transfer, message, now_s)
            case m.DataEnd():
                self._end(transfer, message, now_s)
            case _:
                raise Refusal(m.ErrorCode.UNEXPECTED, "this message has no place in a backup")
        return True

    def _repeat_ack(self, backup: m.Backup) -> None:
        if backup != self._backup or self._ack is None:
            raise Refusal(m.ErrorCode.UNEXPECTED, "another Backup in a session that has one")
        self.port.send(self._ack)

    def _start(self, transfer: int, start: m.DataStart, now_s: float) -> None:
        if transfer in self._ended:
            self._send_ended(transfer)
            return
        if self._incoming is not None and self._incoming.transfer == transfer:
            self.port.send(self._incoming.ack, transfer)
            return
        self._check_start(transfer, start)
        if self._rtt is None:
            # From the first Backup-Ack to the DataStart that answers it, or a later one: a round trip or more.
            self._rtt = RttEstimator(min(wait_after(now_s - self._opened_s), INITIAL_TIMEOUT_S))
        self.suspend()
        if self._holds(start.component_id):
            self._ended[transfer] = m.DataStartAck(block_bytes=0, status=m.StartStatus.HELD)
            self._send_ended(transfer)
            return
        manifest = self._manifest(start.component_id)
        sink = DocumentSink(self._backup) if manifest is None else ImageSink(self._vault, self.device_id, manifest)
        self._sink = sink
        self._incoming = IncomingTransfer(
            sink,
            transfer=transfer,
            start=start,
            block_bytes=min(start.max_block_bytes, self._limits.max_block_bytes(self.port.peer.transport)),
            limits=self._limits,
            rtt=self._rtt,
            on_take=lambda: self._report_progress(sink, manifest),
            now_s=now_s,
        )
        if isinstance(sink, ImageSink) and manifest is not None:
            self._report_start(sink, manifest)
        if self._incoming.complete:
            # Every erase block was held already, from earlier images or an upload that was cut off.
            self._keep(m.DataStartAck(block_bytes=0, status=m.StartStatus.HELD), now_s)
            return
        self.port.send(self._incoming.ack, transfer)
        self._advance(now_s)

    def _check_start(self, transfer: int, start: m.DataStart) -> None:
        """DataStart must name what Backup named: no image is ever larger than the signed message says."""
        if transfer == 0 or len(self._ended) >= MAX_TRANSFERS:
            raise Refusal(m.ErrorCode.UNEXPECTED, "too many transfers, or transfer 0")
        if start.component_id == GENERATION_OBJECT_ID:
            length, digest = self._backup.document_length_bytes, self._backup.document_digest
        else:
            record = next((r for r in self._backup.components if r.component_id == start.component_id), None)
            if record is None:
                raise Refusal(m.ErrorCode.UNKNOWN_COMPONENT, f"Backup names no component {start.component_id}")
            if self._sealed is None and not self.done:
                raise Refusal(m.ErrorCode.UNEXPECTED, "the document comes first")
            length, digest = record.length_bytes, record.image_digest
        if start.generation != self._backup.generation or start.digest != digest:
            raise Refusal(m.ErrorCode.UNKNOWN_COMPONENT, "DataStart and Backup disagree")
        if start.length_bytes != length:
            raise Refusal(m.ErrorCode.RANGE, f"{start.length_bytes} bytes are announced, of {length}")

    def _holds(self, component_id: int) -> bool:
        if component_id == GENERATION_OBJECT_ID:
            return self.done or self._sealed is not None
        return component_id not in self._pending

    def _manifest(self, component_id: int) -> Manifest | None:
        """None for the document."""
        return None if self._sealed is None else self._sealed.generation.component(component_id)

    def _block(self, transfer: int, block: m.DataBlock, now_s: float) -> bool:
        """As `receive`; it does not after the first of many that came together."""
        incoming = self._incoming
        if incoming is None or incoming.transfer != transfer or self._is_syncing:
            return False
        try:
            is_last = incoming.receive_block(block, now_s)
        except Refusal:
            self._refuse_transfer(transfer)
            raise
        if is_last:
            self._advance(now_s)
            return True
        had_blocks, self._has_blocks = self._has_blocks, True
        return not had_blocks

    def _end(self, transfer: int, end: m.DataEnd, now_s: float) -> None:
        if transfer in self._ended:
            self._send_ended(transfer)
            return
        if self._incoming is None or self._incoming.transfer != transfer:
            raise Refusal(m.ErrorCode.NO_SESSION, f"transfer {transfer} is not open")
        self._incoming.receive_end(end, now_s)
        self.port.send(m.DataEndAck(status=m.EndStatus.INCOMPLETE), transfer)
        self._advance(now_s)

    # Progress

    def _advance(self, now_s: float) -> None:
        """Ask for more, or, if all is there, store it and remember the answer to the DataEnd that follows."""
        incoming = self._incoming
        self._has_blocks = False
        if incoming is None:
            return
        if not incoming.complete:
            for message in incoming.messages(now_s):
                self.port.send(message, incoming.transfer)
            return
        self._keep(m.DataEndAck(status=m.EndStatus.VERIFIED), now_s)

    def _keep(self, ack: m.DataStartAck | m.DataEndAck, now_s: float) -> None:
        """What is being received is whole: once it is durable too, store it and say so, as DataEnd may be lost."""
        if not isinstance(self._sink, ImageSink):
            self._store(ack, now_s)
            return

        def synced(error: StorageError | None, now_s: float) -> None:
            self._is_syncing = False
            if self._is_suspended:
                self.suspend()
            elif error is not None:
                raise error
            else:
                self._store(ack, now_s)

        self._is_syncing = True
        self.port.wait_for(self._sink.sync, synced)

    def _store(self, ack: m.DataStartAck | m.DataEndAck, now_s: float) -> None:
        """Store it, commit the generation if nothing else is missing, and answer."""
        incoming, sink = self._incoming, self._sink
        assert incoming is not None
        try:
            self._moved_bytes += incoming.stats.bytes_delivered
            self._incoming = self._sink = None
            if isinstance(sink, DocumentSink):
                self._learn(sink.finish())
            elif isinstance(sink, ImageSink):
                manifest = self._manifest(incoming.start.component_id)
                assert manifest is not None
                sink.finish()
                self._changed.append(manifest.name)
                self._pending.discard(manifest.component_id)
            if self._sealed is not None and not self._pending:
                self._commit(self._sealed, now_s)
        except (Refusal, IntegrityError):
            self._ended[incoming.transfer] = m.DataEndAck(status=m.EndStatus.REFUSED)
            raise
        self._ended[incoming.transfer] = ack
        self._send_ended(incoming.transfer)

    def _commit(self, sealed: SealedGeneration, now_s: float) -> None:
        """Last of all, because a generation must not show before everything it names is held."""
        self._vault.commit_generation(sealed, self._backup.good_seal)
        self.done = True
        self.port.emit(
            GenerationCommitted(
                device_id=self.device_id,
                peer=self.port.peer,
                number=sealed.generation.number,
                model=sealed.generation.model,
                good=self._backup.good_seal is not None,
                components=tuple(self._changed),
                moved_bytes=self._moved_bytes,
                duration_s=now_s - self._opened_s,
            )
        )
        self._forget_if_done()

    def _send_ended(self, transfer: int) -> None:
        ack = self._ended[transfer]
        if isinstance(ack, m.DataStartAck):
            self.port.send(m.DataStartAck(block_bytes=0, status=ack.status, committed=self.done), transfer)
        else:
            committed = self.done and ack.status is m.EndStatus.VERIFIED
            self.port.send(m.DataEndAck(status=ack.status, committed=committed), transfer)

    def _refuse_transfer(self, transfer: int) -> None:
        self.suspend()
        self._ended[transfer] = m.DataEndAck(status=m.EndStatus.REFUSED)

    def _forget_if_done(self) -> None:
        if self.done:
            self._sealed = None
            self._pending = set()

    def _report_start(self, sink: ImageSink, manifest: Manifest) -> None:
        self.port.emit(
            UploadStarted(
                device_id=self.device_id,
                peer=self.port.peer,
                component=manifest.name,
                length_bytes=manifest.length_bytes,
                resumed_bytes=sink.held_bytes,
            )
        )

    def _report_progress(self, sink: DocumentSink | ImageSink, manifest: Manifest | None) -> None:
        if isinstance(sink, ImageSink) and manifest is not None:
            self.port.emit(
                UploadProgress(
                    device_id=self.device_id,
                    peer=self.port.peer,
                    component=manifest.name,
                    held_bytes=sink.held_bytes,
                    length_bytes=manifest.length_bytes,
                )
            )

    # Time and end

    def timer(self) -> float | None:
        if self._incoming is None or self._is_syncing:
            return None
        return 0.0 if self._has_blocks else self._incoming.timer()

    def handle_timer(self, now_s: float) -> None:
        due_s = self.timer()
        if due_s is not None and now_s >= due_s:
            self._advance(now_s)

    @property
    def gather_s(self) -> float:
        """For how long what the device sends may wait, to be taken together; 0.0: not at all."""
        return 0.0 if self._incoming is None else self._incoming.gather_s

    def silent(self, now_s: float) -> bool:
        """Whether the device sends nothing of what it was asked for, for too long."""
        return self._incoming is not None and self._incoming.silent(now_s)

    def suspend(self) -> None:
        """Keep what has come of an unfinished transfer for the next session of this device. Never raises."""
        if self._is_syncing:
            self._is_suspended = True  # as soon as that is over
            return
        incoming, self._incoming, self._sink = self._incoming, None, None
        if incoming is not None:
            self._moved_bytes += incoming.stats.bytes_delivered
            try:
                incoming.suspend()
            except UnbrickdError:
                # The disk that could not keep a part of an upload will say so again when it is asked to keep it all.
                return
