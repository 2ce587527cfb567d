# SPDX-License-Identifier: Apache-2.0
"""`python -m bench loopback`: backup and restore over loopback beside TFTP and HTTP, on the same bytes in the same run.

Writes loopback.json and loopback.svg. What is measured, and what is not: bench/README.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import socket
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench import device_in_c
from bench.arguments import ERASE_BLOCK_BYTES, count, image_size
from bench.compiled import CORE_NEEDS
from bench.machine import commit, machine
from bench.peers import HttpServer, TftpServer
from bench.picture import draw
from bench.processes import Figures, Usage, free_port, is_here, python, run_client, running, says_ready
from bench.street_cargo import build
from unbrickd import __version__
from unbrickd.seal.identity import FirmwarePolicy
from unbrickd.sim.default_layout import default_layout
from unbrickd.sim.gateway import NewFirmware, VirtualGateway, create, new_identity

OTHER_PARTITIONS_BYTES = 576 << 10
"""Bootloader, identity, boot record and configuration of the default layout with such erase blocks."""
REPAIRED_ERASE_BLOCKS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One bar of the picture. server: a fresh one for each run; client: measured, inside of it.

    idle_cpu_s: what the server uses to start and to end; None if the processor's time cannot be told for it.
    """

    name: str
    server: Callable[[], AbstractContextManager[Usage]]
    client: Callable[[], Figures]
    idle_cpu_s: float | None


class Bench:
    """Files, gateways and servers in one temporary folder."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self._folder = folder
        self._size_bytes = size_bytes
        self._blocks = size_bytes // ERASE_BLOCK_BYTES
        self._served = folder / "served"
        self._served.mkdir(mode=0o755)
        self._firmware = self._served / "firmware.bin"
        self._firmware.write_bytes(random.Random(20100520).randbytes(size_bytes))
        self._ports = {"udp": free_port(socket.SOCK_DGRAM), "tcp": free_port(socket.SOCK_STREAM)}
        self._new_stores = 0
        self.tftp = TftpServer(self._served)
        self.http = HttpServer(self._served)
        for transport in self._ports:
            self._make_gateway(transport)

    def cases(self) -> list[Case]:
        return [
            *self._restore_in_c(),
            *(self._restore(transport) for transport in self._ports),
            self._tftp("restore: TFTP", "get"),
            Case(
                name="restore: HTTP",
                server=self.http.running,
                client=lambda: run_client("bench.http_get", str(self.http.port), self._firmware),
                idle_cpu_s=idle_cpu_s(self.http.running),
            ),
            *(self._backup(transport) for transport in self._ports),
            self._tftp("backup: TFTP", "put"),
        ]

    def repair(self) -> Figures:
        """Bytes moved to heal a few erase blocks, and to restore all of them."""
        moved: Figures = {}
        for name, damaged in (("repaired", REPAIRED_ERASE_BLOCKS), ("full", self._blocks)):
            with self._server("udp", self._folder / "store-udp"):
                figures = self._device("restore", "udp", "--damage", str(damaged))
            moved[f"{name}_erase_blocks"] = damaged
            moved[f"{name}_moved_bytes"] = figures["sent_bytes"] + figures["received_bytes"]
            moved[f"{name}_seconds"] = figures["seconds"]
        moved["part_of_full"] = moved["repaired_moved_bytes"] / moved["full_moved_bytes"]
        return moved

    def _make_gateway(self, transport: str) -> None:
        """And back it up once, so that there is something to restore."""
        layout = default_layout(
            model="bench-1",
            size_bytes=self._size_bytes + OTHER_PARTITIONS_BYTES,
            erase_block_bytes=ERASE_BLOCK_BYTES,
            servers=(f"127.0.0.1:{self._ports[transport]}",),
            transport=transport,
        )
        create(
            self._folder / transport,
            layout,
            identity=new_identity("bench-1", FirmwarePolicy.OWNER),
            firmware=NewFirmware(octets=self._firmware.read_bytes(), version="1"),
            config=b"option hostname 'bench'\n" * 100,
        )
        with self._server(transport, self._folder / f"store-{transport}"):
            self._device("backup", transport)

    def _server(self, transport: str, store: Path) -> AbstractContextManager[Usage]:
        options = [f"--{transport}", f"127.0.0.1:{self._ports[transport]}", "--store", str(store)]
        return running(python("-m", "unbrickd", "serve", *options, "--log-level", "error"), ready=says_ready)

    def _device(self, what: str, transport: str, *options: str) -> Figures:
        figures = run_client("bench.device", what, self._folder / transport, *options)
        if what == "restore":
            with VirtualGateway(self._folder / transport) as gateway:
                assert gateway.component_bytes("firmware") == self._firmware.read_bytes(), "the restore is wrong"
        return figures

    def _restore(self, transport: str) -> Case:
        def server() -> AbstractContextManager[Usage]:
            return self._server(transport, self._folder / f"store-{transport}")

        return Case(
            name=f"restore: unbrickd {transport.upper()}",
            server=server,
            client=lambda: self._device("restore", transport, "--damage", str(self._blocks)),
            idle_cpu_s=idle_cpu_s(server),
        )

    def _restore_in_c(self) -> list[Case]:
        """None where there is no compiler. Its flash is memory."""
        if not all(map(is_here, CORE_NEEDS)):
            return []
        street = build(self._folder / "street", devices=1, octets=self._firmware.read_bytes())
        port = self._ports["udp"]

        def server() -> AbstractContextManager[Usage]:
            return self._server("udp", street.store)

        def client() -> Figures:
            return device_in_c.restore(street, "127.0.0.1", port) | {"flash_s": 0.0, "flash_cpu_s": 0.0}

        name = "restore: unbrickd UDP, C"
        return [Case(name=name, server=server, client=client, idle_cpu_s=idle_cpu_s(server))]

    def _backup(self, transport: str) -> Case:
        def server() -> AbstractContextManager[Usage]:
            self._new_stores += 1
            return self._server(transport, self._folder / f"new-store-{self._new_stores}")

        return Case(
            name=f"backup: unbrickd {transport.upper()}",
            server=server,
            client=lambda: self._device("backup", transport),
            idle_cpu_s=idle_cpu_s(server),
        )

    def _tftp(self, name: str, what: str) -> Case:
        return Case(
            name=name,
            server=self.tftp.running,
            client=lambda: run_client("bench.tftp", what, str(self.tftp.port), self._firmware),
            idle_cpu_s=idle_cpu_s(self.tftp.running) if self.tftp.tells_cpu else None,
        )


def idle_cpu_s(server: Callable[[], AbstractContextManager[Usage]]) -> float:
    """What a server uses to start and to end, which is no part of a transfer's cost."""
    samples = []
    for _ in range(3):
        with server() as usage:
            pass
        samples.append(usage.cpu_s)
    return statistics.median(samples)


