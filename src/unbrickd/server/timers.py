# SPDX-License-Identifier: Apache-2.0
"""When which session wants to be called: the earliest first, whatever their number. Knows no clock."""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from typing import Generic, TypeVar

_Key = TypeVar("_Key")


class Timers(Generic[_Key]):
    """One time each; `due` may give out a key too early, if its time was put off, but never too late."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, _Key]] = []
        self._at_s: dict[_Key, float] = {}
        self._order = count()

    def set(self, key: _Key, due_s: float | None) -> None:
        """None: it wants nothing. A later time than the one that is set counts only after `due` gave the key out."""
        if due_s is None:
            self._at_s.pop(key, None)
        elif due_s < self._at_s.get(key, float("inf")):
            self._at_s[key] = due_s
            heappush(self._heap, (due_s, next(self._order), key))

    def first_s(self) -> float:
        """Infinite if there is none."""
        while self._heap and self._at_s.get(self._heap[0][2]) != self._heap[0][0]:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else float("inf")

    def due(self, now_s: float) -> list[_Key]:
        """Those whose time has come; none of them is set any more."""
        keys: list[_Key] = []
        while self.first_s() <= now_s:
            _, _, key = heappop(self._heap)
            del self._at_s[key]
            keys.append(key)
        return keys
