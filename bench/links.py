# SPDX-License-Identifier: Apache-2.0
"""A link of a given rate, round trip, loss and queue, between two hosts of this machine: two network namespaces.

Where the kernel has them, `tc tbf` and `tc netem` make the link, `tc tbf` alone one that has a rate and no more; else
bench/linkemu.c does. Linux only, as root. No
traffic leaves the namespaces. Knows nothing of what is sent over the link.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from bench.compiled import compiled
from bench.processes import program

ETHERNET_HEADER_BYTES = 14
ETHERNET_BYTES = 38
"""Preamble 8, header 14, FCS 4, gap 12 (IEEE 802.3): what each IP packet costs the link besides itself."""
BLOCK_BYTES, BLOCK_HEADERS_BYTES = 1400, 52
"""Of the payload limit: IPv4 20, UDP 8, unbrickd's message header 16 and DataBlock 8 (spec/protocol.md §2, §4.11)."""
PC_ADDRESS, DEVICE_ADDRESS = "10.77.0.1", "10.77.0.2"
DEVICE = "link0"
SEND_QUEUE_PACKETS = 10_000
"""Between a host and the emulator, so that packets are dropped by the link and nowhere before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """rate_mbit: 0 is no link at all, but one host's loopback. loss: probability, each direction.

    queue_bytes: drop tail, before the link, each direction. ring_frames and service_us: the device's network card, 0 if
    it keeps up.
    """

    rate_mbit: float
    rtt_ms: float = 0.0
    loss: float = 0.0
    queue_bytes: int = 128 << 10
    jitter_ms: float = 0.0
    ring_frames: int = 0
    service_us: float = 0.0

    @property
    def is_loopback(self) -> bool:
        return self.rate_mbit == 0

    @property
    def coalesce_us(self) -> int:
        """Of a fast card's interrupts; four packets at 1 Gbit/s. Without it the emulator takes most of a processor."""
        return 50 if self.rate_mbit >= 1000 and not self.ring_frames else 0

    @property
    def limit_bytes_per_s(self) -> float:
        """The payload that fits through, by the definition that all figures are shares of; 0 for loopback."""
        if self.is_loopback:
            return 0.0
        framed = BLOCK_BYTES + BLOCK_HEADERS_BYTES + ETHERNET_BYTES
        limit = self.rate_mbit * 1e6 / 8 * BLOCK_BYTES / framed * (1 - self.loss)
        if self.ring_frames:
            limit = min(limit, BLOCK_BYTES * 1e6 / self.service_us)
        return limit

    def __str__(self) -> str:
        if self.is_loopback:
            return "loopback, unshaped"
        text = (
            f"{self.rate_mbit:g} Mbit/s, {self.rtt_ms:g} ms, {self.loss:.0%} loss, queue {self.queue_bytes >> 10} KiB"
        )
        return f"{text}, ring {self.ring_frames} × {self.service_us:g} µs" if self.ring_frames else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One end: a namespace, its address on the link, and the name of its interface. Without a namespace: here.

    header_bytes: what the interface counts of each packet besides IP.
    """

    namespace: str
    address: str
    interface: str
    header_bytes: int = 0

    def command(self, *arguments: str | Path) -> list[str]:
        """What runs this command there; it becomes the command itself, with the same process id (ip-netns(8))."""
        return [*(("ip", "netns", "exec", self.namespace) if self.namespace else ()), *map(str, arguments)]

    def sent(self) -> tuple[int, int]:
        """Packets and bytes (IP and above) that this host gave to the link."""
        told = run("ip", "-json", "-stats", "-netns", self.namespace, "link", "show", "dev", self.interface)
        counted = json.loads(told)[0]["stats64"]["tx"]
        packets = int(counted["packets"])
        return packets, int(counted["bytes"]) - packets * self.header_bytes


@dataclass(slots=True, kw_only=True)
class Hosts:
    """counters: what the emulator counted, a row for each direction; filled in when the link is closed."""

    pc: Host
    device: Host
    counters: dict[str, dict[str, int]] = field(default_factory=dict)


def unshaped() -> Hosts:
    """One host, without a namespace, so that nobody need be root."""
    host = Host(namespace="", address="127.0.0.1", interface="lo")
    return Hosts(pc=host, device=host)


def why_not() -> str | None:
    """What this machine lacks for links, in words; None if nothing."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces want Linux, and root"
    missing = [name for name in ("ip", "tc", "cc") if program(name) is None]
    if missing:
        return f"missing: {', '.join(missing)} (Debian packages: iproute2, gcc, libc6-dev)"
    return None


