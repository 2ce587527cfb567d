# SPDX-License-Identifier: Apache-2.0
"""From power-on to the boot: check, decide, restore if need be, check again, boot (R16 to R24).

The whole of what a bootloader adds to its old self, as one state machine without I/O but flash. Driven like its restore
session: `receive`, `outgoing`, `timer`, `events`; ends when `booting` is set.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from unbrickd.errors import FlashError, IntegrityError
from unbrickd.flash.device import DeviceFlash
from unbrickd.flash.journal import JournalEntry
from unbrickd.model.manifest import ComponentKind
from unbrickd.model.peer import Datagram, Peer
from unbrickd.model.policy import BootPolicy
from unbrickd.recovery import events
from unbrickd.recovery.check import Decision, Findings, Reason, check_flash, decide
from unbrickd.recovery.fetch import AHEAD_BYTES
from unbrickd.recovery.light import Light
from unbrickd.recovery.session import RestoreSession
from unbrickd.wire.framing import Octets

FLASH_RETRY_S = 30.0
"""Between tries on a flash that failed: each costs a cycle of a worn erase block."""


class Bootloader:
    """One power-on. Everything the caller supplies is as in RestoreSession."""

    def __init__(
        self,
        device: DeviceFlash,
        *,
        button: bool,
        policy: BootPolicy,
        targets: tuple[Peer, ...],
        entropy: Callable[[int], bytes],
        now_s: float,
        max_message_bytes: int,
        ring_frames: int = 0,
        polled: bool = True,
        ahead_bytes: int = AHEAD_BYTES,
    ) -> None:
        self._device = device
        self._policy = policy
        self._targets = targets
        self._entropy = entropy
        self._max_message_bytes = max_message_bytes
        self._ring_frames = ring_frames
        self._polled = polled
        self._ahead_bytes = ahead_bytes
        self._events: list[events.Event] = []
        self._light = Light.OFF
        self._failed_generation = 0
        self._session: RestoreSession | None = None
        self._last_words: list[Datagram] = []
        self._check_at_s: float | None = None
        self._boot_anyway_at_s: float | None = None
        self._offered = False
        self.booting: events.Booting | None = None
        self.peak_ram_bytes = 0
        self._check(button=button, now_s=now_s)

    @property
    def light(self) -> Light:
        return self._light

    def receive(self, peer: Peer, octets: Octets, now_s: float) -> None:
        """Take one message; raises nothing."""
        if self._session is not None:
            self._session.receive(peer, octets, now_s)
            self._follow(now_s)

    def outgoing(self, now_s: float) -> list[Datagram]:
        """Every message that is due now."""
        if self._last_words:
            due, self._last_words = self._last_words, []
            return due  # before all of flash is checked, which takes long
        if self._check_at_s is not None and now_s >= self._check_at_s:
            self._check_at_s = None
            self._check(button=False, now_s=now_s)
        if self._session is None:
            return []
        self.peak_ram_bytes = max(self.peak_ram_bytes, self._session.ram_bytes)
        due = self._session.outgoing(now_s)
        self._follow(now_s)
        if self._session is not None and self._boot_anyway_at_s is not None and now_s >= self._boot_anyway_at_s:
            self._boot_as_it_is(now_s)
            return []
        return due

    def timer(self) -> float | None:
        """When to call `outgoing` again though nothing arrived."""
        if self._session is None:
            return self._check_at_s
        times = [t for t in (self._session.timer(), self._boot_anyway_at_s) if t is not None]
        return min(times, default=None)

    def events(self) -> list[events.Event]:
        """What happened since the last call."""
        happened, self._events = self._events, []
        return happened

    def _check(self, *, button: bool, now_s: float) -> None:
        self._show(Light.OFF)
        try:
            repaired = self._device.record.repair()
        except FlashError:
            repaired = False  # the other copy still counts
        findings = check_flash(self._device)
        decision = decide(findings, button=button, boot_limit=self._policy.boot_limit)
        self._events.append(events.Checked(findings=findings, decision=decision, record_repaired=repaired))
        if decision.restore:
            self._restore(findings, decision, now_s)
        else:
            self._boot(findings)

    def _restore(self, findings: Findings, decision: Decision, now_s: float) -> None:
        if decision.reason is Reason.BOOT_FAILED and findings.loaded is not None:
            self._failed_generation = findings.loaded.record.sealed.generation.number
        self._session = RestoreSession(
            self._device,
            findings,
            decision,
            targets=self._targets,
            entropy=self._entropy,
            now_s=now_s,
            max_message_bytes=self._max_message_bytes,
            ring_frames=self._ring_frames,
            polled=self._polled,
            ahead_bytes=self._ahead_bytes,
        )
        self._boot_anyway_at_s = now_s + self._policy.wait_s if findings.bootable else None
        self._offered = False
        self._show(Light.START_SERVER)

    def _wait_on(self, now_s: float) -> None:
        """There is hope: what may boot as it is waits for a server from now on, what may not waits for ever."""
        if self._boot_anyway_at_s is not None:
            self._boot_anyway_at_s = now_s + self._policy.wait_s

    def _follow(self, now_s: float) -> None:
        """Pass the session's events on, set the light by them, and go on when it has ended."""
        session = self._session
        assert session is not None
        for event in session.events():
            self._events.append(event)
            if isinstance(event, events.OfferTaken):
                self._show(Light.RESTORING)
                # Once only: a server that offers and never delivers must not put off the boot for ever.
                if not self._offered:
                    self._offered = True
                    self._wait_on(now_s)
            elif isinstance(event, events.EraseBlockRestored):
                self._wait_on(now_s)
            elif isinstance(event, events.ServerGivenUp):
                self._show(Light.FAILED if event.refused else Light.START_SERVER)
        if session.flash_failure:
            self._session = None
            self._flash_failed(session.flash_failure, now_s)
        elif session.restored is not None:
            self._last_words = session.outgoing(now_s)
            self._session = None
            self._check_at_s = now_s

    def _flash_failed(self, why: str, now_s: float) -> None:
        self._events.append(events.ServerGivenUp(server="", why=f"the flash failed: {why}", refused=True))
        self._show(Light.FAILED)
        findings = check_flash(self._device)
        if findings.bootable:
            self._boot(findings)
        else:
            self._check_at_s = now_s + FLASH_RETRY_S

    def _boot_as_it_is(self, now_s: float) -> None:
        """No server helps any more. What is there may have changed since, so it is verified once more."""
        findings = check_flash(self._device)
        if findings.bootable:
            self._session = None
            self._boot(findings)
        else:
            self._boot_anyway_at_s = None

    def _boot(self, findings: Findings) -> None:
        assert findings.bootable and findings.loaded is not None, "nothing unverified is ever booted"
        with suppress(FlashError, IntegrityError):  # a boot that is not counted is better than no boot
            self._device.record.mark(JournalEntry.ATTEMPT)
        self._show(Light.BOOTED)
        number = findings.loaded.record.sealed.generation.number
        self.booting = events.Booting(
            generation=number,
            firmware_version=next(c.version for c in findings.components if c.kind is ComponentKind.FIRMWARE),
            config_default=findings.config_damaged,
            went_back_from=self._failed_generation if self._failed_generation != number else 0,
        )
        self._events.append(self.booting)

    def _show(self, light: Light) -> None:
        if light is not self._light:
            self._light = light
            self._events.append(events.LightChanged(light=light))
