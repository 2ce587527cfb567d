# SPDX-License-Identifier: Apache-2.0
"""When the agent backs up: after start-up, periodically, after an upgrade, after a configuration change (R4 to R7).

Pure: the time comes in. Wall-clock time is used only to remember the last backup across reboots; a device whose clock
starts at zero is taken to be overdue.
"""

from __future__ import annotations

from enum import Enum

from unbrickd.model.policy import BackupPolicy

RETRY_FIRST_S = 30.0
RETRY_LONGEST_S = 3600.0
"""Retries double up to this and never stop: a PC that is switched on next month is found within the hour."""
BUSY_SHORTEST_S = 5.0
"""A server that is busy is asked again when it says, but no sooner."""
CATCH_UP_S = 60.0
"""After start-up, before a backup that fell due while the device was off: the network first comes up."""
DEBOUNCE_LIMIT = 10
"""A stream of changes delays the backup by at most so many debounce times."""


class Trigger(Enum):
    """Why a backup is made."""

    START = "start-up"
    PERIOD = "period"
    UPGRADE = "upgrade"
    CONFIG_CHANGE = "configuration change"
    GOOD = "proved good"
    ASKED = "asked for"
    RETRY = "retry"


class Schedule:
    """Turns policy and events into the moment of the next backup.

    now_s: a monotonic clock; wall_s: seconds since 1970 as far as the device knows; last_success_wall_s: of the last
    backup that was acknowledged, from before the reboot, None if there was none. jitter: 0 to 1, drawn by the caller.
    """

    def __init__(
        self,
        policy: BackupPolicy,
        *,
        now_s: float,
        wall_s: float,
        last_success_wall_s: float | None,
        pending: bool,
        jitter: float,
    ) -> None:
        self._policy = policy
        self._due: dict[Trigger, float] = {}
        self._first_change_s: float | None = None
        self._retry_wait_s = RETRY_FIRST_S
        self._retry_earliest_s = now_s
        if policy.after_start_s is not None:
            self._due[Trigger.START] = now_s + policy.after_start_s
        if pending:
            self._due[Trigger.RETRY] = now_s + CATCH_UP_S
        if policy.period_s is not None:
            left_s = 0.0
            if last_success_wall_s is not None and last_success_wall_s <= wall_s:
                left_s = last_success_wall_s + self._period_s(jitter) - wall_s
            self._due[Trigger.PERIOD] = now_s + max(left_s, CATCH_UP_S)

    def upgraded(self, now_s: float) -> None:
        if self._policy.after_upgrade:
            self._due[Trigger.UPGRADE] = now_s

    def config_changed(self, now_s: float) -> None:
        """Each change puts the backup off by the debounce time, up to DEBOUNCE_LIMIT times it after the first."""
        if not self._policy.after_config_change:
            return
        if self._first_change_s is None:
            self._first_change_s = now_s
        latest_s = self._first_change_s + DEBOUNCE_LIMIT * self._policy.debounce_s
        self._due[Trigger.CONFIG_CHANGE] = min(now_s + self._policy.debounce_s, latest_s)

    def proved_good(self, now_s: float) -> None:
        """The server holds this generation and does not know yet that it is good: one small exchange."""
        self._due[Trigger.GOOD] = now_s

    def asked(self, now_s: float) -> None:
        """Somebody asked for a backup now."""
        self._due[Trigger.ASKED] = now_s

    def server_heard(self, now_s: float) -> bool:
        """A server announced itself: what waits to be retried is tried soon; False if nothing is."""
        if Trigger.RETRY not in self._due:
            return False
        self._due[Trigger.RETRY] = min(self._due[Trigger.RETRY], max(now_s, self._retry_earliest_s))
        return True

    @property
    def change_waits(self) -> bool:
        """Whether a change of the software waits for its backup."""
        return Trigger.UPGRADE in self._due or Trigger.CONFIG_CHANGE in self._due

    def due(self, now_s: float) -> Trigger | None:
        """The trigger of a backup that should start now."""
        at_s, trigger = self._next()
        return trigger if at_s <= now_s else None

    def timer(self) -> float | None:
        """When the next backup is due."""
        at_s, trigger = self._next()
        return at_s if trigger is not None else None

    def started(self) -> None:
        """A backup takes in everything that was due; what comes while it runs is another."""
        period_s = self._due.get(Trigger.PERIOD)
        self._due.clear()
        if period_s is not None:
            self._due[Trigger.PERIOD] = period_s
        self._first_change_s = None

    def succeeded(self, now_s: float, *, jitter: float) -> None:
        self._retry_wait_s = RETRY_FIRST_S
        if self._policy.period_s is not None:
            self._due[Trigger.PERIOD] = now_s + self._period_s(jitter)

    def failed(self, now_s: float, *, at_least_s: float = 0.0) -> None:
        """Try again later, not before `at_least_s`, less and less often, for ever."""
        at_least_s = min(at_least_s, RETRY_LONGEST_S)
        self._retry(now_s + max(self._retry_wait_s, at_least_s), earliest_s=now_s + max(RETRY_FIRST_S, at_least_s))
        self._retry_wait_s = min(2 * self._retry_wait_s, RETRY_LONGEST_S)

    def told_later(self, now_s: float, wait_s: float) -> None:
        """The server is busy, and says when to come back: it spreads those whom it turned away together."""
        at_s = now_s + min(max(wait_s, BUSY_SHORTEST_S), RETRY_LONGEST_S)
        self._retry(at_s, earliest_s=at_s)

    def _retry(self, at_s: float, *, earliest_s: float) -> None:
        self._due[Trigger.RETRY] = at_s
        self._retry_earliest_s = earliest_s
        if Trigger.PERIOD in self._due:
            self._due[Trigger.PERIOD] = max(self._due[Trigger.PERIOD], at_s)

    def _period_s(self, jitter: float) -> float:
        assert self._policy.period_s is not None
        return self._policy.period_s * (1 + self._policy.jitter * (2 * jitter - 1))

    def _next(self) -> tuple[float, Trigger | None]:
        if not self._due:
            return float("inf"), None
        trigger = min(self._due, key=self._due.__getitem__)
        return self._due[trigger], trigger
