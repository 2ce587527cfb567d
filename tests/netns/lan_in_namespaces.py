# SPDX-License-Identifier: Apache-2.0
"""Hosts and cables out of network namespaces, made and left behind by this process alone; only on Linux, as root.

For tests of the whole product on a network that nobody configured: a real `unbrickd serve`, without privileges, in the
namespace of the PC, and a virtual gateway in another.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

PATIENCE_S = 60.0
"""Two devices of one address may wait for the ARP cache of one: 15 to 45 s (base_reachable_time, arp(7)) and 5."""
NOBODY = 65534
TOOLS = ("unshare", "nsenter", "ip", "sysctl", "setpriv", "nft")
UNPRIVILEGED = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all")
UNBRICKD = (sys.executable, "-m", "unbrickd")
STRICT = """
table inet firewall {
  chain in {
    type filter hook input priority 0; policy drop
    iif lo accept
    ct state established,related accept
  }
}
"""
"""Nothing comes in but what answers a flow that this host opened; not even the neighbour discovery of IPv6."""


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def why_not() -> str:
    """Why these tests cannot run here; "" if they can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if lacking:
        return f"not installed: {', '.join(lacking)} (Debian: iproute2 nftables procps util-linux)"
    made = run("unshare", "--net", "ip", "link", "add", "one", "type", "veth", "peer", "name", "two")
    if made.returncode:
        return f"network namespaces cannot be made: {made.stderr.strip()}"
    if run("unshare", "--net", "nft", "add", "table", "inet", "trial").returncode:
        return "the kernel has no nftables"
    if run(*UNPRIVILEGED, *UNBRICKD, "--version").returncode:
        return "another user than root cannot read this Python or this project"
    return ""


class Host:
    """A network namespace, which lives as long as the process in it."""

    def __init__(self, *, has_ipv6: bool = True) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo; exec sleep 600"], stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        self._holder.stdout.readline()
        self.pid = self._holder.pid
        self.sysctl(
            "net.ipv6.conf.default.accept_dad=0",  # a fresh cable has no duplicate to wait for
            *(f"net.ipv6.conf.{which}.disable_ipv6={int(not has_ipv6)}" for which in ("all", "default")),
            *(f"net.ipv4.conf.{which}.rp_filter=0" for which in ("all", "default")),
        )
        self.ip("link set lo up")

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holder.kill()
        self._holder.communicate()

    def inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", *command]

    def run(self, *command: str) -> str:
        result = run(*self.inside(*command))
        assert result.returncode == 0, f"{command}: {result.stderr}"
        return result.stdout

    def sysctl(self, *settings: str) -> None:
        self.run("sysctl", "-q", "-w", *settings)

    def ip(self, words: str) -> None:
        self.run("ip", *words.split())

    def firewall(self, rules: str) -> None:
        self.run("nft", rules)


def cable(one: Host, end: str, other: Host, other_end: str) -> None:
    """Join two hosts; both ends are up, with no address but what the kernel gives them."""
    one.ip(f"link add {end} type veth peer name {other_end} netns /proc/{other.pid}/ns/net")
    one.ip(f"link set {end} up")
    other.ip(f"link set {other_end} up")


def switch(host: Host, *ports: str) -> None:
    """Make a host a bridge between its cables."""
    host.ip("link add switch type bridge stp_state 0 forward_delay 0")
    host.ip("link set switch up")
    for port in ports:
        host.ip(f"link set {port} master switch")


class Server:
    """`unbrickd serve` on a host, by a user without any privilege, with a copy of a store."""

    def __init__(self, host: Host, store: Path, *flags: str) -> None:
        self._process = subprocess.Popen(
            host.inside(*UNPRIVILEGED, *UNBRICKD, "serve", "--store", str(store), *flags),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(store.parent),
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith("ready udp"), self.end()
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        )
        assert set(status["Uid"].split()) == {str(NOBODY)} and int(status["CapEff"], 16) == 0, "it has privileges"

    def end(self) -> str:
        """What it said."""
        self._process.terminate()
        _, said = self._process.communicate(timeout=PATIENCE_S)
        return said


class Restore:
    """A damaged gateway that was switched on; `wait` until it booted."""

    def __init__(self, host: Host, gateway: Path) -> None:
        self._started_s = time.monotonic()
        self._process = subprocess.Popen(
            host.inside(*UNBRICKD, "gateway", "power-on", str(gateway), "--until", "booted", "--json"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(gateway.parent),
        )
        self.said: list[dict[str, object]] = []

    def until(self, event: str) -> None:
        """Wait for an event. Fails if it ends before."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(json.loads(line))
            if self.said[-1]["event"] == event:
                return
        raise AssertionError(f"no {event}: {self.said} {self.end()}")

    def wait(self) -> float:
        """Seconds from power-on until it booted. Raises subprocess.TimeoutExpired."""
        out, error = self._process.communicate(timeout=PATIENCE_S)
        self.said += [json.loads(line) for line in out.splitlines()]
        assert self._process.returncode == 0, f"{self.said} {error}"
        return time.monotonic() - self._started_s

    def end(self) -> str:
        self._process.kill()
        return self._process.communicate()[1]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "UNBRICKD_CONFIG": os.devnull, "HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}


def copied(source: Path, to: Path, *, owner: int) -> Path:
    """A copy of a directory, which `owner` may write to."""
    shutil.copytree(source, to)
    for path in (to, *to.rglob("*")):
        os.chown(path, owner, owner)
    return to
