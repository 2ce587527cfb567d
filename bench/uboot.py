# SPDX-License-Identifier: Apache-2.0
"""`python -m bench uboot`: 8 MiB into U-Boot's memory and into its flash, ours beside `tftpboot` and `wget`.

All in the same U-Boot, on the same emulated board and network card, over the same TAP, in turns. Times are U-Boot's own
(`time`), or between two lines of its console. The emulator is in all of them alike, so only ratios mean something.
Linux and root; tools/lab builds what is missing. Everything is checked: memory by U-Boot's SHA-256, flash by the host.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.lab.build import qemu
from tools.lab.console import Console, ConsoleError, Shell
from tools.lab.environment import encode_environment
from tools.lab.gateway import (
    CONFIG,
    ENVIRONMENT,
    ERASE_BLOCK_BYTES,
    FIRMWARE,
    IDENTITY,
    RECORD,
    Bootloader,
    FlashFile,
    power_on,
)
from tools.lab.lan import Lan, lan, why_not
from tools.lab.recovery import recovery_sources, uboot_by_guide
from tools.lab.steps import FILES

from bench.arguments import count
from bench.goals import Goal, Medians
from bench.machine import commit, load, machine
from bench.peers import NGINX
from bench.processes import Figures, listens, program, python, running, says_ready
from unbrickd.cli.demo_process import run_command

REPOSITORY = Path(__file__).parents[1]
MIB = 1 << 20
SIZE_BYTES = 8 * MIB
MEMORY = 0x4800_0000
"""Of the board; U-Boot lies at the end of its 256 MiB."""
WINDOW = 16
LOCK_STEP, WINDOWED = "10.77.0.1", "10.77.0.3"
"""Addresses of the PC: each TFTP server has port 69 of its own."""
LIMIT_S = 20.0
"""A contender that is not done by then is stopped: with loss TFTP goes on for minutes, or gives up."""
BOOT_PATIENCE_S = 60.0
MODEL = "bench-1"
SEED = 20100520
IN_MEMORY = "firmware=ram0:0x0+0x1800000"

LAYOUT = """\
model = "{model}"
good_after_s = 0.1
identity = {{ file = "{folder}/identity.bin", size = {identity}, erase_block = {erase_block} }}
record = {{ file = "{folder}/record.bin", size = {record}, erase_block = {erase_block} }}
[[component]]
name = "firmware"
file = "{folder}/firmware.bin"
size = {firmware}
erase_block = {erase_block}
[[component]]
name = "config"
file = "{folder}/config.bin"
size = {config}
erase_block = {erase_block}
[link]
servers = ["127.0.0.1:{port}"]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootloaders:
    """U-Boot twice: with firmware in the second NOR chip, as in the guide, and in memory (`mtdram`)."""

    flash: Bootloader
    memory: Bootloader


def bootloaders(folder: Path) -> Bootloaders:
    guide = REPOSITORY / "docs/integrate-u-boot.md"
    sources = recovery_sources(REPOSITORY)
    mtdram = (FILES / "uboot-mtdram.patch",)
    in_memory = re.sub(r"firmware=\S+", IN_MEMORY, guide.read_text(encoding="utf-8"))
    (folder / "in-memory.md").write_text(in_memory)
    flash = uboot_by_guide(guide, REPOSITORY, sources)
    memory = uboot_by_guide(folder / "in-memory.md", REPOSITORY, sources, patches=mtdram)
    return Bootloaders(
        flash=Bootloader.create(folder / "flash-boot.bin", flash),
        memory=Bootloader.create(folder / "memory-boot.bin", memory),
    )


