# SPDX-License-Identifier: Apache-2.0
"""The backup session: Probe, Backup, and the transfers the server wants (R8 to R12; spec/protocol.md §5.2).

A state machine without sockets and clocks, with the calls of the restore session: `receive`, `outgoing`, `timer`,
`events`; it ends with `outcome`. It only reads flash.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto

from unbrickd.agent.software import DeviceSoftware
from unbrickd.agent.upload import Upload, UploadError
from unbrickd.errors import FlashError, IntegrityError, RemoteProtocolError
from unbrickd.model.manifest import GENERATION_OBJECT_ID, Manifest, SealedGeneration
from unbrickd.model.peer import Datagram, Peer
from unbrickd.transfer.discovery import Discovery, FoundServer
from unbrickd.transfer.retry import Repeater
from unbrickd.wire import messages as m
from unbrickd.wire.framing import Octets
from unbrickd.wire.packet import BLOCK_OVERHEAD_BYTES, Message, Packet, decode, encode

MAX_BEGINNINGS = 6
"""How often one backup begins again with a server that was lost or restarted, before it is left to the policy."""
MAX_SESSION_S = 3600.0
"""Whatever a server does, a backup ends within the hour and the policy has its say again."""


_TRY_ANOTHER = {
    m.ErrorCode.VERSION,
    m.ErrorCode.NOT_AUTHENTIC,
    m.ErrorCode.UNKNOWN_DEVICE,
    m.ErrorCode.NOT_ACCEPTED,
}
"""Errors after which another server may take the backup (spec/protocol.md §4.14)."""


class Ending(Enum):
    """How a backup ended."""

    COMMITTED = "the server holds it all"
    NO_SERVER = "no server answered"
    BUSY = "the server has no room now"
    REFUSED = "the server refused it"
    FAILED = "it could not be finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The end of one backup. Bytes count messages, both ways; payload is that of images and document."""

    ending: Ending
    generation: int
    why: str = ""
    retry_after_s: int = 0
    uploaded: tuple[str, ...] = ()
    bytes_sent: int = 0
    bytes_received: int = 0
    payload_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFound:
    server: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadWanted:
    """The server asked for these components; empty if it holds them all."""

    components: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Uploading:
    """Progress of one component: bytes given to the network so far, repeats included, and the image's length."""

    component: str
    sent_bytes: int
    length_bytes: int


Event = ServerFound | UploadWanted | Uploading


class _State(Enum):
    PROBING = auto()
    OFFERING = auto()
    UPLOADING = auto()
    DONE = auto()


