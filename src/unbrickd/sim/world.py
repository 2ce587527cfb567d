# SPDX-License-Identifier: Apache-2.0
"""Servers, and the network between them and devices (sim.device), in one thread and in virtual time.

The same story for the same seed. A server is the product's core over a store in memory. Every endpoint has a name,
which is the host of its address; the host EVERYBODY reaches all others.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from unbrickd.model.peer import Datagram, Peer, Transport
from unbrickd.server.events import Event as ServerEvent
from unbrickd.server.limits import ServerLimits
from unbrickd.server.server import Server
from unbrickd.sim.memory_store import MemoryBlobStore, MemoryCatalogue, MemoryDocumentStore
from unbrickd.sim.network import Network
from unbrickd.store.vault import Vault
from unbrickd.wire.framing import DEFAULT_PORT

EVERYBODY = "everybody"
WALL_S = 1.7e9
"""The clock of the day when the story begins."""
MAX_TURNS = 20_000
"""Turns of the loop within one instant, after which time is taken to stand still: somebody is called for nothing."""


def address(name: str) -> Peer:
    return Peer(transport=Transport.UDP, host=name, port=DEFAULT_PORT)


class Endpoint(Protocol):
    """Whatever is on the network. `outgoing` is called after every `receive` and when `timer` is due."""

    name: str

    def receive(self, peer: Peer, octets: bytes, now_s: float) -> None: ...
    def outgoing(self, now_s: float) -> list[Datagram]: ...
    def timer(self) -> float | None: ...


class World:
    """Endpoints on one network. Time goes by only in `run_until` and `run_for`."""

    def __init__(self, network: Network, *endpoints: Endpoint) -> None:
        self.now_s = 0.0
        self.network = network
        self.endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self.sent: list[tuple[str, bytes]] = []
        """(sender, message) of everything that was sent, broadcast counted once."""

    def run_for(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        self._run(lambda: False, end_s)
        self.now_s = end_s

    def run_until(self, condition: Callable[[], bool], *, limit_s: float = 600.0) -> None:
        """Until it holds; it is looked at after every turn. AssertionError if it does not come true in time."""
        assert self._run(condition, self.now_s + limit_s), f"it did not happen within {limit_s} s"

    def _run(self, condition: Callable[[], bool], end_s: float) -> bool:
        turns = 0
        while True:
            for endpoint in self.endpoints.values():
                self._send(endpoint)
            if condition():
                return True
            due = [t for e in self.endpoints.values() if (t := e.timer()) is not None]
            if (delivery := self.network.next_delivery()) is not None:
                due.append(delivery)
            next_s = min(due, default=end_s)
            if next_s > end_s or not due:
                return False
            turns = turns + 1 if next_s <= self.now_s else 0
            assert turns < MAX_TURNS, "time stands still"
            self.now_s = max(self.now_s, next_s)
            for arrived in self.network.deliver(self.now_s):
                receiver = self.endpoints.get(arrived.destination)
                if receiver is not None:
                    receiver.receive(address(arrived.source), arrived.octets, self.now_s)
                    self._send(receiver)

    def _send(self, endpoint: Endpoint) -> None:
        for peer, octets in endpoint.outgoing(self.now_s):
            self.sent.append((endpoint.name, octets))
            names = [n for n in self.endpoints if n != endpoint.name] if peer.host == EVERYBODY else [peer.host]
            for name in names:
                self.network.send(endpoint.name, name, octets, self.now_s)


@dataclass(slots=True)
class Stores:
    """What a server keeps on disk. A deep copy is another disk with the same contents."""

    blobs: MemoryBlobStore = field(default_factory=lambda: MemoryBlobStore(lambda: WALL_S))
    documents: MemoryDocumentStore = field(default_factory=lambda: MemoryDocumentStore(lambda: WALL_S))
    catalogue: MemoryCatalogue = field(default_factory=MemoryCatalogue)


class SimServer:
    """The owner's PC. Its program can be killed and started again, on the same disk."""

    def __init__(self, name: str, *, stores: Stores | None = None, limits: ServerLimits | None = None) -> None:
        self.name = name
        self.stores = copy.deepcopy(stores) if stores is not None else Stores()
        self.vault = Vault(self.stores.blobs, self.stores.documents, self.stores.catalogue, lambda: WALL_S)
        self.limits = limits or ServerLimits()
        self.log: list[ServerEvent] = []
        self._starts = 0
        self.server: Server | None = None
        self.start()

    def kill(self) -> None:
        self.server = None

    def start(self) -> None:
        """A new process: it knows no session and no cookie of the last one."""
        self._starts += 1
        for part in self.stores.blobs.parts.values():
            part.open = False
        self.server = Server(
            self.vault,
            server_id=hashlib.sha256(self.name.encode()).digest()[:16],
            cookie_secret=hashlib.sha256(f"{self.name} {self._starts}".encode()).digest(),
            limits=self.limits,
        )

    def generations(self, device_id: bytes, *, good: bool = True) -> list[int]:
        """Numbers of what is held of the device (only what is good), the newest first."""
        return [row.key.number for row in self.vault.generations(device_id) if row.good or not good]

    def receive(self, peer: Peer, octets: bytes, now_s: float) -> None:
        if self.server is not None:
            self.server.receive(peer, octets, now_s)

    def outgoing(self, now_s: float) -> list[Datagram]:
        if self.server is None:
            return []
        self.server.handle_timer(now_s)
        while (work := self.server.next_work()) is not None:
            work.run()
            self.server.work_done(work, now_s)
        sent: list[Datagram] = []
        while (batch := self.server.next_batch()) is not None:
            sent += [(batch.peer, octets) for octets in batch.messages()]
        self.log += self.server.events()
        return sent

    def timer(self) -> float | None:
        return self.server.timer() if self.server is not None else None
