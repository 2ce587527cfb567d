# SPDX-License-Identifier: Apache-2.0
"""Finding a server: Probe until a Probe-Ack comes, then choose (spec/protocol.md §1, §4.1, §4.2, §6).

Used by agent and recovery alike. Knows no sockets: the targets it is given are where Probes go, and every address that
announced itself lately. Whatever servers do, they cause no Probe within PROBE_GAP_S of the last, and everything kept of
them is bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unbrickd.errors import RemoteProtocolError
from unbrickd.model.peer import Datagram, Peer
from unbrickd.transfer.retry import FIRST_WAIT_S, PROBE_WAIT_S, Repeater, wait_after
from unbrickd.wire import messages as m
from unbrickd.wire.framing import VERSION, Octets
from unbrickd.wire.packet import Message, decode, encode

PROBE_GAP_S = 0.25
"""Between Probes at least, when something else than silence calls for the next."""
COLLECT_S = 0.3
"""How long Probe-Acks are collected before a server is taken that may not be the best."""
AVOID_S = 30.0
"""How long a server that could not help is passed over, because there may be others."""
MAX_AVOID_S = 120.0
"""However long a server asks to be left alone: it may be the only one, and it may not be true."""
MAX_ANNOUNCED = 8
MAX_FOUND = 8
MAX_AVOIDED = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundServer:
    """A server that answered, the cookie with which it knows this address, and the first wait for its answers."""

    peer: Peer
    server_id: bytes
    cookie: bytes
    holds_device: bool
    max_message_bytes: int
    wait_s: float


def is_announce(octets: Octets) -> bool:
    """Whether a message says that a server is there with which this version can talk (§4.15)."""
    try:
        message = decode(octets).message
    except RemoteProtocolError:
        return False
    return isinstance(message, m.Announce) and message.version_lowest <= VERSION <= message.version_highest


class Discovery:
    """Probes `targets` until a server is chosen; `tries` bounds the rounds of Probes (None: for ever).

    A server that holds this device is chosen at once. So is one for a backup when all that were asked have answered,
    as where the layout names the server: there is nobody to wait for. Where servers had to be avoided, the choice is
    made at random among those that answer: one that answers first and never helps must not be chosen each time.
    """

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
        self._announced: dict[Peer, None] = {}
        """The latest last."""
        self._avoided: dict[Peer, float] = {}
        self._probed_s = float("-inf")
        self.restart(now_s)

    def restart(self, now_s: float) -> None:
        """Forget what was found and probe again."""
        self.chosen: FoundServer | None = None
        self.busy_s = 0
        """How long a server asked to wait that answered but is busy; 0: none did."""
        self._found: list[FoundServer] = []
        self._choose_at_s: float | None = None
        self._nonce = bytearray(self._entropy(m.NONCE_BYTES))
        """Of the last Probe. Its last byte tells them apart, so that the answer's round trip is known."""
        self._repeater = Repeater(
            now_s=max(now_s, self._probed_s + PROBE_GAP_S), tries=self._tries, first_wait_s=PROBE_WAIT_S
        )

    def avoid(self, peer: Peer, *, now_s: float, for_s: float = AVOID_S) -> None:
        """Pass this server over for a while."""
        if peer not in self._avoided and len(self._avoided) >= MAX_AVOIDED:
            del self._avoided[min(self._avoided, key=self._avoided.__getitem__)]
        self._avoided[peer] = now_s + min(for_s, MAX_AVOID_S)

    def exhausted(self, now_s: float) -> bool:
        """No server that is to be taken answered any of the rounds."""
        return self.chosen is None and not self._found and self._repeater.exhausted(now_s)

    def receive(self, peer: Peer, message: Message, now_s: float) -> None:
        """Takes Probe-Ack and Announce; ignores all else."""
        if isinstance(message, m.Announce) and message.version_lowest <= VERSION <= message.version_highest:
            self._announce(peer, now_s)
        elif isinstance(message, m.ProbeAck) and message.nonce[:-1] == self._nonce[:-1] and message.version == VERSION:
            self._probe_ack(peer, message, now_s)

    def _announce(self, peer: Peer, now_s: float) -> None:
        if peer not in self._announced:
            self._repeater.hurry(max(now_s, self._probed_s + PROBE_GAP_S))
        self._announced.pop(peer, None)
        self._announced[peer] = None
        if len(self._announced) > MAX_ANNOUNCED:
            del self._announced[next(iter(self._announced))]

    def _probe_ack(self, peer: Peer, ack: m.ProbeAck, now_s: float) -> None:
        self._avoided = {p: until_s for p, until_s in self._avoided.items() if until_s > now_s}
        if peer in self._avoided or len(self._found) >= MAX_FOUND:
            return
        if ack.busy:
            self.busy_s = max(1, ack.retry_after_s)
            self.avoid(peer, now_s=now_s, for_s=self.busy_s)
            return
        if any(peer == f.peer or ack.server_id == f.server_id for f in self._found):
            return
        self._found.append(
            FoundServer(
                peer=peer,
                server_id=ack.server_id,
                cookie=ack.cookie,
                holds_device=ack.holds_device,
                max_message_bytes=min(ack.max_message_bytes, self._max_message_bytes),
                wait_s=wait_after(now_s - self._probed_s) if ack.nonce == self._nonce else FIRST_WAIT_S,
            )
        )
        if self._choose_at_s is None:
            self._choose_at_s = now_s + COLLECT_S
        if (ack.holds_device and not self._avoided) or self._nobody_is_missing():
            self._choose_at_s = now_s

    def _nobody_is_missing(self) -> bool:
        """All that were asked for room for a backup answered. Never by broadcast, as nobody answers from there."""
        asked = {(p.host, p.port) for p in (*self._targets, *self._announced)}
        return self._purpose is m.Purpose.BACKUP and asked <= {(f.peer.host, f.peer.port) for f in self._found}

    def outgoing(self, now_s: float) -> list[Datagram]:
        """The Probes that are due; chooses a server once the collecting is over."""
        if self.chosen is not None:
            return []
        if self._choose_at_s is not None:
            if now_s >= self._choose_at_s:
                best = [f for f in self._found if f.holds_device] or self._found
                self.chosen = best[self._entropy(1)[0] % len(best)]
            return []
        if not self._repeater.due(now_s):
            return []
        self._probed_s = now_s
        self._nonce[-1] = (self._nonce[-1] + 1) & 0xFF
        self._repeater.sent(now_s, jitter=self._entropy(1)[0] / 255)
        probe = encode(
            m.Probe(
                device_id=self._device_id,
                nonce=bytes(self._nonce),
                purpose=self._purpose,
                max_message_bytes=self._max_message_bytes,
                ring_frames=self._ring_frames,
            )
        )
        return [(target, probe) for target in dict.fromkeys((*self._targets, *self._announced))]

    def timer(self) -> float | None:
        """When to call `outgoing` again; None once a server is chosen."""
        if self.chosen is not None:
            return None
        return self._repeater.due_s if self._choose_at_s is None else self._choose_at_s