class BackupSession:
    """Backs up what the boot record names now. Parameters as in `recovery.session.RestoreSession`; tries: of Probe."""

    def __init__(
        self,
        software: DeviceSoftware,
        *,
        targets: tuple[Peer, ...],
        entropy: Callable[[int], bytes],
        tries: int,
        max_message_bytes: int,
        now_s: float,
    ) -> None:
        self._software = software
        self._keys = software.device.keys
        self._sealed: SealedGeneration = software.loaded().record.sealed
        self._good_seal = software.good_seal()
        self._entropy = entropy
        self._max_message_bytes = max_message_bytes
        self._discovery = Discovery(
            device_id=self._keys.identity.device_id,
            purpose=m.Purpose.BACKUP,
            targets=targets,
            max_message_bytes=max_message_bytes,
            ring_frames=0,
            entropy=entropy,
            tries=tries,
            now_s=now_s,
        )
        self._state = _State.PROBING
        self._beginnings = 0
        self._session = self._transfer = 0
        self._server: FoundServer | None = None
        self._repeater = Repeater(now_s=now_s)
        self._ends_s = now_s + MAX_SESSION_S
        self._refused = ""
        self._backup = b""
        self._wanted: list[Manifest | None] = []
        self._upload: Upload | None = None
        self._cached: tuple[int, bytes] = (-1, b"")
        self._to_send: list[Datagram] = []
        self._events: list[Event] = []
        self._uploaded: list[str] = []
        self._bytes_sent = self._bytes_received = self._payload_bytes = 0
        self.outcome: Outcome | None = None

    @property
    def generation(self) -> int:
        return self._sealed.generation.number

    @property
    def is_good(self) -> bool:
        """Whether this backup tells the server that the generation is good."""
        return self._good_seal is not None

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
            self._in_session(packet, now_s)

    def outgoing(self, now_s: float) -> list[Datagram]:
        """Messages that are due now."""
        if self._state is not _State.DONE and now_s >= self._ends_s:
            self._finish(Ending.FAILED, why="it took too long")
        if self._state is _State.PROBING:
            self._to_send += self._discovery.outgoing(now_s)
            if self._discovery.chosen is not None:
                self._open(self._discovery.chosen, now_s)
            elif self._discovery.exhausted(now_s):
                self._finish_alone()
        if self._state is _State.OFFERING:
            self._offer(now_s)
        elif self._state is _State.UPLOADING:
            self._send_upload(now_s)
        due, self._to_send = self._to_send, []
        self._bytes_sent += sum(len(octets) for _, octets in due)
        return due

    def timer(self) -> float | None:
        """When to call `outgoing` again though nothing arrived."""
        if self._state is _State.DONE:
            return None
        if self._state is _State.PROBING:
            return self._discovery.timer()
        return self._upload.timer() if self._upload is not None else self._repeater.due_s

    def events(self) -> list[Event]:
        """What happened since the last call."""
        happened, self._events = self._events, []
        return happened

    # Finding a server, and what it wants

    def _open(self, found: FoundServer, now_s: float) -> None:
        self._server = found
        self._session = int.from_bytes(self._entropy(4), "big") or 1
        self._transfer = 0
        self._backup = self._signed_backup(found.cookie)
        self._state = _State.OFFERING
        self._repeater = Repeater(now_s=now_s, first_wait_s=found.wait_s)
        self._events.append(ServerFound(server=str(found.peer)))

    def _offer(self, now_s: float) -> None:
        assert self._server is not None
        if self._repeater.exhausted(now_s):
            self._begin_again("it stopped answering", now_s)
        elif self._repeater.due(now_s):
            self._repeater.sent(now_s)
            self._to_send.append((self._server.peer, self._backup))

    def _signed_backup(self, cookie: bytes) -> bytes:
        generation = self._sealed.generation
        backup = m.Backup(
            cookie=cookie,
            device_id=generation.device_id,
            public_key=self._keys.public_key,
            generation=generation.number,
            document_length_bytes=len(self._sealed.document),
            document_digest=self._sealed.digest,
            components=tuple(m.ComponentRecord.of(c) for c in generation.components),
            good_seal=self._good_seal,
        )
        signed = replace(backup, signature=self._keys.sign(backup.signed_bytes(self._session)))
        return encode(signed, session=self._session)

    def _in_session(self, packet: Packet, now_s: float) -> None:
        message = packet.message
        if isinstance(message, m.Error):
            if packet.transfer in (0, self._transfer):
                self._error(message, now_s)
        elif isinstance(message, m.BackupAck):
            if self._state is _State.OFFERING and message.generation == self.generation:
                self._backup_ack(message, now_s)
        elif self._upload is not None and packet.transfer == self._upload.transfer:
            self._in_upload(self._upload, message, now_s)

    def _error(self, error: m.Error, now_s: float) -> None:
        assert self._server is not None
        if error.code in (m.ErrorCode.COOKIE, m.ErrorCode.NO_SESSION):
            self._begin_again(error.name, now_s)
        elif error.retry_after_s:
            ending = Ending.BUSY if error.code == m.ErrorCode.BUSY else Ending.FAILED
            self._finish(ending, why=error.text or error.name, retry_after_s=error.retry_after_s)
        elif error.code in _TRY_ANOTHER:
            self._refused = error.text or error.name
            self._discovery.avoid(self._server.peer, now_s=now_s)
            self._begin_again(self._refused, now_s)
        else:
            self._finish(Ending.REFUSED, why=error.text or error.name)

    def _finish_alone(self) -> None:
        """Nobody answered who takes this backup; what is known of those who did not is the better reason."""
        if self._refused:
            self._finish(Ending.REFUSED, why=self._refused)
        elif self._discovery.busy_s:
            self._finish(Ending.BUSY, why="the server is busy", retry_after_s=self._discovery.busy_s)
        else:
            self._finish(Ending.NO_SERVER)

    def _backup_ack(self, ack: m.BackupAck, now_s: float) -> None:
        if ack.committed:
            self._finish(Ending.COMMITTED)
            return
        wanted = {cid for cid, status in ack.statuses if status is m.ComponentStatus.WANTED}
        manifests = [c for c in self._sealed.generation.components if c.component_id in wanted]
        self._wanted = [*([None] if ack.document_wanted else []), *manifests]
        self._events.append(UploadWanted(components=tuple(c.name for c in manifests)))
        self._start_next(now_s)

    # Transfers

    def _start_next(self, now_s: float) -> None:
        """Upload what is first among what is wanted."""
        if not self._wanted:
            # Everything was taken, but the word that it is committed was lost: ask.
            self._begin_again("it did not say that the backup is kept", now_s)
            return
        assert self._server is not None
        manifest = self._wanted[0]
        sealed = self._sealed
        component_id, length, digest, version = (
            (GENERATION_OBJECT_ID, len(sealed.document), sealed.digest, "")
            if manifest is None
            else (manifest.component_id, manifest.length_bytes, manifest.image_digest, manifest.version)
        )
        start = m.DataStart(
            component_id=component_id,
            max_block_bytes=min(self._server.max_message_bytes, self._max_message_bytes) - BLOCK_OVERHEAD_BYTES,
            generation=self.generation,
            length_bytes=length,
            digest=digest,
            version=version,
        )
        self._transfer += 1
        self._cached = (-1, b"")
        self._upload = Upload(
            start,
            self._read,
            session=self._session,
            transfer=self._transfer,
            first_wait_s=self._server.wait_s,
            now_s=now_s,
        )
        self._state = _State.UPLOADING

    def _in_upload(self, upload: Upload, message: Message, now_s: float) -> None:
        try:
            upload.receive(message, now_s)
        except RemoteProtocolError as error:
            self._send(m.Error(code=error.wire_code, about=message.TYPE, text=str(error)))
            self._finish(Ending.FAILED, why=str(error))
        except UploadError as error:
            self._finish(Ending.FAILED, why=str(error))
        if not upload.done:
            return
        manifest = self._wanted.pop(0)
        if manifest is not None:
            self._uploaded.append(manifest.name)
        if upload.committed:
            self._finish(Ending.COMMITTED)
        else:
            self._start_next(now_s)

    def _send_upload(self, now_s: float) -> None:
        assert self._server is not None and self._upload is not None
        upload = self._upload
        before = upload.sent_bytes
        try:
            self._to_send += [(self._server.peer, octets) for octets in upload.outgoing(now_s)]
        except UploadError as error:
            self._begin_again(str(error), now_s)
            return
        except (FlashError, IntegrityError) as error:
            self._finish(Ending.FAILED, why=str(error))
            return
        self._payload_bytes += upload.sent_bytes - before
        manifest = self._wanted[0]
        if upload.sent_bytes > before and manifest is not None:
            self._events.append(
                Uploading(component=manifest.name, sent_bytes=upload.sent_bytes, length_bytes=manifest.length_bytes)
            )

    def _read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """A block of what is being sent; blocks that straddle erase blocks are put together."""
        manifest = self._wanted[0]
        if manifest is None:
            return self._sealed.document[offset_bytes : offset_bytes + length_bytes]
        octets = b""
        while len(octets) < length_bytes:
            block = manifest.geometry.at(offset_bytes + len(octets))
            if self._cached[0] != block.index:
                self._cached = (block.index, self._software.read_for_transfer(manifest, block.index))
            start = offset_bytes + len(octets) - block.offset_bytes
            octets += self._cached[1][start : start + length_bytes - len(octets)]
        return octets

    # Beginning again, ending

    def _begin_again(self, why: str, now_s: float) -> None:
        """The server was lost, restarted, or refused: probe; what one has already it will not ask for again."""
        self._beginnings += 1
        if self._beginnings >= MAX_BEGINNINGS:
            self._finish(Ending.FAILED, why=why)
            return
        self._upload = None
        self._server = None
        self._state = _State.PROBING
        self._discovery.restart(now_s)

    def _finish(self, ending: Ending, *, why: str = "", retry_after_s: int = 0) -> None:
        self._state = _State.DONE
        self.outcome = Outcome(
            ending=ending,
            generation=self.generation,
            why=why,
            retry_after_s=retry_after_s,
            uploaded=tuple(dict.fromkeys(self._uploaded)),
            bytes_sent=self._bytes_sent + sum(len(octets) for _, octets in self._to_send),
            bytes_received=self._bytes_received,
            payload_bytes=self._payload_bytes,
        )

    def _send(self, message: Message) -> None:
        assert self._server is not None
        self._to_send.append((self._server.peer, encode(message, session=self._session, transfer=self._transfer)))
