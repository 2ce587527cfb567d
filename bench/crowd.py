# SPDX-License-Identifier: Apache-2.0
"""Devices in several processes that begin at the same instant: the clients of bench/street.h."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack

from bench.processes import Figures


def parts(devices: int) -> list[range]:
    """Of a street, a part for each processor, so that they do not wait for one."""
    count = min(os.cpu_count() or 1, devices)
    return [range(devices * n // count, devices * (n + 1) // count) for n in range(count)]


def at_once(*commands: list[str]) -> tuple[list[float | None], Figures]:
    """Run these clients: the seconds of each device, None if it was not done, and what they say of themselves, summed.

    elapsed_s is from the first beginning to the last end. Ends the benchmark if a client fails.
    """
    with ExitStack() as stack:
        clients = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for command in commands
        ]
        for client in clients:
            assert client.stdout is not None
            client.stdout.readline()  # "ready"; nothing, if it failed
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("\n")
            client.stdin.flush()
        said = [client.communicate()[0] for client in clients]
    for client, command in zip(clients, commands, strict=True):
        if client.returncode:
            sys.exit(f"failed: {' '.join(command)}")
    told = [json.loads(line) for line in said]
    seconds = [s for each in told for s in each.pop("seconds")]
    first_us, last_us = min(t.pop("started_us") for t in told), max(t.pop("ended_us") for t in told)
    sums: Counter[str] = Counter()
    for each in told:
        sums.update(each)
    return seconds, {**sums, "elapsed_s": (last_us - first_us) / 1e6}
