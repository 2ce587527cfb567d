# SPDX-License-Identifier: Apache-2.0
"""When backups are made: each policy alone, any of them together, retries that never stop."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbrickd.agent.policy import (
    BUSY_SHORTEST_S,
    CATCH_UP_S,
    DEBOUNCE_LIMIT,
    RETRY_FIRST_S,
    RETRY_LONGEST_S,
    Schedule,
    Trigger,
)
from unbrickd.model.policy import BackupPolicy

OFF = BackupPolicy(after_start_s=None, period_s=None, after_upgrade=False, after_config_change=False)
WALL_S = 1.7e9

seconds = st.floats(0.1, 1e6)
policies = st.builds(
    BackupPolicy,
    after_start_s=st.none() | seconds,
    period_s=st.none() | seconds,
    jitter=st.floats(0, 1),
    after_upgrade=st.booleans(),
    after_config_change=st.booleans(),
    debounce_s=st.floats(0, 1e4),
)


def schedule(
    policy: BackupPolicy = OFF, *, last_s: float | None = None, pending: bool = False, jitter: float = 0.5
) -> Schedule:
    return Schedule(policy, now_s=0.0, wall_s=WALL_S, last_success_wall_s=last_s, pending=pending, jitter=jitter)


def test_schedule_everything_off_nothing_is_ever_due() -> None:
    s = schedule()
    s.upgraded(1.0)
    s.config_changed(2.0)
    assert s.timer() is None and s.due(1e12) is None and not s.change_waits
    assert not s.server_heard(3.0)


def test_schedule_after_start_is_due_once() -> None:
    s = schedule(BackupPolicy(after_start_s=60.0, period_s=None))
    assert s.due(59.9) is None and s.timer() == 60.0
    assert s.due(60.0) is Trigger.START
    s.started()
    s.succeeded(61.0, jitter=0.5)
    assert s.timer() is None


@pytest.mark.parametrize(("jitter", "expected"), [(0.0, 900.0), (0.5, 1000.0), (1.0, 1100.0)])
def test_schedule_period_is_moved_by_its_jitter(jitter: float, expected: float) -> None:
    s = schedule(BackupPolicy(after_start_s=None, period_s=1000.0, jitter=0.1), last_s=WALL_S, jitter=jitter)
    assert s.timer() == pytest.approx(expected)
    s.started()
    s.succeeded(expected, jitter=jitter)
    assert s.timer() == pytest.approx(2 * expected)


@pytest.mark.parametrize(
    ("last_s", "expected"),
    [
        (None, CATCH_UP_S),
        (WALL_S - 400.0, 600.0),
        (WALL_S - 990.0, CATCH_UP_S),
        (WALL_S - 1e7, CATCH_UP_S),
        (WALL_S + 1.0, CATCH_UP_S),
    ],
    ids=["never backed up", "in time", "nearly due", "overdue", "the clock was set back, or starts at zero"],
)
def test_schedule_period_after_downtime_is_caught_up(last_s: float | None, expected: float) -> None:
    s = schedule(BackupPolicy(after_start_s=None, period_s=1000.0, jitter=0.1), last_s=last_s)
    assert s.timer() == pytest.approx(expected)


def test_schedule_never_backed_up_is_not_put_off_by_the_jitter() -> None:
    assert schedule(BackupPolicy(after_start_s=None), last_s=None, jitter=1.0).timer() == CATCH_UP_S


def test_schedule_burst_of_changes_is_one_backup_after_it() -> None:
    s = schedule(BackupPolicy(after_start_s=None, period_s=None, debounce_s=10.0))
    for at_s in (0.0, 3.0, 6.0):
        s.config_changed(at_s)
    assert s.due(15.9) is None and s.due(16.0) is Trigger.CONFIG_CHANGE and s.change_waits
    s.started()
    assert s.timer() is None and not s.change_waits


def test_schedule_stream_of_changes_puts_the_backup_off_only_so_long() -> None:
    s = schedule(BackupPolicy(after_start_s=None, period_s=None, debounce_s=10.0))
    for at_s in range(1000):
        if s.due(float(at_s)):
            break
        s.config_changed(float(at_s))
    assert at_s == 10 * DEBOUNCE_LIMIT


def test_schedule_change_while_a_backup_runs_has_its_own_turn() -> None:
    s = schedule(BackupPolicy(after_start_s=None, period_s=None))
    s.upgraded(5.0)
    s.started()
    s.config_changed(6.0)
    s.succeeded(7.0, jitter=0.5)
    assert s.change_waits and s.due(16.0) is Trigger.CONFIG_CHANGE


def test_schedule_retries_double_to_an_hour_and_never_stop() -> None:
    s = schedule()
    now_s, waits = 0.0, []
    for _ in range(50):
        s.failed(now_s)
        due_s = s.timer()
        assert due_s is not None and s.due(due_s) is Trigger.RETRY
        waits.append(due_s - now_s)
        now_s = due_s
        s.started()
    assert waits[0] == RETRY_FIRST_S and waits[-1] == RETRY_LONGEST_S
    assert all(b == min(2 * a, RETRY_LONGEST_S) for a, b in pairwise(waits))
    s.succeeded(now_s, jitter=0.5)
    s.failed(now_s)
    assert s.timer() == now_s + RETRY_FIRST_S


@pytest.mark.parametrize(("asked_s", "expected"), [(5.0, RETRY_FIRST_S), (100.0, 100.0), (65535.0, RETRY_LONGEST_S)])
def test_schedule_server_that_asks_to_wait_is_obeyed_within_reason(asked_s: float, expected: float) -> None:
    s = schedule()
    s.failed(0.0, at_least_s=asked_s)
    assert s.timer() == expected


@pytest.mark.parametrize(("told_s", "expected"), [(1.0, BUSY_SHORTEST_S), (7.0, 7.0), (65535.0, RETRY_LONGEST_S)])
def test_schedule_busy_server_is_asked_again_when_it_says_however_often(told_s: float, expected: float) -> None:
    s = schedule()
    for now_s in (0.0, 1000.0, 9000.0):
        s.told_later(now_s, told_s)
        assert s.timer() == now_s + expected
        assert s.server_heard(now_s + 1.0) and s.timer() == now_s + expected, "its announcements hurry nobody"
    s.failed(20_000.0)
    assert s.timer() == 20_000.0 + RETRY_FIRST_S, "nothing has failed before"


def test_schedule_server_heard_hurries_a_retry_but_not_into_a_storm() -> None:
    s = schedule()
    for _ in range(10):
        s.failed(1000.0)
    assert s.server_heard(1001.0)
    assert s.timer() == 1000.0 + RETRY_FIRST_S
    assert s.server_heard(2000.0) and s.timer() == 1000.0 + RETRY_FIRST_S


def test_schedule_owed_from_before_the_reboot_is_made_up_for() -> None:
    assert schedule(pending=True).due(CATCH_UP_S) is Trigger.RETRY


@given(policies, st.none() | st.floats(0, 4e9), st.booleans(), st.floats(0, 1))
def test_schedule_of_any_policies_together_is_due_no_later_than_each_alone(
    policy: BackupPolicy, last_s: float | None, pending: bool, jitter: float
) -> None:
    def first(p: BackupPolicy, owed: bool) -> float:
        s = schedule(p, last_s=last_s, pending=owed, jitter=jitter)
        s.config_changed(1.0)
        s.upgraded(2.0)
        due_s = s.timer()
        return float("inf") if due_s is None else due_s

    alone = [
        replace(OFF, after_start_s=policy.after_start_s),
        replace(OFF, period_s=policy.period_s, jitter=policy.jitter),
        replace(OFF, after_upgrade=policy.after_upgrade),
        replace(OFF, after_config_change=policy.after_config_change, debounce_s=policy.debounce_s),
    ]
    assert first(policy, pending) == min(*(first(p, False) for p in alone), first(OFF, pending))


@given(policies, st.lists(st.sampled_from(["config", "upgrade", "good", "asked", "heard", "run", "fail"]), max_size=40))
def test_schedule_whatever_happens_what_is_owed_stays_due(policy: BackupPolicy, story: list[str]) -> None:
    s = schedule(policy, last_s=WALL_S)
    now_s, owed = 0.0, False
    for what in story:
        now_s += 7.0
        match what:
            case "config":
                s.config_changed(now_s)
                owed = owed or policy.after_config_change
            case "upgrade":
                s.upgraded(now_s)
                owed = owed or policy.after_upgrade
            case "good":
                s.proved_good(now_s)
                owed = True
            case "asked":
                s.asked(now_s)
                owed = True
            case "heard":
                s.server_heard(now_s)
            case "run" | "fail":
                due_s = s.timer()
                if due_s is None:
                    continue
                now_s = max(now_s, due_s)
                assert s.due(now_s) is not None
                s.started()
                owed = what == "fail"
                if what == "run":
                    s.succeeded(now_s, jitter=0.5)
                else:
                    s.failed(now_s)
        assert s.timer() is not None or not owed
        assert s.timer() is None or s.timer() != float("inf")
