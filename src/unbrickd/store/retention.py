# SPDX-License-Identifier: Apache-2.0
"""Which generations of a device may go. Pure: rows in, rows out; deletes nothing itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from unbrickd.errors import ConfigError
from unbrickd.store.interface import GenerationRow

_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class RetentionPolicy:
    """How much history is kept of each device, beside what is never deleted.

    keep_good: whole good generations, newest first; keep_trial: others, newest first;
    keep_days: whatever is younger is kept too, however many (None: age keeps nothing).
    """

    keep_good: int = 5
    keep_trial: int = 2
    keep_days: float | None = None

    def __post_init__(self) -> None:
        if self.keep_good < 1 or self.keep_trial < 0 or (self.keep_days is not None and self.keep_days < 0):
            raise ConfigError(
                "retention keeps at least one good generation, and no negative number of anything", code="retention"
            )


def newest_first(rows: Iterable[GenerationRow]) -> list[GenerationRow]:
    """By number, then by time of creation; the digest only makes the order a fixed one."""
    return sorted(rows, key=lambda r: (r.key.number, r.created_at_s, r.key.digest), reverse=True)


def expired(rows: Iterable[GenerationRow], policy: RetentionPolicy, *, now_s: float) -> tuple[GenerationRow, ...]:
    """The rows of one device that may be deleted.

    Never the newest, never a pinned one, and never the newest good one that is whole; nor the newest good one if it is
    damaged, for most of it may still be right.
    """
    ordered = newest_first(rows)
    good = [r for r in ordered if r.good]
    whole = [r for r in good if not r.damaged]
    kept = {r.key for r in ordered[:1] + good[:1] + whole[: policy.keep_good]}
    kept |= {r.key for r in ordered if r.pinned}
    others = [r for r in ordered if not r.good or r.damaged]
    kept |= {r.key for r in others[: policy.keep_trial]}
    if policy.keep_days is not None:
        kept |= {r.key for r in ordered if now_s - r.created_at_s < policy.keep_days * _DAY_S}
    return tuple(r for r in ordered if r.key not in kept)
