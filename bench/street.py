# SPDX-License-Identifier: Apache-2.0
"""`python -m bench street`: a street of devices asks one server at once, over unshaped loopback. Linux only.

Writes street.json. The devices are those of bench/street_client.c, which has checked every byte when it says done.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import tempfile
from pathlib import Path

from bench.goals import MIB, Goal
from bench.links import run
from bench.machine import commit, machine
from bench.processes import Figures, free_port, python, running, says_ready
from bench.sample import peak_bytes
from bench.street_cargo import ERASE_BLOCK_BYTES, Street, build
from unbrickd.model.toml_table import parse_size

LIMIT_S = 100
"""A device that is not done by then has failed."""
SOURCE = Path(__file__).with_name("street_client.c")
CORE = Path(__file__).parents[1] / "c"
OURS = "unbrickd"


def goal(text: str, key: str, most: float) -> Goal:
    return Goal(text=text, measured=lambda medians: medians[OURS][key], at_most=most)


GOALS = (
    goal("no failure", "failures", 0),
    goal("slowest ≤ 1.5 × median", "slowest_of_median", 1.5),
    goal("server memory ≤ 64 MiB", "server_peak_bytes", 64 * MIB),
    goal("server memory ≤ 32 KiB a session", "server_bytes_per_session", 32 << 10),
)


def compiled(folder: Path) -> Path:
    binary = folder / "street_client"
    warnings = ("-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Werror")
    sources = (SOURCE, *sorted(CORE.glob("src/*.c")), *sorted(CORE.glob("crypto/*.c")))
    includes = (f"-I{CORE / 'include'}", f"-I{CORE / 'crypto'}")
    run("cc", "-std=c99", "-O2", *warnings, *includes, "-o", binary, *sources, "-lcrypto", "-lz")
    return binary


def measure(client: Path, street: Street, devices: int, limit_s: float = LIMIT_S) -> Figures:
    """One run. server_bytes_per_session: by which the peak exceeds what the server had before anybody asked."""
    port = free_port(socket.SOCK_DGRAM)
    serve = ("-m", "unbrickd", "serve", "--udp", f"127.0.0.1:{port}", "--store", street.store, "--log-level", "error")
    with running(python(*serve), ready=says_ready) as usage:
        idle_bytes = peak_bytes(usage.pid)
        told = json.loads(run(client, str(port), *street.client_arguments(devices, limit_s)))
    seconds = [float(s) for s in told["seconds"] if s is not None]
    figures: Figures = {
        "failures": devices - len(seconds),
        "setbacks": told["setbacks"],
        "server_peak_bytes": usage.peak_bytes,
        "server_bytes_per_session": (usage.peak_bytes - idle_bytes) / devices,
        "client_cpu_s": told["cpu_s"],
        "server_cpu_s_with_start": usage.cpu_s,
    }
    if seconds:
        figures["slowest_s"], figures["median_s"] = max(seconds), statistics.median(seconds)
        figures["slowest_of_median"] = figures["slowest_s"] / figures["median_s"]
        figures["mb_per_s"] = told["payload_bytes"] / figures["slowest_s"] / 1e6
    return figures


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench street", description=__doc__)
    parser.add_argument("--devices", type=int, default=500, metavar="N", help="default: %(default)s")
    parser.add_argument("--size", type=parse_size, default="8MiB", metavar="SIZE", help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    args = parser.parse_args(arguments)
    if args.size % ERASE_BLOCK_BYTES:
        parser.error("--size must be a whole number of 64 KiB")
    measured_on = machine()
    with tempfile.TemporaryDirectory(prefix="unbrickd-street-") as folder:
        client = compiled(Path(folder))
        street = build(Path(folder) / "street", devices=args.devices, size_bytes=args.size)
        raw = [measure(client, street, args.devices) for _ in range(args.runs)]
    common = set.intersection(*(set(figures) for figures in raw))
    medians = {OURS: {key: statistics.median(f[key] for f in raw) for key in sorted(common)}}
    medians[OURS]["failures"] = max(f["failures"] for f in raw)  # one is one too many
    verdicts = {g.text: g.judge(medians) for g in GOALS}
    told = {"machine": measured_on, "commit": commit(), "devices": args.devices, "size_bytes": args.size}
    args.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(told | {"medians": medians, "goals": verdicts, "raw": raw}, indent=1)
    (args.output / "street.json").write_text(text + "\n", encoding="utf-8")
    for key, value in medians[OURS].items():
        print(f"{key:28}{value:16.3f}")
    for name, (_, met) in verdicts.items():
        print(f"{'not measured' if met is None else 'met' if met else 'MISSED':14}{name}")
