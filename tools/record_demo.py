# SPDX-License-Identifier: Apache-2.0
"""Runs `unbrickd demo` in a real terminal (a pty) and writes what is on its screen at the end as docs/demo.svg.

    .venv/bin/python -m tools.record_demo

Needs a POSIX system; uses only what the program itself depends on.
"""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios
from pathlib import Path

from rich.text import Text
from tools.recording import draw

COLUMNS, ROWS = 100, 60
TARGET = Path(__file__).parent.parent / "docs" / "demo.svg"


def run_in_terminal(command: list[str]) -> tuple[int, str]:
    """Exit code and everything it wrote, from a child that has a terminal of COLUMNS × ROWS."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES=str(ROWS), COLORTERM="truecolor")
        os.execv(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    written = b""
    while True:
        try:
            octets = os.read(terminal, 65536)
        except OSError:  # Linux reports the end of a pty as EIO
            break
        if not octets:
            break
        written += octets
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), written.decode()


def screen(written: str) -> list[str]:
    """The lines as they stand at the end: a bar that was redrawn (cursor up, erase line) counts once."""
    lines: list[str] = [""]
    row = 0
    at = 0
    while at < len(written):
        for code, move in (("\x1b[1A", -1), ("\x1b[2K", 0), ("\x1b[?25l", 0), ("\x1b[?25h", 0)):
            if written.startswith(code, at):
                row = max(0, row + move)
                if code == "\x1b[2K":
                    lines[row] = ""
                at += len(code)
                break
        else:
            character = written[at]
            at += 1
            if character == "\n":
                row += 1
                if row == len(lines):
                    lines.append("")
            elif character != "\r":
                lines[row] += character
    return lines


def main() -> int:
    code, written = run_in_terminal([str(Path(sys.executable).parent / "unbrickd"), "demo"])
    if code:
        print(written, file=sys.stderr)
        return code
    draw(map(Text.from_ansi, screen(written)), TARGET, title="make demo", columns=COLUMNS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
