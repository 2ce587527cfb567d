# SPDX-License-Identifier: Apache-2.0
"""`python -m bench street`: a street of devices asks one server at once, over unshaped loopback. Linux only.

With --rate 1000, over a link of so many Mbit/s between two namespaces (bench/links.py), which wants root. Writes
street.json, or street-1000M.json. The devices are those of bench/street_client.c, which has checked every byte when it
says done; of bench/street_tftp.c for dnsmasq and fbtftp, which are left out if they are not installed, and stopped if
they are slow: what had come by then is compared, and counts. Ours and theirs take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import random
import socket
import statistics
import sys
import tempfile
from pathlib import Path

from bench import links
from bench.arguments import count, image_size, positive
from bench.compiled import CORE_NEEDS, compiled
from bench.crowd import at_once, parts
from bench.goals import MIB, Goal
from bench.links import Hosts, Link, opened, unshaped
from bench.machine import commit, machine
from bench.processes import (
    Figures,
    Usage,
    cpu_seconds,
    free_port,
    is_here,
    listens,
    program,
    python,
    running,
    says_ready,
)
from bench.sample import peak_bytes
from bench.street_cargo import Street, build

OUR_PATIENCE_S = 100.0
"""A device that is not done by then has failed, and counts as nothing."""
PEER_LIMIT_S = 60.0
TFTP_PORT = 69
"""dnsmasq takes no other; it wants root."""
ALL = OURS, DNSMASQ, FBTFTP = "unbrickd", "dnsmasq", "fbtftp"

Medians = dict[str, Figures]


def goal(text: str, key: str, most: float, unit: int = 1) -> Goal:
    return Goal(text=text, measured=lambda medians: medians[OURS][key] / unit, at_most=most)


def times(least: float, peer: str) -> Goal:
    text = f"≥ {least:g} × {peer}"
    return Goal(text=text, measured=lambda m: m[OURS]["mb_per_s"] / m[peer]["mb_per_s"], at_least=least)


ALWAYS = (
    goal("no failure", "failures", 0),
    goal("slowest ≤ 1.5 × median", "slowest_of_median", 1.5),
    goal("server memory ≤ 64 MiB", "server_peak_bytes", 64, MIB),
    goal("server memory ≤ 32 KiB a session", "server_bytes_per_session", 32, 1 << 10),
)
UNSHAPED_GOALS = (*ALWAYS, times(1.3, DNSMASQ), times(10, FBTFTP))
LINK_GOALS = (
    *ALWAYS,
    Goal(text="≥ 0.9 of the link", measured=lambda m: m[OURS]["share"], at_least=0.9),
)
QUEUE_BYTES = 1000 * 1500
"""The narrowest place is the PC's own network card: 1000 packets of Linux's usual txqueuelen (netdevice(7))."""


def figures_of(
    told: tuple[list[float | None], Figures], devices: int, usage: Usage, before: tuple[float, int]
) -> Figures:
    """told: by bench.crowd; before: CPU seconds and peak bytes of the server before anybody asked."""
    cpu_s, peak = cpu_seconds(usage.pid) - before[0], peak_bytes(usage.pid)
    seconds, result = [s for s in told[0] if s is not None], told[1]
    figures: Figures = {
        "failures": devices - len(seconds),
        "setbacks": result.get("setbacks", 0),
        "client_cpu_s": result["cpu_s"],
        "server_cpu_s": cpu_s,
        "server_peak_bytes": peak,
        "server_bytes_per_session": (peak - before[1]) / devices,
    }
    figures["mb_per_s"] = result["payload_bytes"] / result["elapsed_s"] / 1e6
    if figures["failures"]:
        figures["stopped_s"] = result["elapsed_s"]
    if result["payload_bytes"]:
        figures["server_cpu_s_per_gb"] = cpu_s / result["payload_bytes"] * 1e9
    if seconds:
        figures["slowest_s"], figures["median_s"] = max(seconds), statistics.median(seconds)
        figures["slowest_of_median"] = figures["slowest_s"] / figures["median_s"]
    if "sent" in result:
        figures["blocks_per_request"] = result["received"] / result["sent"]
    return figures


def measure(street: Street, devices: int, limit_s: float = OUR_PATIENCE_S, hosts: Hosts | None = None) -> Figures:
    """One run of ours; without hosts, over loopback."""
    hosts = hosts or unshaped()
    address, port = hosts.pc.address, str(free_port(socket.SOCK_DGRAM))
    serve = ("-m", "unbrickd", "serve", "--udp", f"{address}:{port}", "--store", street.store, "--log-level", "error")
    with running(hosts.pc.command(*python(*serve)), ready=says_ready) as usage:
        before = cpu_seconds(usage.pid), peak_bytes(usage.pid)
        client = compiled("street_client", street.folder, core=True)
        told = at_once(
            *(
                hosts.device.command(client, address, port, *street.client_arguments(part, limit_s))
                for part in parts(devices)
            )
        )
        return figures_of(told, devices, usage, before)


def measure_tftp(name: str, street: Street, devices: int, limit_s: float, hosts: Hosts) -> Figures:
    """One run of a peer, which serves all devices the same file. What fbtftp's processes use is not known."""
    address, port = hosts.pc.address, TFTP_PORT if name == DNSMASQ else free_port(socket.SOCK_DGRAM)
    command = tftp_command(name, address, port, street.folder, devices)
    with running(hosts.pc.command(*command), ready=listens("udp", port)) as usage:
        before = cpu_seconds(usage.pid), peak_bytes(usage.pid)
        file, client = street.firmware, compiled("street_tftp", street.folder)
        asks = [(address, str(port), file, file.name, str(len(part)), str(limit_s)) for part in parts(devices)]
        told = at_once(*(hosts.device.command(client, *ask) for ask in asks))
        figures = figures_of(told, devices, usage, before)
    if name == FBTFTP:
        return {key: value for key, value in figures.items() if not key.startswith("server_")}
    return figures


