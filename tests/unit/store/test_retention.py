# SPDX-License-Identifier: Apache-2.0
"""Retention, for any history: what must stay stays, and no more than the policy asks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbrickd.errors import ConfigError
from unbrickd.store.interface import GenerationKey, GenerationRow
from unbrickd.store.retention import RetentionPolicy, expired, newest_first

NOW_S = 1_000_000.0
DAY_S = 86_400


def _row(number: int, *, good: bool, pinned: bool = False, damaged: bool = False, age_s: float = 1e6) -> GenerationRow:
    return GenerationRow(
        key=GenerationKey(device_id=bytes(16), number=number, digest=number.to_bytes(32, "big")),
        model="",
        images=(b"i" * 32,),
        size_bytes=1,
        created_at_s=NOW_S - age_s,
        good_at_s=NOW_S if good else None,
        pinned=pinned,
        damaged=damaged,
    )


@st.composite
def _histories(draw: st.DrawFn) -> list[GenerationRow]:
    flags = draw(
        st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans(), st.floats(0, 40 * DAY_S)), max_size=14)
    )
    rows = [_row(n, good=g, pinned=p, damaged=d, age_s=a) for n, (g, p, d, a) in enumerate(flags, 1)]
    return draw(st.permutations(rows))


_policies = st.builds(
    RetentionPolicy,
    keep_good=st.integers(1, 4),
    keep_trial=st.integers(0, 4),
    keep_days=st.none() | st.floats(0, 30),
)


@given(_histories(), _policies)
def test_expired_any_history_keeps_what_must_stay(rows: list[GenerationRow], policy: RetentionPolicy) -> None:
    gone = {r.key for r in expired(rows, policy, now_s=NOW_S)}
    ordered = newest_first(rows)
    whole = [r for r in ordered if r.good and not r.damaged]
    assert not gone & {r.key for r in ordered if r.pinned}
    assert not gone & {r.key for r in ordered[:1]}
    assert not gone & {r.key for r in whole[:1]}
    assert not gone & {r.key for r in [r for r in ordered if r.good][:1]}
    if policy.keep_days is not None:
        assert not gone & {r.key for r in ordered if NOW_S - r.created_at_s < policy.keep_days * DAY_S}


@given(_histories(), _policies)
def test_expired_any_history_is_bounded_and_settles(rows: list[GenerationRow], policy: RetentionPolicy) -> None:
    gone = {r.key for r in expired(rows, policy, now_s=NOW_S)}
    left = [r for r in rows if r.key not in gone]
    assert expired(left, policy, now_s=NOW_S) == ()
    if policy.keep_days is None:
        assert len([r for r in left if not r.pinned]) <= policy.keep_good + policy.keep_trial + 2


def test_expired_long_history_keeps_the_newest_of_each_sort() -> None:
    rows = [_row(n, good=n % 2 == 0) for n in range(1, 21)]
    gone = expired(rows, RetentionPolicy(keep_good=3, keep_trial=2), now_s=NOW_S)
    assert sorted({r.key.number for r in rows} - {r.key.number for r in gone}) == [16, 17, 18, 19, 20]


def test_expired_damaged_good_ones_do_not_push_out_the_whole_one() -> None:
    rows = [_row(1, good=True), *(_row(n, good=True, damaged=True) for n in range(2, 9))]
    gone = expired(rows, RetentionPolicy(keep_good=1, keep_trial=0), now_s=NOW_S)
    assert {r.key.number for r in gone} == set(range(2, 8))


@pytest.mark.parametrize(("good", "trial", "days"), [(0, 1, None), (1, -1, None), (1, 1, -0.5)])
def test_retention_policy_out_of_range_is_refused(good: int, trial: int, days: float | None) -> None:
    with pytest.raises(ConfigError):
        RetentionPolicy(keep_good=good, keep_trial=trial, keep_days=days)
