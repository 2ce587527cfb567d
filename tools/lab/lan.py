# SPDX-License-Identifier: Apache-2.0
"""A LAN of two: a network namespace that is the owner's PC, and a TAP in it, whose other end is the gateway's card.

Loss is made by nftables, which drops silently; few frames at once by the TAP's queue. Wants Linux and root. No traffic
leaves the namespace, and it is gone when the `with` is left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tools.lab.steps import run

TAP = "tap0"
QUEUE_FRAMES = 1000
"""The TAP's own default."""
_DROP = "type filter hook {hook} device {tap} priority 0; numgen random mod 10000 < {part:.0f} counter drop;"


def why_not() -> str | None:
    """What this machine lacks, in words; None if nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "a TAP in a network namespace wants Linux, and root"
    missing = [name for name in ("ip", "nft") if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    return f"missing: {', '.join(missing)} (Debian packages: iproute2, nftables)" if missing else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lan:
    namespace: str

    def command(self, *words: str | Path) -> list[str]:
        """What runs this command on the PC; it becomes the command itself, with the same process id (ip-netns(8))."""
        return ["ip", "netns", "exec", self.namespace, *map(str, words)]

    def run(self, *words: str | Path) -> str:
        """Run a command on the PC to its end. Raises LabError."""
        return run([*self.command(*words)], folder=Path.cwd())

    def lose(self, part: float) -> None:
        """From now on lose this part of the frames, at random, each way; 0: none."""
        chains = "".join(
            f"chain {hook} {{ {_DROP.format(hook=hook, tap=TAP, part=part * 10000)} }}\n"
            for hook in ("ingress", "egress")
        )
        rules = f"table netdev loss {{}}\ndelete table netdev loss\ntable netdev loss {{\n{chains}}}\n"
        subprocess.run(self.command("nft", "-f", "-"), input=rules, text=True, check=True, capture_output=True)


@contextlib.contextmanager
def lan(*addresses: str, queue_frames: int = QUEUE_FRAMES) -> Iterator[Lan]:
    """addresses: of the PC, with the length of their prefix. queue_frames: what the gateway's card takes at once."""
    made = Lan(namespace=f"unbrickd-lab-{os.getpid()}")
    here = Path.cwd()
    run(["ip", "netns", "add", made.namespace], folder=here)
    try:
        ip = ["ip", "-n", made.namespace]
        run([*ip, "link", "set", "lo", "up"], folder=here)
        run([*ip, "tuntap", "add", "dev", TAP, "mode", "tap"], folder=here)
        for address in addresses:
            run([*ip, "address", "add", address, "dev", TAP], folder=here)
        run([*ip, "link", "set", TAP, "up", "txqueuelen", str(queue_frames)], folder=here)
        yield made
    finally:
        run(["ip", "netns", "delete", made.namespace], folder=here)