@contextlib.contextmanager
def opened(link: Link, *, seed: int, folder: Path) -> Iterator[Hosts]:
    """The link and the hosts at its ends, from ready to gone. folder: where the emulator is compiled."""
    with contextlib.ExitStack() as stack:
        names = [stack.enter_context(_namespace(f"unbrickd-{os.getpid()}-{side}")) for side in ("pc", "device")]
        if link.is_loopback:
            host = Host(namespace=names[0], address="127.0.0.1", interface="lo")
            yield Hosts(pc=host, device=host)
            return
        is_plain = not (link.rtt_ms or link.jitter_ms or link.loss or link.ring_frames)
        in_kernel = (is_plain or kernel_has("netem")) and kernel_has(*_TBF_TRIED) and not link.ring_frames
        header_bytes = ETHERNET_HEADER_BYTES if in_kernel else 0
        hosts = Hosts(
            pc=Host(namespace=names[0], address=PC_ADDRESS, interface=DEVICE, header_bytes=header_bytes),
            device=Host(namespace=names[1], address=DEVICE_ADDRESS, interface=DEVICE, header_bytes=header_bytes),
        )
        if in_kernel and is_plain:
            _join_cards(link, hosts)
        elif in_kernel:
            stack.enter_context(_netem(link, hosts))
        else:
            stack.enter_context(_emulator(link, hosts, seed=seed, folder=folder))
        yield hosts


def run(*command: str | Path) -> str:
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def _namespace(name: str) -> Iterator[str]:
    run("ip", "netns", "add", name)
    try:
        run("ip", "-netns", name, "link", "set", "lo", "up")
        yield name
    finally:
        run("ip", "netns", "delete", name)


def _configure(host: Host, other: Host) -> None:
    in_namespace = ("ip", "-netns", host.namespace)
    run(*in_namespace, "link", "set", DEVICE, "txqueuelen", str(SEND_QUEUE_PACKETS), "up")
    run(*in_namespace, "address", "add", host.address, "peer", other.address, "dev", DEVICE)


# In user space


def emulator_options(link: Link, *, seed: int) -> list[str]:
    return [
        f"rate_mbit={link.rate_mbit}",
        f"rtt_ms={link.rtt_ms}",
        f"loss={link.loss}",
        f"queue_bytes={link.queue_bytes}",
        f"jitter_ms={link.jitter_ms}",
        f"ring_frames={link.ring_frames}",
        f"service_us={link.service_us}",
        f"coalesce_us={link.coalesce_us}",
        f"overhead_bytes={ETHERNET_BYTES}",
        f"seed={seed}",
    ]


