# SPDX-License-Identifier: Apache-2.0
"""Finding a server: Probe until a Probe-Ack comes, then choose (spec/protocol.md §1, §4.1, §4.2, §6).

Used by agent and recovery alike. Knows no sockets: the targets it is given are where Probes go, and an Announce adds
one more for as long as it is fresh.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unbrickd.model.peer import Datagram, Peer
from unbrickd.transfer.retry import Repeater
from unbrickd.wire import messages as m
from unbrickd.wire.framing import VERSION
from unbrickd.wire.packet import Message, encode

COLLECT_S = 0.3
"""How long Probe-Acks are collected before one that holds nothing of this device is taken."""
AVOID_S = 30.0
"""How long a server that could not help is passed over while there may be others."""
MAX_ANNOUNCED = 8
MAX_AVOIDED = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundServer:
    """A server that answered, and the cookie with which it knows this address."""

    peer: Peer
    server_id: bytes
    cookie: bytes
    holds_device: bool
    max_message_bytes: int


class Discovery:
    """Probes `targets` until a server is chosen; `tries` bounds the rounds of Probes (None: for ever)."""

    def __init__(
        self,
        *,
        device_id: bytes,
        purpose: m.Purpose,
        targets: tuple[Peer, ...],
        max_message_bytes: int,
        ring_frames: int,
        entropy: Callable[[int], bytes],
        tries: int | None,
        now_s: float,
    ) -> None:
        self._device_id = device_id
        self._purpose = purpose
        self._targets = targets
        self._max_message_bytes = max_message_bytes
        self._ring_frames = ring_frames
        self._entropy = entropy
        self._tries = tries
        self._announced: dict[bytes, Peer] = {}
        self._avoided: dict[bytes, float] = {}
        self.restart(now_s)

    def restart(self, now_s: float) -> None:
        """Forget what was found and probe again."""
        self.chosen: FoundServer | None = None
        self._found: list[FoundServer] = []
        self._nonce = self._entropy(m.NONCE_BYTES)
        self._repeater = Repeater(now_s=now_s, tries=self._tries)
        self._choose_at_s: float | None = None

    def avoid(self, server_id: bytes, *, now_s: float, for_s: float = AVOID_S) -> None:
        """Pass this server over for a while."""
        if len(self._avoided) >= MAX_AVOIDED:
            del self._avoided[min(self._avoided, key=self._avoided.__getitem__)]
        self._avoided[server_id] = now_s + for_s

    def exhausted(self, now_s: float) -> bool:
        """No server answered any of the rounds."""
        return self.chosen is None and not self._found and self._repeater.exhausted(now_s)

    def receive(self, peer: Peer, message: Message, now_s: float) -> None:
        """Takes Probe-Ack and Announce; ignores all else."""
        if isinstance(message, m.Announce) and message.version_lowest <= VERSION <= message.version_highest:
            if message.server_id not in self._announced and len(self._announced) < MAX_ANNOUNCED:
                self._announced[message.server_id] = peer
                self._repeater = Repeater(now_s=now_s, tries=self._tries)
            elif message.server_id in self._announced:
                self._announced[message.server_id] = peer
        elif isinstance(message, m.ProbeAck) and message.nonce == self._nonce and message.version == VERSION:
            self._probe_ack(peer, message, now_s)

    def _probe_ack(self, peer: Peer, ack: m.ProbeAck, now_s: float) -> None:
        if ack.busy:
            self.avoid(ack.server_id, now_s=now_s, for_s=max(1, ack.retry_after_s))
            return
        if self._avoided.get(ack.server_id, 0.0) > now_s or any(f.server_id == ack.server_id for f in self._found):
            return
        found = FoundServer(
            peer=peer,
            server_id=ack.server_id,
            cookie=ack.cookie,
            holds_device=ack.holds_device,
            max_message_bytes=min(ack.max_message_bytes, self._max_message_bytes),
        )
        self._found.append(found)
        if self._choose_at_s is None:
            self._choose_at_s = now_s + COLLECT_S
        if found.holds_device:
            self.chosen = found

    def outgoing(self, now_s: float) -> list[Datagram]:
        """The Probes that are due; chooses a server once the collecting is over."""
        if self.chosen is None and self._choose_at_s is not None and now_s >= self._choose_at_s:
            self.chosen = self._found[0]
        if self.chosen is not None or not self._repeater.due(now_s):
            return []
        self._repeater.sent(now_s, jitter=self._entropy(1)[0] / 255)
        probe = encode(
            m.Probe(
                device_id=self._device_id,
                nonce=self._nonce,
                purpose=self._purpose,
                max_message_bytes=self._max_message_bytes,
                ring_frames=self._ring_frames,
            )
        )
        return [(target, probe) for target in dict.fromkeys((*self._targets, *self._announced.values()))]

    def timer(self) -> float | None:
        if self.chosen is not None:
            return None
        return self._repeater.due_s if self._choose_at_s is None else min(self._repeater.due_s, self._choose_at_s)
