# SPDX-License-Identifier: Apache-2.0
"""Contents that one command prints and another takes back (`sysupgrade -b -`, `sysupgrade -r -`), as flash in RAM.

For what is no range of flash of its own: the settings of a running system. Knows nothing of what it holds.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from typing import IO

from unbrickd.errors import FlashError
from unbrickd.flash.bounds import check_range, erase_block_from
from unbrickd.flash.interface import ERASED
from unbrickd.model.geometry import Geometry

TIMEOUT_S = 300.0
"""A command that takes longer hangs: `sysupgrade -b` on the slowest gateways takes under a minute."""
MAX_STDERR_BYTES = 2048
"""How much of a command's complaints is passed on; its end, where the reason stands."""


class CommandFlash:
    """A component as large as `geometry`, all erased until `load` has run `command`.

    Programming and erasing change the copy in RAM; `finish` hands it to `restore`. After a power cut before that, the
    system's settings are what they were, and the next check finds them damaged again.
    """

    def __init__(
        self, geometry: Geometry, command: tuple[str, ...], restore: tuple[str, ...], *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._geometry = geometry
        self._command = command
        self._restore = restore
        self._timeout_s = timeout_s
        self._contents = _erased(geometry.total_bytes)
        self._programmed = False
        self.length_bytes = 0

    @property
    def geometry(self) -> Geometry:
        return self._geometry

    def load(self) -> None:
        """Take what the command prints now as the contents; `length_bytes` is its length.

        Raises FlashError: `command` if it cannot be run, fails, takes too long or prints nothing, `too-big` if it
        prints more than the geometry holds. The contents stay as they were then.
        """
        octets = _run(self._command, b"", limit_bytes=self._geometry.total_bytes, timeout_s=self._timeout_s)
        if not octets:
            raise FlashError(f"`{' '.join(self._command)}` printed nothing", code="command")
        self._contents = bytearray(octets.ljust(self._geometry.total_bytes, bytes([ERASED])))
        self._programmed = False
        self.length_bytes = len(octets)

    def finish(self, length_bytes: int) -> bool:
        """Hand the first `length_bytes` to the restore command if anything was programmed or erased; True if so.

        Raises FlashError: `read-only` without a restore command, else as `load`; it may be called again then.
        """
        check_range(self._geometry, 0, length_bytes)
        if not self._programmed:
            return False
        if not self._restore:
            raise FlashError(
                f"what `{self._command[0]}` prints cannot be put back",
                code="read-only",
                hint="name a `restore` command in the layout",
            )
        _run(self._restore, bytes(self._contents[:length_bytes]), limit_bytes=None, timeout_s=self._timeout_s)
        self._programmed = False
        self.length_bytes = length_bytes
        return True

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        check_range(self._geometry, offset_bytes, length_bytes)
        return bytes(self._contents[offset_bytes : offset_bytes + length_bytes])

    def program(self, offset_bytes: int, octets: bytes) -> None:
        check_range(self._geometry, offset_bytes, len(octets))
        self._programmed = True
        self._contents[offset_bytes : offset_bytes + len(octets)] = octets

    def erase(self, offset_bytes: int) -> None:
        block = erase_block_from(self._geometry, offset_bytes)
        self._programmed = True
        self._contents[block.offset_bytes : block.end_bytes] = _erased(block.size_bytes)


def _erased(count: int) -> bytearray:
    return bytearray([ERASED]) * count


def _run(command: tuple[str, ...], octets: bytes, *, limit_bytes: int | None, timeout_s: float) -> bytes:
    """Give the command `octets` on its standard input; what it prints, at most `limit_bytes` (None: not looked at)."""
    name = " ".join(command)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL if limit_bytes is None else subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that its children can be ended with it
        )
    except OSError as error:
        raise FlashError(f"`{name}` cannot be run: {error.strerror}", code="command") from error
    assert process.stdin is not None and process.stderr is not None
    complaints = bytearray()
    # A command may print before it has read everything, so each pipe has its own thread.
    threads = [
        threading.Thread(target=_feed, args=(process.stdin, octets), daemon=True),
        threading.Thread(target=_keep_end, args=(process.stderr, complaints), daemon=True),
    ]
    timer = threading.Timer(timeout_s, _kill, (process,))
    timer.daemon = True
    for thread in (*threads, timer):
        thread.start()
    try:
        output = b"" if process.stdout is None or limit_bytes is None else _read(process.stdout, limit_bytes)
        code = process.wait()
        timed_out = timer.finished.is_set()
    finally:
        timer.cancel()
        if process.poll() is None:
            _kill(process)
            process.wait()
        for thread in threads:
            thread.join(timeout=1)  # no longer: what the command left running may hold the pipe open
    if len(output) > (limit_bytes or 0):
        raise FlashError(
            f"`{name}` printed more than {limit_bytes} bytes",
            code="too-big",
            hint="give its component a larger `size` in the layout",
        )
    if code != 0 and timed_out:
        raise FlashError(f"`{name}` did not end within {timeout_s:g} s", code="command", retry=True)
    if code != 0:
        said = bytes(complaints).decode(errors="replace").strip()
        raise FlashError(f"`{name}` failed with exit status {code}: {said or 'it said nothing'}", code="command")
    return output


def _read(stdout: IO[bytes], limit_bytes: int) -> bytes:
    """All of it, or one byte more than the limit; closing the pipe then ends the command."""
    with stdout:
        return stdout.read(limit_bytes + 1)


def _feed(stdin: IO[bytes], octets: bytes) -> None:
    """What the command does not care to read is no error: its exit status tells."""
    with contextlib.suppress(OSError):
        stdin.write(octets)
    with contextlib.suppress(OSError):
        stdin.close()


def _keep_end(stderr: IO[bytes], complaints: bytearray) -> None:
    with contextlib.suppress(OSError), stderr:
        while piece := stderr.read(MAX_STDERR_BYTES):
            complaints += piece
            del complaints[:-MAX_STDERR_BYTES]


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End it and its children; no error if they have ended."""
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
