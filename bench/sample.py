# SPDX-License-Identifier: Apache-2.0
"""What one client process measures of itself, as the line of JSON that it prints."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One transfer: by the clock, and by the processor of the client's process; flash: what the simulated chip took of
    both. Bytes are those given to and taken from sockets, headers of UDP, TCP and below not counted; payload is what
    was wanted.

    started_s: when the first packet was sent, by time.perf_counter(), which all processes of a host share on Linux.
    complete: false if a time limit ended it; payload is then what had come. block_bytes_sent: payload of all blocks
    that the sender says it sent, 0 where it does not say.
    """

    seconds: float
    cpu_s: float
    flash_s: float = 0.0
    flash_cpu_s: float = 0.0
    sent_bytes: int
    received_bytes: int
    payload_bytes: int
    started_s: float = 0.0
    complete: bool = True
    block_bytes_sent: float = 0.0


def print_sample(sample: Sample) -> None:
    print(json.dumps(asdict(sample) | {"peak_bytes": peak_bytes("self")}))


def peak_bytes(pid: int | str) -> int:
    """Peak resident memory of a running process, and what its children have now besides what they share with it.

    VmHWM rather than ru_maxrss, which on Linux a child inherits from the process that forked it (getrusage(2)). 0 where
    the platform does not tell.
    """
    if sys.platform != "linux":
        return 0
    own = (f"/proc/{child}/smaps_rollup" for child in children(pid))
    return _kib(f"/proc/{pid}/status", "VmHWM:") + sum(_kib(path, "Private_Clean:", "Private_Dirty:") for path in own)


def children(pid: int | str) -> list[str]:
    """Of a running process (proc(5): needs CONFIG_PROC_CHILDREN). Linux."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [child for some in lists for child in some.read_text(encoding="ascii").split()]


def _kib(path: str, *names: str) -> int:
    """The sum of these lines, in bytes; 0 of a process that ended."""
    with suppress(OSError):
        lines = (line.split() for line in Path(path).read_text(encoding="ascii", errors="replace").splitlines())
        return sum(int(words[1]) << 10 for words in lines if words[0] in names)
    return 0
