# SPDX-License-Identifier: Apache-2.0
"""A device that says exactly what it is told to, and a server in memory to say it to: protocol traces for tests.

Nothing here retries, waits or decides, so that a test shows every message. Spec: spec/protocol.md §4 and §5.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TypeVar

from unbrickd.model.geometry import Geometry
from unbrickd.model.manifest import GENERATION_OBJECT_ID, ComponentKind, Generation, SealedGeneration
from unbrickd.model.peer import Peer, Transport
from unbrickd.seal.generation import good_seal, seal_generation
from unbrickd.seal.identity import FirmwarePolicy, Identity
from unbrickd.seal.keys import DeviceKeys
from unbrickd.seal.manifest import build_manifest
from unbrickd.server.events import Event
from unbrickd.server.limits import ServerLimits
from unbrickd.server.server import Server
from unbrickd.sim.memory_store import MemoryBlobStore, MemoryCatalogue, MemoryDocumentStore
from unbrickd.store.vault import Vault
from unbrickd.wire import messages as m
from unbrickd.wire.packet import Message, Packet, decode, encode

ERASE_BLOCK_BYTES = 4096
FIRMWARE, CONFIG = 1, 2
BLOCK_BYTES = 1024

_Kind = TypeVar("_Kind", bound=Message)


class TracedServer:
    """A server over a store in memory, or over `vault`; time stands still unless `now_s` is set."""

    def __init__(self, limits: ServerLimits | None = None, *, vault: Vault | None = None) -> None:
        self.now_s = 1000.0
        self.limits = limits or ServerLimits()
        self.blobs = MemoryBlobStore(self.clock)
        self.documents = MemoryDocumentStore(self.clock)
        self.catalogue = MemoryCatalogue()
        self.vault = vault or Vault(self.blobs, self.documents, self.catalogue, self.clock)
        self.starts = 0
        self.slow_disk = False
        """Whether what waits for the disk is left to the test."""
        self.server = self._started()

    def clock(self) -> float:
        return self.now_s

    def restart(self) -> None:
        """Another run of the program on the same store: sessions and cookies of the last one are gone."""
        self.server.close()
        self.server = self._started()

    def _started(self) -> Server:
        self.starts += 1
        secret = hashlib.sha256(b"run %d" % self.starts).digest()
        return Server(self.vault, server_id=bytes(range(16)), cookie_secret=secret, limits=self.limits)

    def receive(self, peer: Peer, octets: bytes) -> list[tuple[Peer, bytes]]:
        """Give it one message and take everything it sends for it."""
        self.server.receive(peer, octets, self.now_s)
        self.server.handle_timer(self.now_s)
        return self.drain()

    def drain(self) -> list[tuple[Peer, bytes]]:
        """Everything it sends now, on a disk that takes no time; but see `slow_disk`."""
        while not self.slow_disk and (work := self.server.next_work()) is not None:
            work.run()
            self.server.work_done(work, self.now_s)
        sent: list[tuple[Peer, bytes]] = []
        while (batch := self.server.next_batch()) is not None:
            sent += [(batch.peer, octets) for octets in batch.messages()]
        return sent

    def wait(self, seconds: float) -> list[tuple[Peer, bytes]]:
        """Let time go by, every timer called when it is due."""
        end, sent = self.now_s + seconds, self.drain()
        while (due := self.server.timer()) is not None and due <= end:
            self.now_s = max(self.now_s, due)
            self.server.handle_timer(self.now_s)
            sent += self.drain()
        self.now_s = end
        return sent

    def events(self) -> list[Event]:
        return self.server.events()


class TracedDevice:
    """One device, at one address, in one session at a time."""

    def __init__(self, lab: TracedServer, name: str = "a", *, transport: Transport = Transport.UDP) -> None:
        self.lab = lab
        self.keys = DeviceKeys.of(
            Identity.generate(
                model="sim-1",
                policy=FirmwarePolicy.OWNER,
                entropy=lambda count: hashlib.shake_256(f"{name} {count}".encode()).digest(count),
            )
        )
        self.device_id = self.keys.identity.device_id
        self.peer = Peer(transport=transport, host=f"192.0.2.{len(name)}", port=4000 + ord(name[0]))
        self.session = 1
        self.cookie = bytes(16)
        self.sealed: SealedGeneration | None = None
        self.images: dict[int, bytes] = {}

    # Messages

    def say(self, message: Message, *, transfer: int = 0, session: int | None = None) -> list[Packet]:
        """Send one message; every answer to this device, decoded."""
        octets = encode(message, session=self.session if session is None else session, transfer=transfer)
        return self.mine(self.lab.receive(self.peer, octets))

    def mine(self, sent: list[tuple[Peer, bytes]]) -> list[Packet]:
        return [decode(octets) for peer, octets in sent if peer == self.peer]

    def ask(self, message: Message, kind: type[_Kind], *, transfer: int = 0) -> _Kind:
        """Send one message to which the one answer must be of this type."""
        (packet,) = self.say(message, transfer=transfer)
        assert isinstance(packet.message, kind), f"{packet.message}"
        return packet.message

    def probe(self, purpose: m.Purpose = m.Purpose.BACKUP) -> m.ProbeAck:
        probe = m.Probe(device_id=self.device_id, nonce=b"nonce678", purpose=purpose)
        (packet,) = self.say(probe, session=0)
        assert isinstance(packet.message, m.ProbeAck)
        self.cookie = packet.message.cookie
        return packet.message

    # Backup

    def make(self, number: int, firmware: bytes, config: bytes) -> SealedGeneration:
        """What the device runs from now on: an open firmware and a configuration, both of 4 KiB erase blocks."""
        self.images = {FIRMWARE: firmware, CONFIG: config}
        kinds = {FIRMWARE: ComponentKind.FIRMWARE, CONFIG: ComponentKind.CONFIG}
        components = tuple(
            build_manifest(
                component_id=cid,
                kind=kinds[cid],
                name=kinds[cid].name.lower(),
                version=hashlib.sha256(octets).hexdigest()[:8],
                geometry=Geometry.uniform(total_bytes=len(octets), erase_block_bytes=ERASE_BLOCK_BYTES),
                image=lambda offset, length, octets=octets: octets[offset : offset + length],  # type: ignore[misc]
                length_bytes=len(octets),
                content_keys=None,
            )
            for cid, octets in self.images.items()
        )
        generation = Generation(device_id=self.device_id, model="sim-1", number=number, components=components)
        self.sealed = seal_generation(self.keys, generation)
        return self.sealed

    def backup(self, *, good: bool = False) -> m.Backup:
        """The signed Backup of what the device runs."""
        assert self.sealed is not None
        backup = m.Backup(
            cookie=self.cookie,
            device_id=self.device_id,
            public_key=self.keys.public_key,
            generation=self.sealed.generation.number,
            document_length_bytes=len(self.sealed.document),
            document_digest=self.sealed.digest,
            components=tuple(m.ComponentRecord.of(c) for c in self.sealed.generation.components),
            good_seal=good_seal(self.keys, self.sealed) if good else None,
        )
        return self.sign(backup)

    def sign(self, backup: m.Backup) -> m.Backup:
        return replace(backup, signature=self.keys.sign(backup.signed_bytes(self.session)))

    def data_start(self, component_id: int) -> m.DataStart:
        assert self.sealed is not None
        length, digest, version = len(self.sealed.document), self.sealed.digest, ""
        manifest = self.sealed.generation.component(component_id)
        if manifest is not None:
            length, digest, version = manifest.length_bytes, manifest.image_digest, manifest.version
        return m.DataStart(
            component_id=component_id,
            max_block_bytes=BLOCK_BYTES,
            generation=self.sealed.generation.number,
            length_bytes=length,
            digest=digest,
            version=version,
        )

    def octets_of(self, component_id: int) -> bytes:
        assert self.sealed is not None
        return self.sealed.document if component_id == GENERATION_OBJECT_ID else self.images[component_id]

    def send_blocks(
        self, component_id: int, transfer: int, asked: list[Packet], *, at_most: int = 1 << 30
    ) -> tuple[int, list[Packet]]:
        """Answer BlockRequests and those that follow from them; (bytes sent, all other answers)."""
        octets, moved, others = self.octets_of(component_id), 0, list[Packet]()
        while asked:
            packet = asked.pop(0)
            request = packet.message
            if not isinstance(request, m.BlockRequest):
                others.append(packet)
                continue
            for offset, length in request.ranges:
                for at in range(offset, offset + length, BLOCK_BYTES):
                    payload = octets[at : min(at + BLOCK_BYTES, offset + length)]
                    if moved + len(payload) > at_most:
                        return moved, others
                    moved += len(payload)
                    block = m.DataBlock(request=request.request, offset_bytes=at, payload=payload)
                    asked += self.say(block, transfer=transfer)
            if request.last:
                asked += self.say(m.DataEnd(request=request.request, blocks_sent=0), transfer=transfer)
        return moved, others

    def upload(self, component_id: int, transfer: int) -> tuple[int, m.DataStartAck | m.DataEndAck]:
        """A whole transfer: (bytes sent, the answer that ended it)."""
        start, *asked = self.say(self.data_start(component_id), transfer=transfer)
        assert isinstance(start.message, m.DataStartAck), f"{start.message}"
        if start.message.status is m.StartStatus.HELD:
            return 0, start.message
        moved, answers = self.send_blocks(component_id, transfer, asked)
        last = answers[-1].message
        assert isinstance(last, m.DataEndAck), f"{last}"
        return moved, last

    def back_up(self, *, good: bool = True) -> int:
        """A whole backup, from Probe to commit; the bytes of document and images that moved."""
        self.session += 1
        self.probe()
        ack = self.ask(self.backup(good=good), m.BackupAck)
        committed, moved = ack.committed, 0
        wanted = [GENERATION_OBJECT_ID] if ack.document_wanted else []
        wanted += [cid for cid, status in ack.statuses if status is m.ComponentStatus.WANTED]
        for transfer, component_id in enumerate(wanted, 1):
            sent, end = self.upload(component_id, transfer)
            moved, committed = moved + sent, end.committed
        assert committed
        return moved

    # Restore

    def restore(self, *, named: int = 0, rejected: tuple[int, int] = (0, 0)) -> m.Restore:
        lowest, highest = rejected
        return m.Restore(
            cookie=self.cookie, device_id=self.device_id, named=named, rejected_from=lowest, rejected_to=highest
        )

    def offered(self, *, named: int = 0, rejected: tuple[int, int] = (0, 0)) -> m.RestoreAck:
        """Probe and Restore in a new session, which ends an older one of this device at this host."""
        self.session += 1
        self.probe(m.Purpose.RESTORE)
        *_, packet = self.say(self.restore(named=named, rejected=rejected))
        assert isinstance(packet.message, m.RestoreAck), f"{packet.message}"
        return packet.message

    def data_request(self, offer: m.RestoreAck, component_id: int) -> m.DataRequest:
        digests = {r.component_id: r.image_digest for r in offer.components}
        digests[GENERATION_OBJECT_ID] = offer.document_digest
        return m.DataRequest(
            component_id=component_id,
            max_block_bytes=BLOCK_BYTES,
            generation=offer.generation,
            digest=digests[component_id],
        )

    def fetch(
        self, offer: m.RestoreAck, component_id: int, transfer: int, ranges: tuple[tuple[int, int], ...]
    ) -> bytes:
        """A whole transfer to the device: the bytes of these ranges, in order."""
        start = self.ask(self.data_request(offer, component_id), m.DataStart, transfer=transfer)
        assert not self.say(m.DataStartAck(block_bytes=start.max_block_bytes), transfer=transfer)
        *blocks, end = self.say(m.BlockRequest(request=1, last=True, ranges=ranges), transfer=transfer)
        assert end.message == m.DataEnd(request=1, blocks_sent=len(blocks)), f"{end.message}"
        assert not self.say(m.DataEndAck(status=m.EndStatus.VERIFIED), transfer=transfer)
        return b"".join(b.message.payload for b in blocks if isinstance(b.message, m.DataBlock))
