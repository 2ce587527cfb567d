# SPDX-License-Identifier: Apache-2.0
"""The earliest of many times."""

from __future__ import annotations

import random

from unbrickd.server.timers import Timers


def test_timers_give_out_what_is_due_earliest_first_and_once() -> None:
    timers: Timers[str] = Timers()
    for key, due_s in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
        timers.set(key, due_s)
    assert timers.first_s() == 1.0
    assert timers.due(2.0) == ["a", "b"]
    assert timers.due(2.0) == []
    assert timers.first_s() == 3.0


def test_timers_taken_back_or_brought_forward_count_as_set_last() -> None:
    timers: Timers[str] = Timers()
    timers.set("a", 5.0)
    timers.set("b", 4.0)
    timers.set("b", None)
    timers.set("a", 1.0)
    assert timers.due(9.0) == ["a"]
    assert timers.first_s() == float("inf")


def test_timers_put_off_are_given_out_early_and_hold_one_time_each() -> None:
    timers: Timers[str] = Timers()
    for n in range(1000):
        timers.set("a", 1.0 + n)
    assert timers.due(1.0) == ["a"]
    assert timers.first_s() == float("inf"), "whoever is called early says anew when it wants to be"


def test_timers_of_many_keys_agree_with_a_plain_table() -> None:
    seed = random.randrange(1 << 32)
    rng, timers, plain, now_s = random.Random(seed), Timers[int](), dict[int, float](), 0.0
    for _ in range(2000):
        key, due_s = rng.randrange(40), now_s + rng.random()
        if rng.random() < 0.2:
            timers.set(key, None)
            plain.pop(key, None)
        else:
            timers.set(key, due_s)
            plain[key] = min(due_s, plain.get(key, due_s))
        assert timers.first_s() == min(plain.values(), default=float("inf")), f"seed {seed}"
        if rng.random() < 0.1:
            now_s += rng.random() / 2
            due = sorted((k for k, t in plain.items() if t <= now_s), key=plain.__getitem__)
            assert timers.due(now_s) == due, f"seed {seed}"
            for key in due:
                del plain[key]
