# SPDX-License-Identifier: Apache-2.0
"""Who carries a file over a link, and how it is measured: unbrickd both ways, and what users have instead.

Each checks every byte of what arrived. Knows links and servers, not what counts as good.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench import device_in_c
from bench.arguments import ERASE_BLOCK_BYTES
from bench.compiled import CORE_NEEDS
from bench.links import Hosts, Link, opened, run
from bench.peers import NGINX
from bench.processes import (
    Figures,
    Usage,
    cpu_seconds,
    is_here,
    listens,
    program,
    python,
    run_client,
    running,
    says_ready,
)
from bench.street_cargo import build
from unbrickd.seal.identity import FirmwarePolicy
from unbrickd.sim.default_layout import default_layout
from unbrickd.sim.gateway import NewFirmware, create, new_identity

OTHER_PARTITIONS_BYTES = 1 << 20
"""More than bootloader, identity, boot record and configuration of the default layout take with such erase blocks."""
PORT = 21530
OUR_PATIENCE_S = 60.0
FLOW_BYTES = 64 << 30
FLOW_LEAD_S = 1.0
"""Head start of the TCP flow that is to be beside us, so that it has found its rate."""
UFTP_RATE = 0.95
"""uftp is told its rate by hand: this part of the link's, because it does not count Ethernet's framing."""


class Cargo:
    """A file and a gateway that runs it, backed up once, and the same for a device in C, all in one folder."""

    def __init__(self, folder: Path, octets: bytes) -> None:
        self.folder = folder
        self.size_bytes = len(octets)
        self.digest = hashlib.sha256(octets).digest()
        self.served = folder / "served"
        self.served.mkdir(parents=True)
        self.firmware = self.served / "firmware.bin"
        self.firmware.write_bytes(octets)
        with (self.served / "flow.bin").open("wb") as flow:
            flow.truncate(FLOW_BYTES)
        self.street = build(folder / "street", devices=1, octets=octets)
        self.gateway, self.store = folder / "gateway", folder / "store"
        layout = default_layout(
            model="bench-1",
            size_bytes=self.size_bytes + OTHER_PARTITIONS_BYTES,
            erase_block_bytes=ERASE_BLOCK_BYTES,
            servers=(f"127.0.0.1:{PORT}",),
        )
        create(
            self.gateway,
            layout,
            identity=new_identity("bench-1", FirmwarePolicy.OWNER),
            firmware=NewFirmware(octets=octets, version="1"),
            config=b"option hostname 'bench'\n" * 100,
        )
        with opened(Link(rate_mbit=0), seed=0, folder=folder) as hosts, _unbrickd(hosts, self.store):
            run_client("bench.device", "backup", self.gateway, where=hosts.device.command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One transfer to be measured; limit_s: after which a peer stops, and counts with what had come."""

    link: Link
    hosts: Hosts
    cargo: Cargo
    limit_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """headers_bytes: of a data packet, from IP on, to tell its payload; up: from the device to the PC.

    needs: programs, headers and congestion controls of the kernel without which it cannot be measured.
    """

    name: str
    headers_bytes: int
    carry: Callable[[Task], Figures]
    up: bool = False
    needs: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        controls = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text(encoding="ascii").split()
        return [name for name in self.needs if name not in controls and not is_here(name)]

    def measure(self, task: Task) -> Figures:
        """seconds, payload_bytes, complete, bytes_per_s and waste of one transfer.

        Waste is what the link saw, if nothing else is on it; else what unbrickd says of itself.
        """
        sender = task.hosts.device if self.up else task.hosts.pc
        packets, octets = sender.sent()
        figures = self.carry(task)
        if "flow_bytes_per_s" in figures or task.link.is_loopback:
            if figures.get("block_bytes_sent"):
                figures["waste"] = figures["block_bytes_sent"] / figures["payload_bytes"]
        else:
            more_packets, more_octets = sender.sent()
            carried = more_octets - octets - (more_packets - packets) * self.headers_bytes
            figures["waste"] = carried / max(1.0, figures["payload_bytes"])
        figures["bytes_per_s"] = figures["payload_bytes"] / figures["seconds"]
        return figures


@contextmanager
def _cpu(server: Usage, figures: Figures) -> Iterator[None]:
    """Adds what the server's threads use of the processor meanwhile."""
    before_s = cpu_seconds(server.pid)
    yield
    figures["server_cpu_s"] = cpu_seconds(server.pid) - before_s


def _unbrickd(hosts: Hosts, store: Path) -> AbstractContextManager[Usage]:
    options = ("--udp", f"{hosts.pc.address}:{PORT}", "--store", store, "--log-level", "error")
    return running(hosts.pc.command(*python("-m", "unbrickd", "serve", *options)), ready=says_ready)


