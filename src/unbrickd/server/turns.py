# SPDX-License-Identifier: Apache-2.0
"""Whose blocks are sent next: sessions in turn, and whoever had nothing to send gets one block ahead of all.

That is the flow queueing of RFC 8290 §4.2, with two batches as the quantum: more than most devices have room for. The
one block shows the device how long its path is, where the rest would show it how long our queue is; else the windows of
five hundred devices shrink to nothing before a queue that harms nobody, and every request asks for one block. Knows no
bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set

from unbrickd.server.limits import BATCH_MESSAGES
from unbrickd.server.restore import RestoreSession

TURN_BATCHES = 2


class Turns:
    """The sessions that have something to send, and those that went ahead since their last turn."""

    def __init__(self) -> None:
        self._new: deque[RestoreSession] = deque()
        self._old: deque[RestoreSession] = deque()
        self._in: set[RestoreSession] = set()
        self._is_ahead = False
        self._batches = 0
        """Sent in the turn that is going on, which is that of the first of the old."""

    def __bool__(self) -> bool:
        return bool(self._in)

    def add(self, session: RestoreSession) -> None:
        """It has something to send."""
        if session not in self._in:
            self._in.add(session)
            self._new.append(session)

    def next(self, blocked: Set[int]) -> tuple[RestoreSession, int] | None:
        """Who sends now, and how many messages at most, if it still has any; then call `sent`. A blocked channel keeps
        its place."""
        for line in (self._new, self._old):
            for _ in range(len(line)):
                session = line.popleft()
                if session.port.peer.channel not in blocked:
                    self._is_ahead = line is self._new and bool(self._old)
                    return session, 1 if self._is_ahead else BATCH_MESSAGES
                self._batches = 0 if line is self._old else self._batches
                if session.pending:
                    line.append(session)
                else:
                    self._in.discard(session)
        return None

    def sent(self, session: RestoreSession) -> None:
        """What it was allowed to, or all that it had."""
        if self._is_ahead:
            # Even with nothing left: else who asks for one block at a time would be ahead of all for ever.
            self._old.append(session)
            return
        self._batches += 1
        if not session.pending:
            self._in.discard(session)
            self._batches = 0
        elif self._batches < TURN_BATCHES:
            self._old.appendleft(session)
        else:
            self._old.append(session)
            self._batches = 0
