# SPDX-License-Identifier: Apache-2.0
"""The agent: marks the boot as up and then good, and backs up when the policy says so (R4 to R14).

A state machine without sockets and clocks, driven like its backup session. What it must remember across reboots is the
frozen `Memory` that the caller keeps for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from unbrickd.agent import session as backup
from unbrickd.agent.policy import Schedule, Trigger
from unbrickd.agent.software import DeviceSoftware
from unbrickd.errors import FlashError, IntegrityError
from unbrickd.model.peer import Datagram, Peer
from unbrickd.model.policy import BackupPolicy
from unbrickd.transfer.discovery import is_announce
from unbrickd.wire.framing import Octets

RECORD_RETRY_S = 60.0
"""Before the boot record is tried again when it could not be read or written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What outlives a reboot. server_missing: no server answered the last backup (R14); pending: one is owed.

    acknowledged: the generation that a server said last it holds, 0: none; acknowledged_good: it knows it as good.
    """

    last_success_wall_s: float | None = None
    server_missing: bool = False
    pending: bool = False
    acknowledged: int = 0
    acknowledged_good: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """good_after_s: how long a generation must run to be good (R13); probe_tries: rounds of Probe (R8)."""

    policy: BackupPolicy
    good_after_s: float = 300.0
    probe_tries: int = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupStarted:
    trigger: Trigger
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupEnded:
    outcome: backup.Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvedGood:
    generation: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Something on the device itself keeps it from being backed up; it is tried again."""

    what: str


Event = BackupStarted | BackupEnded | ProvedGood | Trouble | backup.Event


class Agent:
    """One run of the system, from its start on.

    wall_s: the clock of the day, for the period alone. max_message_bytes: what the device's link takes in one message.
    """

    def __init__(
        self,
        software: DeviceSoftware,
        options: AgentOptions,
        *,
        memory: Memory,
        targets: tuple[Peer, ...],
        entropy: Callable[[int], bytes],
        max_message_bytes: int,
        now_s: float,
        wall_s: float,
    ) -> None:
        self._software = software
        self._options = options
        self._targets = targets
        self._entropy = entropy
        self._max_message_bytes = max_message_bytes
        self._session: backup.BackupSession | None = None
        self._announced: Peer | None = None
        self._good_generation = 0
        """What the device was seen to have run for long enough; 0: not yet in this run of the system."""
        self._events: list[Event] = []
        self.memory = memory
        self._schedule = Schedule(
            options.policy,
            now_s=now_s,
            wall_s=wall_s,
            last_success_wall_s=memory.last_success_wall_s,
            pending=memory.pending,
            jitter=self._jitter(),
        )
        self._good_at_s: float | None = now_s + options.good_after_s
        try:
            software.up()
        except (FlashError, IntegrityError) as error:
            self._events.append(Trouble(what=str(error)))

    # What happens on the device

    def upgraded(self, now_s: float) -> None:
        """Firmware was upgraded and the boot record names it (R6).

        A device that must restart to run it restarts before `good_after_s` is over.
        """
        self._schedule.upgraded(now_s)
        self._changed(now_s)

    def config_changed(self, now_s: float) -> None:
        """The configuration was changed and the boot record names it (R7)."""
        self._schedule.config_changed(now_s)
        self._changed(now_s)

    def back_up_now(self, now_s: float) -> None:
        """Somebody asked for it, or the server was just started (R14)."""
        self._schedule.asked(now_s)

    def _changed(self, now_s: float) -> None:
        self._good_at_s = now_s + self._options.good_after_s
        self._good_generation = 0
        if self._schedule.change_waits:
            self.memory = replace(self.memory, pending=True)

    # The calls

    def receive(self, peer: Peer, octets: Octets, now_s: float, wall_s: float) -> None:
        """Take one message; raises nothing."""
        if self._session is not None:
            self._session.receive(peer, octets, now_s)
            self._follow(now_s, wall_s)
        elif is_announce(octets) and self._schedule.server_heard(now_s):
            self._announced = peer

    def outgoing(self, now_s: float, wall_s: float) -> list[Datagram]:
        """Every message that is due now."""
        if self._good_at_s is not None and now_s >= self._good_at_s:
            self._prove_good(now_s)
        if self._session is None:
            trigger = self._schedule.due(now_s)
            if trigger is None:
                return []
            self._begin(trigger, now_s)
        if self._session is None:
            return []
        due = self._session.outgoing(now_s)
        self._follow(now_s, wall_s)
        return due

    def timer(self) -> float | None:
        """When to call `outgoing` again though nothing arrived."""
        at = self._session.timer() if self._session is not None else self._schedule.timer()
        times = [t for t in (at, self._good_at_s) if t is not None]
        return min(times) if times else None

    def events(self) -> list[Event]:
        """What happened since the last call."""
        happened, self._events = self._events, []
        return happened

    @property
    def busy(self) -> bool:
        """Whether a backup is under way."""
        return self._session is not None

    def _begin(self, trigger: Trigger, now_s: float) -> None:
        self._schedule.started()
        try:
            self._session = backup.BackupSession(
                self._software,
                targets=self._targets if self._announced is None else (*self._targets, self._announced),
                entropy=self._entropy,
                tries=self._options.probe_tries,
                max_message_bytes=self._max_message_bytes,
                now_s=now_s,
            )
        except (FlashError, IntegrityError) as error:
            self._events.append(Trouble(what=str(error)))
            self.memory = replace(self.memory, pending=True)
            self._schedule.failed(now_s)
            return
        self._events.append(BackupStarted(trigger=trigger, generation=self._session.generation))

    def _follow(self, now_s: float, wall_s: float) -> None:
        session = self._session
        if session is None:
            return
        self._events += session.events()
        outcome = session.outcome
        if outcome is None:
            return
        self._session = None
        self._events.append(BackupEnded(outcome=outcome))
        if outcome.ending is backup.Ending.COMMITTED:
            self._schedule.succeeded(now_s, jitter=self._jitter())
            self.memory = Memory(
                last_success_wall_s=wall_s,
                # A change made while this backup ran has its own turn, so it stays owed.
                pending=self._schedule.change_waits,
                acknowledged=outcome.generation,
                acknowledged_good=session.is_good,
            )
            self._tell_good(now_s)
        else:
            missing = outcome.ending is backup.Ending.NO_SERVER
            self.memory = replace(self.memory, server_missing=missing, pending=True)
            if outcome.ending is backup.Ending.BUSY:
                self._schedule.told_later(now_s, outcome.retry_after_s)
            else:
                self._schedule.failed(now_s, at_least_s=outcome.retry_after_s)

    def _prove_good(self, now_s: float) -> None:
        self._good_at_s = None
        try:
            news = self._software.prove_good()
            self._good_generation = self._software.loaded().record.sealed.generation.number
        except (FlashError, IntegrityError) as error:
            self._events.append(Trouble(what=str(error)))
            self._good_at_s = now_s + max(self._options.good_after_s, RECORD_RETRY_S)
            return
        if news:
            self._events.append(ProvedGood(generation=self._good_generation))
        self._tell_good(now_s)

    def _tell_good(self, now_s: float) -> None:
        """The server that holds this generation is told that it is good; whether it shall hold it, the policy says."""
        if self._good_generation == self.memory.acknowledged != 0 and not self.memory.acknowledged_good:
            self._schedule.proved_good(now_s)

    def _jitter(self) -> float:
        return self._entropy(1)[0] / 255
