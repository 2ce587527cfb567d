# SPDX-License-Identifier: Apache-2.0
"""Whose blocks are sent next: sessions in turn, and whoever had nothing to send gets one block ahead of all.

That is the flow queueing of RFC 8290 §4.2, with a batch as the quantum. The one block shows the device how long its
path is, where the rest would show it how long our queue is; else the windows of five hundred devices shrink to nothing
before a queue that harms nobody, and every request asks for one block. Knows no bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set

from unbrickd.server.limits import BATCH_MESSAGES
from unbrickd.server.restore import RestoreSession


class Turns:
    """The sessions that have something to send, and those that had at their last turn."""

    def __init__(self) -> None:
        self._new: deque[RestoreSession] = deque()
        self._old: deque[RestoreSession] = deque()
        self._in: set[RestoreSession] = set()

    def __bool__(self) -> bool:
        return bool(self._in)

    def add(self, session: RestoreSession) -> None:
        """It has something to send."""
        if session not in self._in:
            self._in.add(session)
            self._new.append(session)

    def next(self, blocked: Set[int]) -> tuple[RestoreSession, int] | None:
        """Who sends now, and how many messages at most; those of a blocked channel keep their place."""
        for line in (self._new, self._old):
            for _ in range(len(line)):
                session = line.popleft()
                if not session.pending:
                    self._in.discard(session)
                elif session.port.peer.channel in blocked:
                    line.append(session)
                else:
                    most = 1 if line is self._new and self._old else BATCH_MESSAGES
                    # Even with nothing left: else who asks for one block at a time would be ahead of all for ever.
                    self._old.append(session)
                    return session, most
        return None