class Site:
    """A gateway that was backed up, its owner's PC with all servers, and what lies between them."""

    def __init__(self, folder: Path, qemu: Path, lan: Lan) -> None:
        self.folder = folder
        self.image = random.Random(SEED).randbytes(SIZE_BYTES)
        self._qemu = qemu
        self._lan = lan
        self._served = folder / "served"
        self._served.mkdir()
        (self._served / "image").write_bytes(self.image)
        self._bootloaders = bootloaders(folder)
        self._healthy = FlashFile.create(folder / "healthy.bin")
        self._power_ons = 0

    @contextlib.contextmanager
    def servers(self) -> Iterator[None]:
        """`unbrickd serve` with a backup of the gateway, two TFTP servers, and nginx."""
        where = self._lan.command
        tftpd = program("in.tftpd")
        if tftpd is None or program("nginx") is None:
            sys.exit("missing: in.tftpd or nginx (Debian packages: tftpd-hpa, nginx)")
        configuration = NGINX.format(folder=self._served, host=LOCK_STEP, port=80, user="user root;")
        (self._served / "nginx.conf").write_text(configuration)
        serve = python("-m", "unbrickd", "serve", "--udp", "0.0.0.0:21530", "--store", self.folder / "store")
        commands: list[tuple[list[str], Callable[..., None]]] = [
            ([*serve, "--log-level", "error"], says_ready),
            ([tftpd, "-L", "-s", "-u", "root", "-a", f"{LOCK_STEP}:69", str(self._served)], listens("udp", 69)),
            (python("-m", "bench.tftp", "serve", "69", self._served, "--host", WINDOWED), listens("udp", 69)),
            ([str(program("nginx")), "-c", str(self._served / "nginx.conf")], listens("tcp", 80)),
        ]
        with contextlib.ExitStack() as stack:
            for command, ready in commands:
                stack.enter_context(running(where(*command), ready=ready))
            self._back_up()
            yield

    def _back_up(self) -> None:
        """By the agent on the host, over the loopback of the PC's namespace."""
        folder, flash = self.folder, self._healthy
        run_command("keys", "device", "--model", MODEL, "--policy", "owner", "--out", str(folder / "device.bin"))
        flash.write(IDENTITY, (folder / "device.bin").read_bytes())
        flash.write(FIRMWARE, self.image)
        flash.write(CONFIG, b"hostname=router7\n")
        variables = {"bootdelay": "-1", "ipaddr": "10.77.0.2", "netmask": "255.255.255.0", "netretry": "no"}
        variables |= {"serverip": LOCK_STEP, "tftptimeoutcountmax": "4", "bootcmd": "true"}
        flash.write(ENVIRONMENT, encode_environment(variables, ENVIRONMENT.size_bytes))
        places = {"identity": IDENTITY, "record": RECORD, "firmware": FIRMWARE, "config": CONFIG}
        for name, region in places.items():
            (folder / f"{name}.bin").write_bytes(flash.read(region))
        sizes = {name: region.size_bytes for name, region in places.items()}
        layout = LAYOUT.format(model=MODEL, folder=folder, erase_block=ERASE_BLOCK_BYTES, port=21530, **sizes)
        (folder / "layout.toml").write_text(layout)
        agent = python("-m", "unbrickd", "agent", "--once", "--layout", folder / "layout.toml", "--state", folder / "s")
        self._lan.run(*agent)
        flash.write(RECORD, (folder / "record.bin").read_bytes())

    @contextlib.contextmanager
    def uboot(self, *, firmware: bytes, in_memory: bool) -> Iterator[tuple[Shell, FlashFile]]:
        """U-Boot's prompt, on a new copy of the flash with that firmware."""
        self._power_ons += 1
        flash = self._healthy.copy(self.folder / "flash.bin")
        flash.write(FIRMWARE, firmware.ljust(FIRMWARE.size_bytes, b"\xff"))
        start = self._bootloaders.memory if in_memory else self._bootloaders.flash
        log = self.folder / f"console-{self._power_ons}.log"
        with power_on(self._qemu, start, flash, log=log, lan=self._lan) as console:
            console.expect("=> ", timeout_s=BOOT_PATIENCE_S)
            yield Shell(console), flash


def timed(shell: Shell, command: str) -> tuple[float | None, str]:
    """Seconds by U-Boot's own clock, None if the command failed or was not done in time; and what it said."""
    try:
        ran = shell.run(f"time {command}", timeout_s=LIMIT_S)
    except ConsoleError as error:
        return None, str(error)
    found = re.search(r"time: (?:(\d+) minutes, )?([\d.]+) seconds", ran.output)
    took_s = 60 * int(found[1] or 0) + float(found[2]) if found and not ran.code else None
    return took_s, ran.output


def took(shell: Shell, command: str) -> float:
    seconds, said = timed(shell, command)
    if seconds is None:
        sys.exit(f"{command}: {said}")
    return seconds


def check_memory(shell: Shell, image: bytes) -> float:
    """Returns how long U-Boot's SHA-256 of it took."""
    hash_s, said = timed(shell, f"hash sha256 {MEMORY:x} {len(image):x}")
    if hash_s is None or hashlib.sha256(image).hexdigest() not in said:
        sys.exit(f"what came is not what was sent: {said}")
    return hash_s


