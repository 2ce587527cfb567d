# SPDX-License-Identifier: Apache-2.0
"""A second process of the server, on the second processor: it serves every other restore, and writes nothing (Linux).

It is forked before anything is open, so that the two share the memory of the interpreter and its modules. Then it waits
for its sockets, and tells the first what happens. It ends when the first does, however that ends.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from unbrickd.server.events import Event

_MAX_EVENT_BYTES = 1 << 16
_MAX_SOCKETS = 16
_PATIENCE_S = 2.0


class First:
    """The link to the first process, as the second has it. It can be read when the first is about to end."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link

    def fileno(self) -> int:
        return self._link.fileno()

    def sockets(self) -> list[socket.socket]:
        """Wait for those that are to be served; none if the first ended before."""
        _, numbers, _, _ = socket.recv_fds(self._link, 1, _MAX_SOCKETS)
        return [socket.socket(fileno=number) for number in numbers]

    def tell(self, event: Event) -> None:
        """Lost, if the first does not listen."""
        with suppress(OSError):
            self._link.send(pickle.dumps(event), socket.MSG_DONTWAIT)


class Second:
    """The second process, as the first has it; its link can be read when there are events, or when it ended."""

    def __init__(self, pid: int, link: socket.socket) -> None:
        self._pid = pid
        self._link = link

    def fileno(self) -> int:
        return self._link.fileno()

    def serve(self, sockets: Sequence[socket.socket]) -> None:
        """Give it its sockets, which it keeps. Raises OSError."""
        socket.send_fds(self._link, [b"."], [sock.fileno() for sock in sockets])

    def events(self) -> Iterator[Event]:
        """What it tells. Raises EOFError when it ended."""
        while True:
            try:
                octets = self._link.recv(_MAX_EVENT_BYTES)
            except BlockingIOError:
                return
            if not octets:
                raise EOFError
            event = pickle.loads(octets)
            assert isinstance(event, Event)
            yield event

    def end(self) -> list[Event]:
        """Have it end, and wait until it did; what it told last."""
        told: list[Event] = []
        try:
            self._link.shutdown(socket.SHUT_WR)
            self._link.settimeout(_PATIENCE_S)
            for event in self.events():
                told.append(event)
        except EOFError:
            pass
        except OSError:
            os.kill(self._pid, signal.SIGKILL)
        self._link.close()
        os.waitpid(self._pid, 0)
        return told


def fork(serve: Callable[[First], None]) -> Second | None:
    """Have `serve` run in a second process; None where the platform has none of this, or there is one processor."""
    if sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2:
        return None
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        its.close()
        return None
    if pid:
        its.close()
        ours.setblocking(False)
        return Second(pid, ours)
    ours.close()
    # Ctrl-C is for all of a terminal's processes; what ends this one is the end of the first.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    status = 1
    try:
        serve(First(its))
        status = 0
    finally:
        os._exit(status)
