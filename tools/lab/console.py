# SPDX-License-Identifier: Apache-2.0
"""A program in a child process and its console: what it says is waited for, what it should do is typed.

Nothing waits without a limit, and the process never outlives the `with`, nor us if we are killed. Everything said is
kept in a log.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tools.lab.errors import LabError

_SHOWN_CHARACTERS = 2000
_END_PATIENCE_S = 10.0
_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""Linux kills the program when the thread that started it ends, however that ends (prctl(2), PR_SET_PDEATHSIG)."""


class ConsoleError(LabError):
    """The program ended, or did not say in time what was waited for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command typed at a prompt did."""

    code: int
    output: str
    took_s: float


class Console:
    """The program of `words`; a context manager. log: where all that it says is written, each line with its seconds."""

    def __init__(self, words: Sequence[str | Path], *, log: Path) -> None:
        self._name = Path(words[0]).name
        self._log = log.open("wb")
        self._unread = b""
        self._line_begins = True
        self._started_s = time.monotonic()
        self._process = subprocess.Popen(
            [*_DIES_WITH_US, *(str(word) for word in words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in the terminal is for us, who end it
        )

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut_power()

    @property
    def up_s(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self._started_s

    def cut_power(self) -> None:
        """End the process at once, wherever it is; `unread` has its last words. Twice is no error."""
        self._process.kill()
        self._process.wait(_END_PATIENCE_S)
        with suppress(ConsoleError, ValueError):  # it has ended, or was read to its end before
            while self._read(0.0):
                pass
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._log.close()

    def wait_until_it_ends(self, timeout_s: float) -> int:
        """Its exit code, once it ends by itself."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise ConsoleError(f"{self._name} did not end within {timeout_s:g} s; it said:{self._end()}") from error

    def type(self, text: str) -> None:
        """Raises ConsoleError if nobody reads it any more."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text.encode())
        except OSError as error:
            raise ConsoleError(f"{self._name} ended; it said:{self._end()}") from error

    def expect(self, pattern: str, *, timeout_s: float) -> re.Match[bytes]:
        """Wait until it has said this since the last match. Raises ConsoleError with what it said instead."""
        found = self.seen(pattern, within_s=timeout_s)
        if found is None:
            raise ConsoleError(f"no {pattern!r} from {self._name} within {timeout_s:g} s; it said:{self._end()}")
        return found

    def seen(self, pattern: str, *, within_s: float) -> re.Match[bytes] | None:
        """The same; None if it did not say so in time. Raises ConsoleError if it ended."""
        wanted = re.compile(pattern.encode())
        deadline_s = time.monotonic() + within_s
        is_over = False
        while not (found := wanted.search(self._unread)):
            if is_over:
                return None
            left_s = deadline_s - time.monotonic()
            is_over = left_s <= 0  # what it has said by then is read still
            self._read(max(0.0, left_s))
        self._unread = self._unread[found.end() :]
        return found

    @property
    def unread(self) -> str:
        """What was read since the last match."""
        return self._unread.decode(errors="replace")

    def _read(self, timeout_s: float) -> bool:
        """Whether it said something. Raises ConsoleError if it ended."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        if not ready:
            return False
        octets = os.read(self._process.stdout.fileno(), 1 << 16)
        if not octets:
            raise ConsoleError(f"{self._name} ended; it said:{self._end()}")
        self._write_log(octets)
        self._unread += octets
        return True

    def _write_log(self, octets: bytes) -> None:
        stamp = b"%8.3f  " % self.up_s
        self._log.write(stamp * self._line_begins + re.sub(rb"(?s)\n(?=.)", b"\n" + stamp, octets))
        self._log.flush()
        self._line_begins = octets.endswith(b"\n")

    def _end(self) -> str:
        return "\n" + self.unread[-_SHOWN_CHARACTERS:]


class Shell:
    """A command line on a console which, like busybox's and U-Boot's, knows `$?` and `;`."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._number = 0

    def run(self, command: str, *, timeout_s: float = 30.0) -> Ran:
        """Run one line to its end, whatever its exit code."""
        self._number += 1
        started_s = time.monotonic()
        # The echo of what is typed has a $ where what is printed has digits.
        begin, end = f"begin-{self._number}:", f"end-{self._number}:"
        self.console.type(f"echo {begin}0; {command}; echo {end}$?\n")
        found = self.console.expect(rf"(?s)(?:\A|\n){begin}0\r?\n(.*?){end}(\d+)\r?\n", timeout_s=timeout_s)
        output = found[1].decode(errors="replace").replace("\r", "")
        return Ran(code=int(found[2]), output=output, took_s=time.monotonic() - started_s)

    def check(self, command: str, *, timeout_s: float = 30.0) -> str:
        """What one line prints. Raises ConsoleError if its exit code is not 0."""
        ran = self.run(command, timeout_s=timeout_s)
        if ran.code:
            raise ConsoleError(f"`{command}` ended with {ran.code}:\n{ran.output}")
        return ran.output