def why_not(over_link: bool) -> str | None:
    """What this machine lacks for a street, in words; None if nothing."""
    if sys.platform != "linux":
        return "wants Linux"
    if missing := [name for name in CORE_NEEDS if not is_here(name)]:
        return f"missing: {', '.join(missing)} (Debian packages: gcc, libc6-dev, libssl-dev, zlib1g-dev)"
    return links.why_not() if over_link else None


def why_left_out(name: str) -> str | None:
    """What this machine lacks for a peer, in words; None if nothing."""
    if name == FBTFTP and importlib.util.find_spec("fbtftp") is None:
        return "is not installed (PyPI: fbtftp)"
    if name == DNSMASQ and program("dnsmasq") is None:
        return "is not installed (Debian package: dnsmasq-base)"
    return "wants root" if name == DNSMASQ and os.geteuid() != 0 else None


def tftp_command(name: str, address: str, port: int, folder: Path, devices: int) -> list[str]:
    if name == FBTFTP:
        return python("-m", "bench.street_fbtftp", address, str(port), folder)
    options = ["--no-daemon", "--conf-file=/dev/null", "--port=0", "--user=root", f"--listen-address={address}"]
    tftp = ["--bind-interfaces", "--enable-tftp", f"--tftp-root={folder}", f"--tftp-max={devices}", "--quiet-tftp"]
    return [str(program("dnsmasq")), *options, *tftp]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench street", description=__doc__)
    parser.add_argument("--devices", type=count, default=500, metavar="N", help="default: %(default)s")
    parser.add_argument("--size", type=image_size, default="8MiB", metavar="SIZE", help="default: %(default)s")
    parser.add_argument("--runs", type=count, default=3, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--rate", type=positive, default=0.0, metavar="MBIT", help="of a link; default: unshaped loopback"
    )
    parser.add_argument(
        "--limit", type=positive, default=PEER_LIMIT_S, metavar="S", help="peers stop after it; default: %(default)s"
    )
    parser.add_argument("--only", action="append", default=[], choices=ALL, help="and unbrickd")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", metavar="DIR")
    args = parser.parse_args(arguments)
    if reason := why_not(args.rate > 0):
        sys.exit(f"bench street: {reason}")
    left_out = {name: why for name in args.only or ALL if (why := why_left_out(name))}
    for name, why in left_out.items():
        print(f"{name} is left out: {why}", file=sys.stderr)
    names = [name for name in ALL if name == OURS or (name in (args.only or ALL) and name not in left_out)]
    link = Link(rate_mbit=args.rate, queue_bytes=QUEUE_BYTES) if args.rate else None
    measured_on = machine()
    with tempfile.TemporaryDirectory(prefix="unbrickd-street-") as folder:
        octets = random.Random(20100520).randbytes(args.size)
        street = build(Path(folder) / "street", devices=args.devices, octets=octets)
        raw: dict[str, list[Figures]] = {name: [] for name in names}
        for name in names * args.runs:
            with contextlib.ExitStack() as stack:
                hosts = unshaped()
                if link:
                    hosts = stack.enter_context(opened(link, seed=len(raw[name]), folder=Path(folder)))
                if name == OURS:
                    figures = measure(street, args.devices, hosts=hosts)
                else:
                    figures = measure_tftp(name, street, args.devices, args.limit, hosts)
            if link:
                figures["share"] = figures["mb_per_s"] * 1e6 / link.limit_bytes_per_s
            raw[name].append(figures)
            print(f"{len(raw[name])}  {name:10} {figures['mb_per_s']:8.2f} MB/s", file=sys.stderr)
    medians = {name: medians_of(runs) for name, runs in raw.items() if runs}
    verdicts = {g.text: g.judge(medians) for g in (LINK_GOALS if link else UNSHAPED_GOALS)}
    told = {"machine": measured_on, "commit": commit(), "devices": args.devices, "size_bytes": args.size}
    told |= {"link": str(link or Link(rate_mbit=0)), "limit_s": args.limit, "left_out": left_out}
    args.output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(told | {"medians": medians, "goals": verdicts, "raw": raw}, indent=1)
    (args.output / (f"street-{args.rate:g}M.json" if link else "street.json")).write_text(text + "\n", encoding="utf-8")
    print(f"{'':28}" + "".join(f"{name:>16}" for name in medians))
    for key in sorted(set().union(*medians.values())):
        print(f"{key:28}" + "".join(f"{medians[name].get(key, float('nan')):16.3f}" for name in medians))
    for name, (measured, met) in verdicts.items():
        verdict = "not measured" if met is None else "met" if met else "MISSED"
        print(f"{verdict:14}{name}" + ("" if measured is None else f": {measured:.4g}"))


def medians_of(runs: list[Figures]) -> Figures:
    common = set.intersection(*(set(figures) for figures in runs))
    medians = {key: statistics.median(f[key] for f in runs) for key in sorted(common)}
    return medians | {"failures": max(f["failures"] for f in runs)}  # one is one too many