def peer(into_flash: bool, fetch: str, *settings: str) -> Contender:
    """One of U-Boot's own commands, then, for flash, what a guide tells to type after it."""

    def measure(site: Site) -> Figures | None:
        with site.uboot(firmware=b"", in_memory=False) as (shell, flash):
            for setting in settings:
                shell.check(f"setenv {setting}")
            fetched_s, _ = timed(shell, fetch.format(memory=MEMORY))
            if fetched_s is None:
                return None
            hash_s = check_memory(shell, site.image)
            figures = {"network": fetched_s, "total": fetched_s, "verified": fetched_s + hash_s}
            if into_flash:
                end = FIRMWARE.address + SIZE_BYTES - 1
                shell.check(f"protect off {FIRMWARE.address:x} {end:x}")
                erase_s = took(shell, f"erase {FIRMWARE.address:x} {end:x}")
                write_s = took(shell, f"cp.b {MEMORY:x} {FIRMWARE.address:x} {SIZE_BYTES:x}")
                verify_s = took(shell, f"cmp.b {MEMORY:x} {FIRMWARE.address:x} {SIZE_BYTES:x}")
                figures["flash"] = erase_s + write_s + verify_s
                figures["total"] += figures["flash"]
                figures["verified"] += figures["flash"]
                if flash.read(FIRMWARE)[:SIZE_BYTES] != site.image:
                    sys.exit("what is in flash is not what was sent")
        return figures

    return measure


def ours(*, into_flash: bool) -> Contender:
    """`unbrickd restore` of firmware that is all erased: every erase block verified, programmed and read back."""

    def measure(site: Site) -> Figures | None:
        with site.uboot(firmware=b"", in_memory=not into_flash) as (shell, flash):
            if not into_flash:
                shell.check(f"mtdram ram0 {MEMORY:x} {FIRMWARE.size_bytes:x} {ERASE_BLOCK_BYTES:x}")
                shell.check(f"mw.b {MEMORY:x} ff {FIRMWARE.size_bytes:x}")
            try:
                transfer_s, whole_s = restore(shell.console)
            except ConsoleError:
                return None
            if not into_flash:
                check_memory(shell, site.image)
            elif flash.read(FIRMWARE)[:SIZE_BYTES] != site.image:
                sys.exit("what is in flash is not what was sent")
        return {"network": transfer_s, "total": transfer_s, "verified": transfer_s, "whole": whole_s}

    return measure


def restore(console: Console) -> tuple[float, float]:
    """Seconds from the offer to the last erase block, and of the whole command, by its console.

    Raises ConsoleError if it is not done in time.
    """
    began_s = time.monotonic()
    console.type("unbrickd restore\n")
    console.expect(r"unbrickd: restoring generation 1\r?\n", timeout_s=LIMIT_S)
    offered_s = time.monotonic()
    console.expect(r"unbrickd: restored generation 1", timeout_s=LIMIT_S)
    restored_s = time.monotonic()
    console.expect("=> ", timeout_s=LIMIT_S)
    return restored_s - offered_s, time.monotonic() - began_s


TFTP, TFTP_16, WGET, OURS = "tftpboot", f"tftpboot, window {WINDOW}", "wget", "unbrickd"
FLASH = ", into flash"
Contender = Callable[[Site], Figures | None]


def _contenders() -> dict[str, Contender]:
    made: dict[str, Contender] = {}
    for suffix, into_flash in (("", False), (FLASH, True)):
        made |= {
            TFTP + suffix: peer(into_flash, "tftpboot {memory:x} image"),
            TFTP_16 + suffix: peer(
                into_flash, "tftpboot {memory:x} image", f"serverip {WINDOWED}", f"tftpwindowsize {WINDOW}"
            ),
            WGET + suffix: peer(into_flash, f"wget {{memory:x}} {LOCK_STEP}:/image"),
            OURS + suffix: ours(into_flash=into_flash),
        }
    return made


CONTENDERS = _contenders()


def _ratio(faster: str, slower: str, what: str = "total") -> Callable[[Medians], float]:
    return lambda medians: medians[slower][what] / medians[faster][what]