def measure(case: Case) -> Figures:
    with case.server() as usage:
        figures = case.client()
    payload = figures["payload_bytes"]
    measured = {
        "seconds": figures["seconds"],
        "seconds_without_flash": figures["seconds"] - figures["flash_s"],
        "mb_per_s": payload / figures["seconds"] / 1e6,
        "mb_per_s_without_flash": payload / (figures["seconds"] - figures["flash_s"]) / 1e6,
        "bytes_sent_per_byte_delivered": (figures["sent_bytes"] + figures["received_bytes"]) / payload,
        "device_cpu_s_per_gb": (figures["cpu_s"] - figures["flash_cpu_s"]) / payload * 1e9,
        "server_peak_mib": usage.peak_bytes / (1 << 20),
    }
    if "peak_bytes" in figures:
        measured["device_peak_mib"] = figures["peak_bytes"] / (1 << 20)
    if case.idle_cpu_s is not None:
        measured["server_cpu_s_per_gb"] = max(0.0, usage.cpu_s - case.idle_cpu_s) / payload * 1e9
    return measured


def ratios(medians: dict[str, Figures]) -> dict[str, Figures]:
    """Unbrickd's figure to each peer's of the same direction."""
    found: dict[str, Figures] = {}
    for ours, own in medians.items():
        direction, _, name = ours.partition(": ")
        for theirs, other in medians.items():
            if name.startswith("unbrickd") and theirs.startswith(direction) and "unbrickd" not in theirs:
                found[f"{ours} / {theirs.partition(': ')[2]}"] = {
                    key: own[key] / other[key] for key in own if other.get(key, 0.0) > 0
                }
    return found


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench loopback", description=__doc__)
    parser.add_argument("--runs", type=count, default=5, metavar="N", help="of each case; default: %(default)s")
    parser.add_argument("--size", type=image_size, default="16MiB", metavar="SIZE", help="default: %(default)s")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results", metavar="DIR", help="default: bench/results"
    )
    args = parser.parse_args(arguments)
    if args.size < REPAIRED_ERASE_BLOCKS * ERASE_BLOCK_BYTES:
        parser.error(f"--size: at least the {REPAIRED_ERASE_BLOCKS} erase blocks that are repaired")
    with tempfile.TemporaryDirectory(prefix="unbrickd-bench-") as folder:
        bench = Bench(Path(folder), args.size)
        cases = bench.cases()
        raw: dict[str, list[Figures]] = {case.name: [] for case in cases}
        measured_on = machine()
        for turn in range(args.runs):  # in turns, so that what else the machine does hits all alike
            for case in cases:
                figures = measure(case)
                raw[case.name].append(figures)
                print(f"{turn + 1}/{args.runs}  {case.name:24} {figures['mb_per_s']:8.1f} MB/s", file=sys.stderr)
        repair = bench.repair()
        versions = {"unbrickd": __version__, "commit": commit(), "TFTP": bench.tftp.name, "HTTP": bench.http.name}
    medians = {
        name: {key: statistics.median(f[key] for f in figures) for key in figures[0]} for name, figures in raw.items()
    }
    result = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": measured_on,
        "versions": versions,
        "size_bytes": args.size,
        "runs": args.runs,
        "medians": medians,
        "ratios": ratios(medians),
        "repair": repair,
        "raw": raw,
    }
    args.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, default=float)
    (args.output / "loopback.json").write_text(text + "\n", encoding="utf-8")
    size_mib = args.size // (1 << 20)
    caption = f"{size_mib} MiB over loopback, medians of {args.runs} runs; {versions['TFTP']}, {versions['HTTP']}"
    (args.output / "loopback.svg").write_text(draw(medians, caption=caption), encoding="utf-8")
    print_table(medians)
    print(f"repair of {REPAIRED_ERASE_BLOCKS} erase blocks: {repair['part_of_full']:.2%} of the bytes of all of it")


def print_table(medians: dict[str, Figures]) -> None:
    heads = ("MB/s", "without flash", "bytes/byte", "server s/GB", "device s/GB", "server MiB", "device MiB")
    keys = (
        *("mb_per_s", "mb_per_s_without_flash", "bytes_sent_per_byte_delivered"),
        *("server_cpu_s_per_gb", "device_cpu_s_per_gb", "server_peak_mib", "device_peak_mib"),
    )
    print(f"{'':24}" + "".join(f"{head:>14}" for head in heads))
    for name, figures in medians.items():
        print(f"{name:24}" + "".join(f"{figures[key]:14.3f}" if key in figures else f"{'?':>14}" for key in keys))