def _device(task: Task, what: str, *options: str | Path) -> Figures:
    server = ("--plain", "--server", f"{task.hosts.pc.address}:{PORT}")
    figures = run_client(
        "bench.device", what, task.cargo.gateway, *server, *options,
        where=task.hosts.device.command, timeout_s=OUR_PATIENCE_S,
    )  # fmt: skip
    # Delivered is the image; the device counts the document and the configuration too, and what was sent twice.
    return figures | {"payload_bytes": float(task.cargo.size_bytes)}


def restore(task: Task, *, tell_ring: bool = True) -> Figures:
    figures: Figures = {}
    erase_blocks = -(-task.cargo.size_bytes // ERASE_BLOCK_BYTES)
    ring_frames = task.link.ring_frames if tell_ring else 0
    options = ("--damage", str(erase_blocks), "--ring-frames", str(ring_frames), "--expect", task.cargo.firmware)
    with _unbrickd(task.hosts, task.cargo.store) as server, _cpu(server, figures):
        told = _device(task, "restore", *options)
    return figures | told


def restore_in_c(task: Task, *, tell_ring: bool = True) -> Figures:
    figures: Figures = {}
    street, ring_frames = task.cargo.street, task.link.ring_frames if tell_ring else 0
    where = task.hosts.device.command
    with _unbrickd(task.hosts, street.store) as server, _cpu(server, figures):
        told = device_in_c.restore(street, task.hosts.pc.address, PORT, ring_frames=ring_frames, where=where)
    return figures | told


def back_up(task: Task) -> Figures:
    """To a server that holds nothing yet."""
    figures: Figures = {}
    with tempfile.TemporaryDirectory(dir=task.cargo.folder) as store:
        with _unbrickd(task.hosts, Path(store)) as server, _cpu(server, figures):
            told = _device(task, "backup")
        kept = (p for p in Path(store).rglob("*") if p.is_file() and p.stat().st_size == task.cargo.size_bytes)
        if all(hashlib.sha256(path.read_bytes()).digest() != task.cargo.digest for path in kept):
            sys.exit("the server holds no such image")
    return figures | told


def lock_step(task: Task) -> Figures:
    options = ("--foreground", "--secure", "--user", "root", "--address", f"{task.hosts.pc.address}:69")
    command = task.hosts.pc.command(str(program("in.tftpd")), *options, task.cargo.served)
    with running(command, ready=listens("udp", 69)):
        return _tftp(task)


def lock_step_of_dnsmasq(task: Task) -> Figures:
    """Its TFTP only, no DNS and no DHCP."""
    pc = task.hosts.pc
    options = ("--no-daemon", "--conf-file=/dev/null", "--user=root", "--port=0", f"--listen-address={pc.address}")
    tftp = ("--enable-tftp", f"--tftp-root={task.cargo.served}")
    with running(pc.command(str(program("dnsmasq")), *options, *tftp), ready=listens("udp", 69)):
        return _tftp(task)


def windowed_by_atftpd(task: Task) -> Figures:
    """Debian's atftpd is not to be installed beside tftpd-hpa, but runs from where `dpkg-deb -x` put it."""
    pc = task.hosts.pc
    options = ("--daemon", "--no-fork", "--user", "root", "--group", "root", "--bind-address", pc.address)
    command = pc.command(str(program("atftpd")), *options, "--port", "69", task.cargo.served)
    with running(command, ready=listens("udp", 69)):
        return _tftp(task, "--window", "32")


def windowed(task: Task) -> Figures:
    """The bundled server: tftpd-hpa knows no windows."""
    command = python("-m", "bench.tftp", "serve", "69", task.cargo.served, "--host", task.hosts.pc.address)
    with running(task.hosts.pc.command(*command), ready=listens("udp", 69)):
        return _tftp(task, "--window", "32")


def _tftp(task: Task, *options: str) -> Figures:
    common = ("--host", task.hosts.pc.address, "--limit", str(task.limit_s))
    return run_client(
        "bench.tftp", "get", "69", task.cargo.firmware, *common, *options, where=task.hosts.device.command
    )  # fmt: skip


@contextmanager
def _nginx(task: Task, congestion: str) -> Iterator[Usage]:
    """With this congestion control on the route to the device."""
    pc, device = task.hosts.pc, task.hosts.device
    if not task.link.is_loopback:
        route = (f"{device.address}/32", "dev", pc.interface, "src", pc.address, "congctl", congestion)
        run("ip", "-netns", pc.namespace, "route", "replace", *route)
    configuration = task.cargo.folder / "nginx.conf"
    text = NGINX.format(folder=task.cargo.served, host=pc.address, port=80, user="")
    configuration.write_text(text, encoding="utf-8")
    task.cargo.folder.chmod(0o755)
    with running(pc.command(str(program("nginx")), "-c", configuration), ready=listens("tcp", 80)) as server:
        yield server


def tcp(task: Task, congestion: str) -> Figures:
    figures: Figures = {}
    options = ("--host", task.hosts.pc.address, "--limit", str(task.limit_s))
    with _nginx(task, congestion) as server, _cpu(server, figures):
        told = run_client("bench.http_get", "80", task.cargo.firmware, *options, where=task.hosts.device.command)
    return figures | told


def beside_tcp(task: Task) -> Figures:
    """A restore while a TCP download is under way; flow_bytes_per_s is the download's, in that time."""
    flow_command = python("-m", "bench.tcp_flow", task.hosts.pc.address, "80", "flow.bin")
    with _nginx(task, "cubic"):
        flow = subprocess.Popen(task.hosts.device.command(*flow_command), stdout=subprocess.PIPE, text=True)
        try:
            time.sleep(FLOW_LEAD_S)
            figures = restore(task)
        finally:
            flow.send_signal(signal.SIGTERM)
            told, _ = flow.communicate()
    started_s = figures["started_s"]
    figures["flow_bytes_per_s"] = mean_rate(json.loads(told), started_s, started_s + figures["seconds"])
    return figures


def mean_rate(came: list[tuple[float, float]], from_s: float, to_s: float) -> float:
    """Bytes a second between two times; came: (time, bytes so far), oldest first. A silence counts as one."""
    inside = [octets for at_s, octets in came if from_s <= at_s <= to_s]
    return (inside[-1] - inside[0]) / (to_s - from_s) if inside else 0.0


def uftp(task: Task) -> Figures:
    """Its own figure of the time: it leaves out the announcements before the transfer, which it spends a second on."""
    pc, device = task.hosts.pc, task.hosts.device
    with tempfile.TemporaryDirectory(dir=task.cargo.folder) as received:
        receiver = ("uftpd", "-d", "-t", "-q", "-I", device.interface, "-D", received)
        sender = (
            "uftp",
            "-M",
            device.address,
            "-I",
            pc.interface,
            "-R",
            f"{task.link.rate_mbit * 1000 * UFTP_RATE:.0f}",
        )
        with running(device.command(*receiver), ready=listens("udp", 1044)):
            told = subprocess.run(
                pc.command(*sender, "-b", "1400", "-r", "0.05:0.01:1", task.cargo.firmware),
                capture_output=True, text=True, errors="replace", check=False, timeout=OUR_PATIENCE_S,
            )  # fmt: skip
            took = re.search(r"Total elapsed time: ([\d.]+) seconds", told.stderr)
            files = [path.read_bytes() for path in Path(received).iterdir()]
        if took is None or [hashlib.sha256(octets).digest() for octets in files] != [task.cargo.digest]:
            sys.exit("uftp failed")
    return {"seconds": float(took[1]), "payload_bytes": float(task.cargo.size_bytes), "complete": 1.0}


RESTORE = Contender(name="unbrickd restore", headers_bytes=52, carry=restore)
RING_UNTOLD = replace(
    RESTORE, name="unbrickd restore, ring not told", carry=lambda task: restore(task, tell_ring=False)
)
RESTORE_IN_C = replace(RESTORE, name="unbrickd restore, device in C", carry=restore_in_c, needs=CORE_NEEDS)
RING_UNTOLD_IN_C = replace(
    RESTORE_IN_C,
    name="unbrickd restore, device in C, ring not told",
    carry=lambda task: restore_in_c(task, tell_ring=False),
)
BESIDE = replace(RESTORE, name="unbrickd beside TCP", carry=beside_tcp, needs=("nginx",))
BACKUP = Contender(name="unbrickd backup", headers_bytes=52, carry=back_up, up=True)
TFTP = Contender(name="TFTP 1468", headers_bytes=32, carry=lock_step, needs=("in.tftpd",))
DNSMASQ = Contender(name="TFTP 1468, dnsmasq", headers_bytes=32, carry=lock_step_of_dnsmasq, needs=("dnsmasq",))
TFTP_32 = Contender(name="TFTP window 32", headers_bytes=32, carry=windowed)
ATFTPD = Contender(name="TFTP window 32, atftpd", headers_bytes=32, carry=windowed_by_atftpd, needs=("atftpd",))
CUBIC = Contender(name="TCP CUBIC", headers_bytes=52, carry=lambda task: tcp(task, "cubic"), needs=("nginx", "cubic"))
BBR = Contender(name="TCP BBR", headers_bytes=52, carry=lambda task: tcp(task, "bbr"), needs=("nginx", "bbr"))
UFTP = Contender(name="uftp", headers_bytes=52, carry=uftp, needs=("uftp", "uftpd"))
"""IPv4 20, UDP 8, its own header 16 and FILESEG 8 (its protocol.txt §5.2.1, §5.2.11)."""


def versions() -> dict[str, str]:
    """Of the peers that are installed, as Debian names them."""
    packages = ("tftpd-hpa", "dnsmasq-base", "nginx", "uftp", "iproute2")
    if shutil.which("dpkg-query") is None:
        return {}
    asked = ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\n", *packages]
    told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    return dict(line.split(" ", 1) for line in told.splitlines() if " " in line)