@contextlib.contextmanager
def _emulator(link: Link, hosts: Hosts, *, seed: int, folder: Path) -> Iterator[None]:
    namespaces = (hosts.pc.namespace, hosts.device.namespace)
    command = [str(compiled("linkemu", folder)), *namespaces, DEVICE, *emulator_options(link, seed=seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as emulator:
        assert emulator.stdout is not None
        try:
            if emulator.stdout.readline() != "ready\n":
                sys.exit("the link emulator does not start")
            _configure(hosts.pc, hosts.device)
            _configure(hosts.device, hosts.pc)
            yield
        finally:
            emulator.terminate()
            told = emulator.stdout.read()
    counted = json.loads(told)
    hosts.counters |= {"to_device": counted["a_to_b"], "to_pc": counted["b_to_a"]}


# In the kernel


_TBF_TRIED = ("tbf", "rate", "1mbit", "burst", "2kb", "limit", "10kb")


@cache
def kernel_has(*qdisc: str) -> bool:
    """Tried, in a namespace of its own: the modules may be built in, there to be loaded, or neither."""
    with _namespace(f"unbrickd-{os.getpid()}-try") as name:
        command = ["tc", "-netns", name, "qdisc", "replace", "dev", "lo", "root", *qdisc]
        return not subprocess.run(command, capture_output=True, check=False).returncode


def kernel_has_netem() -> bool:
    return kernel_has("netem") and kernel_has(*_TBF_TRIED)


def _join_cards(link: Link, hosts: Hosts) -> None:
    """Two network cards and a cable: each host's queue is before its card, so that a full one makes its senders wait.

    Datagrams go as they are handed over, many at once (UDP_SEGMENT), as to a card that segments. tbf counts the headers
    of each but not the rest of Ethernet's framing; so the rate is less by as much as that is of a block.
    """
    counted = BLOCK_BYTES + BLOCK_HEADERS_BYTES + ETHERNET_HEADER_BYTES
    rate_bit = link.rate_mbit * 1e6 * counted / (counted - ETHERNET_HEADER_BYTES + ETHERNET_BYTES)
    peer = ("type", "veth", "peer", "name", DEVICE, "netns", hosts.device.namespace)
    run("ip", "-netns", hosts.pc.namespace, "link", "add", DEVICE, *peer)
    _configure(hosts.pc, hosts.device)
    _configure(hosts.device, hosts.pc)
    burst_bytes = max(1600, int(link.rate_mbit * 125))
    shape = ("tbf", "rate", f"{rate_bit:.0f}bit", "burst", f"{burst_bytes}b", "limit", f"{link.queue_bytes}b")
    for host in (hosts.pc, hosts.device):
        run("tc", "-netns", host.namespace, "qdisc", "replace", "dev", DEVICE, "root", *shape)


def netem_commands(link: Link, *, sender: str, middle: str, to_sender: str, to_receiver: str) -> list[list[str]]:
    """One direction. Rate and drop-tail queue where it is sent, delay and loss in the middle (tc-tbf(8), tc-netem(8)).

    A virtual Ethernet device counts the header itself; tc-stab(8) adds the rest of the framing.
    """
    burst_bytes = max(1600, int(link.rate_mbit * 125))  # 1 ms of the link: coarser timers than that are rare
    shape = [
        "stab",
        "overhead",
        str(ETHERNET_BYTES - ETHERNET_HEADER_BYTES),
        "root",
        "tbf",
        "rate",
        f"{link.rate_mbit:g}mbit",
    ]
    queue = ["burst", f"{burst_bytes}b", "limit", f"{link.queue_bytes}b"]
    mean_us, spread_us = (link.rtt_ms + link.jitter_ms) * 500, link.jitter_ms * 500
    delay = ["root", "netem", "limit", "100000", "delay", f"{mean_us:g}us", f"{spread_us:g}us"]
    return [
        ["tc", "-netns", sender, "qdisc", "replace", "dev", to_sender, *shape, *queue],
        ["tc", "-netns", middle, "qdisc", "replace", "dev", to_receiver, *delay, "loss", f"{link.loss * 100:g}%"],
    ]


@contextlib.contextmanager
def _netem(link: Link, hosts: Hosts) -> Iterator[None]:
    """A third namespace between the hosts bridges two pairs of virtual Ethernet devices."""
    with _namespace(f"unbrickd-{os.getpid()}-middle") as middle:
        run("ip", "-netns", middle, "link", "add", "bridge0", "type", "bridge")
        run("ip", "-netns", middle, "link", "set", "bridge0", "up")
        ports = {"pc": hosts.pc, "device": hosts.device}
        for port, host in ports.items():
            ends = ("add", DEVICE, "netns", host.namespace, "gso_max_segs", "1", "type", "veth", "peer", "name", port)
            run("ip", "-netns", middle, "link", *ends, "netns", middle)
            run("ip", "-netns", middle, "link", "set", port, "master", "bridge0", "up")
        _configure(hosts.pc, hosts.device)
        _configure(hosts.device, hosts.pc)
        for sender, receiver in (("pc", "device"), ("device", "pc")):
            names = {"sender": ports[sender].namespace, "middle": middle, "to_sender": DEVICE, "to_receiver": receiver}
            for command in netem_commands(link, **names):
                run(*command)
        yield