def goals(loss: float) -> tuple[Goal, ...]:
    """What is to be reached at this loss. A contender that never came to an end has no figures: then it is beaten."""
    if loss:
        return (
            Goal(text="unbrickd ≥ 1 × wget", measured=_ratio(OURS, WGET), at_least=1),
            Goal(text="unbrickd ≥ 1 × wget, into flash", measured=_ratio(OURS + FLASH, WGET + FLASH), at_least=1),
        )
    return (
        Goal(text=f"unbrickd ≥ 1 × TFTP window {WINDOW}", measured=_ratio(OURS, TFTP_16), at_least=1),
        Goal(
            text=f"unbrickd ≥ 1 × TFTP window {WINDOW} and `hash sha256`",
            measured=_ratio(OURS, TFTP_16, "verified"),
            at_least=1,
        ),
        Goal(text="unbrickd ≥ 4 × lock-step TFTP", measured=_ratio(OURS, TFTP), at_least=4),
        Goal(
            text=f"unbrickd ≥ 1 × TFTP window {WINDOW}, into flash",
            measured=_ratio(OURS + FLASH, TFTP_16 + FLASH),
            at_least=1,
        ),
        Goal(
            text="into flash ≤ 1.1 × the slower of network and flash",
            measured=lambda medians: (
                medians[OURS + FLASH]["total"] / max(medians[OURS]["total"], medians[TFTP_16 + FLASH]["flash"])
            ),
            at_most=1.1,
        ),
    )


def measure(site: Site, lan: Lan, *, runs: int, losses: Sequence[float], only: str) -> list[Row]:
    """In turns, so that what disturbs the machine disturbs everybody."""
    rows = []
    for loss in losses:
        lan.lose(loss)
        words = only.split(",")
        seen: dict[str, list[Figures | None]] = {name: [] for name in CONTENDERS if any(word in name for word in words)}
        for number in range(runs):
            for name, results in seen.items():
                if results and results[-1] is None:
                    continue
                results.append(CONTENDERS[name](site))
                print(f"{loss:.0%} run {number + 1} {name}: {results[-1]}", file=sys.stderr, flush=True)
        rows.append(Row(loss=loss, seen=seen))
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One loss. seen: of each contender, seconds of each run; None: it gave up, or was stopped."""

    loss: float
    seen: dict[str, list[Figures | None]]

    @property
    def medians(self) -> Medians:
        """Of those that came to an end in every run."""
        return {
            name: {what: statistics.median(run[what] for run in runs if run is not None) for what in runs[0]}
            for name, runs in self.seen.items()
            if runs and runs[0] is not None and None not in runs
        }


def report(rows: Sequence[Row]) -> Iterator[str]:
    """Lines of Markdown: figures, then goals."""
    yield "| loss | who | s | MB/s | of it flash, s | with SHA-256, s |"
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for row in rows:
        medians = row.medians
        for name in row.seen:
            if name not in medians:
                yield f"| {row.loss:.0%} | {name} | not done in {LIMIT_S:g} s | | | |"
                continue
            figures = medians[name]
            flash = f"{figures['flash']:.2f}" if "flash" in figures else ""
            total_s = figures["total"]
            rate = SIZE_BYTES / 1e6 / total_s
            yield f"| {row.loss:.0%} | {name} | {total_s:.2f} | {rate:.2f} | {flash} | {figures['verified']:.2f} |"
    yield ""
    yield "| loss | goal | measured | |"
    yield "| --- | --- | ---: | --- |"
    for row in rows:
        for goal in goals(row.loss):
            measured, met = goal.judge(row.medians)
            verdict = "not measured" if met is None else "met" if met else "**missed**"
            yield f"| {row.loss:.0%} | {goal.text} | {'' if measured is None else f'{measured:.3g}'} | {verdict} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench uboot", description=__doc__)
    parser.add_argument(
        "--runs", type=count, default=3, help="of each contender; medians are shown (default: %(default)s)"
    )
    parser.add_argument("--losses", default="0,0.01,0.05", help="parts of the frames, each way (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="WORDS", help="contenders with one of these in their names")
    parser.add_argument("--output", type=Path, default=Path("bench/results"), metavar="DIRECTORY")
    args = parser.parse_args(arguments)
    if lacking := why_not():
        sys.exit(lacking)
    load_before = load()
    with tempfile.TemporaryDirectory() as folder, lan(f"{LOCK_STEP}/24", f"{WINDOWED}/24") as pc:
        site = Site(Path(folder), qemu(), pc)
        with site.servers():
            losses = [float(loss) for loss in args.losses.split(",")]
            rows = measure(site, pc, runs=args.runs, losses=losses, only=args.only)
    args.output.mkdir(parents=True, exist_ok=True)
    told = {
        "machine": machine() | {"load_before": load_before},
        "commit": commit(),
        "size_bytes": SIZE_BYTES,
        "rows": [{"loss": row.loss, "medians": row.medians, "raw": row.seen} for row in rows],
        "goals": [
            {"loss": row.loss, "goal": goal.text, "measured": measured, "met": met}
            for row in rows
            for goal in goals(row.loss)
            for measured, met in [goal.judge(row.medians)]
        ],
    }
    (args.output / "uboot.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print("\n".join(report(rows)))
