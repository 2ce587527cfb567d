# SPDX-License-Identifier: Apache-2.0
"""Child processes that are measured: what a server used of the machine, and what a client says of itself."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.sample import children, peak_bytes

PATIENCE_S = 60.0
RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024
"""Of ru_maxrss (getrusage(2))."""

Figures = dict[str, float]


@dataclass(slots=True)
class Usage:
    """Of one server process and the children it waited for, from its start to its end."""

    cpu_s: float = 0.0
    peak_bytes: int = 0
    pid: int = 0


def python(*arguments: str | Path) -> list[str]:
    return [sys.executable, *map(str, arguments)]


Where = Callable[..., list[str]]
"""Makes the command that runs a command somewhere; `Host.command` of bench.links is one."""


def here(*arguments: str | Path) -> list[str]:
    return [str(argument) for argument in arguments]


def run_client(*arguments: str | Path, where: Where = here, timeout_s: float | None = None) -> Figures:
    """Run a client of the benchmark; returns the figures it prints. Ends the benchmark if it fails."""
    command = where(*python("-m", *arguments))
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        sys.exit(f"{arguments[0]} is not done after {timeout_s:g} s")
    if done.returncode:
        sys.exit(f"{arguments[0]} failed: {done.stderr.strip()}")
    return {name: float(value) for name, value in json.loads(done.stdout).items()}


@contextmanager
def running(command: list[str], *, ready: Callable[[subprocess.Popen[str]], None]) -> Iterator[Usage]:
    """A server process, from ready to ended; its usage is filled in when the context ends."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    usage = Usage(pid=process.pid)
    try:
        ready(process)
        yield usage
        usage.peak_bytes = peak_bytes(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        if process.returncode is None:
            _, status, resources = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            usage.cpu_s = resources.ru_utime + resources.ru_stime
            usage.peak_bytes = usage.peak_bytes or resources.ru_maxrss * RSS_UNIT_BYTES
        assert process.stdout is not None
        process.stdout.close()


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def says_ready(process: subprocess.Popen[str]) -> None:
    """As `unbrickd serve` does."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("ready "):
        sys.exit("unbrickd serve does not start")


def accepts(port: int) -> Callable[[subprocess.Popen[str]], None]:
    """Ready when it takes TCP connections."""

    def attempt() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    return _waiting(attempt)


def listens(kind: str, port: int) -> Callable[[subprocess.Popen[str]], None]:
    """Ready when its network namespace has a socket on this port; kind: udp or tcp. Linux only (proc(5))."""

    def ready(process: subprocess.Popen[str]) -> None:
        table = Path(f"/proc/{process.pid}/net/{kind}")
        _waiting(lambda: table.exists() and f":{port:04X} " in table.read_text(encoding="ascii"))(process)

    return ready


def answers_tftp(port: int) -> Callable[[subprocess.Popen[str]], None]:
    """Ready when it says that there is no file of a name that there is none of."""

    def attempt() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.settimeout(0.1)
            try:
                probe.sendto(b"\0\1not-there\0octet\0", ("127.0.0.1", port))
                return bool(probe.recv(1024))
            except OSError:
                return False

    return _waiting(attempt)


def _waiting(attempt: Callable[[], bool]) -> Callable[[subprocess.Popen[str]], None]:
    def ready(process: subprocess.Popen[str]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not attempt():
            if process.poll() is not None or time.monotonic() > deadline_s:
                sys.exit(f"{process.args!r} does not start")
            time.sleep(0.02)

    return ready


def cpu_seconds(pid: int) -> float:
    """What the threads of a process and its children that live have used of the processor (proc(5): schedstat, in ns);
    Linux."""
    used_ns = 0
    for thread in (path for each in (pid, *children(pid)) for path in Path(f"/proc/{each}/task").glob("*/schedstat")):
        with suppress(FileNotFoundError):
            used_ns += int(thread.read_text(encoding="ascii").split()[0])
    return used_ns / 1e9


def program(name: str) -> str | None:
    """A daemon, which may lie where users' search paths do not lead."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def is_here(name: str) -> bool:
    """A program, or a header of C."""
    return program(name) is not None or Path("/usr/include", name).is_file()
