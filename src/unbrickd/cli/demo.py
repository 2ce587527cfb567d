# SPDX-License-Identifier: Apache-2.0
"""`unbrickd demo`: the main job, start to end, with the real programs as separate processes over real sockets.

A gateway backs itself up, an upgrade is torn by a power cut, it heals itself from the server, the power is cut again
half-way, it resumes and boots; then every byte is compared. Exit code 0 only if flash is what was backed up.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.rule import Rule
from rich.table import Table

from unbrickd.adapters.files import read_file
from unbrickd.cli.demo_process import GatewayProcess, ServerProcess, run_command
from unbrickd.cli.main import Subparsers
from unbrickd.cli.text import JsonValue, size_text
from unbrickd.errors import ConfigError, IntegrityError
from unbrickd.flash.write import PAGE_BYTES
from unbrickd.model.geometry import MAX_TOTAL_BYTES
from unbrickd.model.layout import parse_layout
from unbrickd.model.toml_table import parse_size
from unbrickd.sim.gateway import FLASH_FILE, LAYOUT_FILE

TORN_AFTER_PART = 0.3
"""How far the torn upgrade gets, of the image."""
CUT_AFTER_PART = 0.5
"""How far the first restore gets until the power is cut."""
LIGHT_SHOWN_S = 1.5
"""How long the light asks before the server is started."""
STEPS = 5


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "demo",
        help="the whole story in a minute: back up, break, heal",
        description=(
            "Runs the whole story with real processes: a virtual gateway with 16 MiB of flash backs itself up, an "
            "upgrade is torn by a power cut, and it heals itself from the server. Nothing outside a temporary folder "
            "is touched, and nothing leaves this computer."
        ),
        epilog="example:\n  unbrickd demo --firmware openwrt-sysupgrade.bin --config backup.tar.gz",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--firmware", type=Path, metavar="FILE", help="your own firmware; default: made-up bytes")
    parser.add_argument("--config", type=Path, metavar="FILE", help="your own configuration; default: made-up settings")
    parser.add_argument("--flash-size", metavar="SIZE", help="default: 16MiB, or as much as the firmware needs")
    parser.add_argument("--erase-block", default="64KiB", metavar="SIZE", help="default: %(default)s")
    parser.add_argument("--tcp", action="store_true", help="over TCP instead of UDP")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep gateway and store in this new directory")
    return parser


def run(args: argparse.Namespace) -> int:
    console = Console(highlight=False)
    if args.keep is not None and args.keep.exists():
        raise ConfigError(f"{args.keep} exists already", code="exists", hint="name a new directory")
    folder = args.keep or Path(tempfile.mkdtemp(prefix="unbrickd-demo-"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _Demo(args, folder, console).play()
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}", code="not-writable") from error
    finally:
        if args.keep is None:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(slots=True)
class _Tally:
    """What happened to one component, for the table at the end."""

    damaged: int = 0
    erase_blocks: int = 0
    fetched: int = 0
    bytes_moved: int = 0
    seconds: float = 0.0
    verified: bool = False


@dataclass(slots=True)
class _Totals:
    components: dict[str, _Tally] = field(default_factory=dict)
    received_bytes: int = 0
    flash_s: float = 0.0

    def of(self, name: str) -> _Tally:
        return self.components.setdefault(name, _Tally())


class _Demo:
    def __init__(self, args: argparse.Namespace, folder: Path, console: Console) -> None:
        self._console = console
        self._folder = folder
        self._gateway = folder / "gateway"
        self._transport = "tcp" if args.tcp else "udp"
        self._erase_block = parse_size(args.erase_block)
        self._firmware = folder / "firmware.bin"
        self._config = folder / "config.bin"
        self._own_files = bool(args.firmware)
        rng = random.Random(20100520)
        self._firmware.write_bytes(_read(args.firmware) if args.firmware else rng.randbytes(12 << 20))
        self._config.write_bytes(_read(args.config) if args.config else _made_up_settings(rng))
        self._flash_size = parse_size(args.flash_size) if args.flash_size else self._enough_flash()
        self._new_firmware = folder / "new-firmware.bin"
        self._new_firmware.write_bytes(rng.randbytes(self._firmware.stat().st_size))
        self._totals = _Totals()
        self._counted_until_s = 0.0
        self._step = 0

    def play(self) -> int:
        started_s = time.monotonic()
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(ServerProcess(self._folder / "store", self._transport))
            self._make_gateway(server.address)
            self._back_up()
            before = self._snapshot()
            server.stop()
            self._break()
            self._heal(server)
        identical = self._compare(before)
        self._table(time.monotonic() - started_s, identical)
        return 0 if identical else IntegrityError.exit_code

    # The story

    def _make_gateway(self, address: str) -> None:
        self._heading(f"A gateway with {size_text(self._flash_size)} of flash, and a server on its owner's PC")
        options = ["--flash-size", str(self._flash_size), "--erase-block", str(self._erase_block)]
        options += ["--server", address, "--good-after", "1", "--backup-after", "0.5", "--model", "demo-router"]
        options += ["--firmware", str(self._firmware), "--config", str(self._config), "--transport", self._transport]
        run_command("gateway", "create", str(self._gateway), *options, "--json")
        self._line(f"firmware {size_text(self._firmware.stat().st_size)}" + (", your file" if self._own_files else ""))
        self._line(f"configuration {size_text(self._config.stat().st_size)}, never leaves the gateway unencrypted")
        self._line(f"server listens on {self._transport} {address}")

    def _back_up(self) -> None:
        self._heading("It boots healthy, its policy fires, and it backs itself up")
        with GatewayProcess(self._gateway, "--until", "good") as gateway, self._progress() as progress:
            task = progress.add_task("", total=None, visible=False)
            for event in gateway.events():
                match event["event"]:
                    case "Booting":
                        self._line(
                            f"every erase block matches its manifest: booting firmware {event['firmware_version']}"
                        )
                    case "UploadWanted":
                        names = event["components"]
                        assert isinstance(names, list)
                        if names:
                            self._line(f"the server lacks {' and '.join(map(str, names))}")
                    case "Uploading":
                        progress.update(
                            task,
                            description=f"sending {event['component']}",
                            completed=_float(event["sent_bytes"]),
                            total=_float(event["length_bytes"]),
                            visible=True,
                        )
                    case "ProvedGood":
                        self._line("it has run long enough: this is a good state, and the server is told so")
                    case "BackupEnded":
                        outcome = event["outcome"]
                        assert isinstance(outcome, dict)
                        if outcome["ending"] != "committed":
                            raise ConfigError(f"the backup failed: {outcome['why']}", code="demo")
                        moved = int(_float(outcome["payload_bytes"]))
                        self._line(
                            f"backed up, {size_text(moved)} moved" if moved else "nothing differs, nothing moved"
                        )

    def _break(self) -> None:
        self._heading("A power cut tears an upgrade; the configuration is damaged too")
        blocks = -(-self._firmware.stat().st_size // self._erase_block)
        torn = ["--torn-upgrade", str(self._new_firmware), "--after", str(int(blocks * TORN_AFTER_PART))]
        self._line(run_command("gateway", "damage", str(self._gateway), *torn).strip())
        config = ["--partition", "config", "--erase-blocks", "0", "--seed", "1"]
        self._line(run_command("gateway", "damage", str(self._gateway), *config).strip())
        self._line("the server is not running either")

    def _heal(self, server: ServerProcess) -> None:
        self._heading("Switched on: the bootloader finds the damage and asks for the server")
        cut = ["--cut-at-operation", str(self._cut_operation())]
        with GatewayProcess(self._gateway, "--until", "booted", *cut) as gateway, self._progress() as progress:
            self._follow_restore(gateway, progress, server, first=True)
        self._heading("Switched on once more: it resumes where the power was cut")
        with GatewayProcess(self._gateway, "--until", "booted") as gateway, self._progress() as progress:
            self._follow_restore(gateway, progress, server, first=False)

    def _follow_restore(
        self, gateway: GatewayProcess, progress: Progress, server: ServerProcess, *, first: bool
    ) -> None:
        tasks: dict[str, TaskID] = {}
        for event in gateway.events():
            match event["event"]:
                case "Checked":
                    self._checked(event, first=first)
                case "LightChanged" if event["light"] == "start-server" and first:
                    self._line("light: blinking slowly, please start unbrickd on your PC")
                    time.sleep(LIGHT_SHOWN_S)
                    server.start()
                    self._line("the owner starts the server; nothing else is to be done")
                case "OfferTaken":
                    self._counted_until_s = time.monotonic()
                    self._line(f"restoring generation {event['generation']}, only what does not match")
                case "EraseBlockRestored":
                    name = str(event["component"])
                    self._restored(name)
                    if name not in tasks:
                        tasks[name] = progress.add_task(f"restoring {name}", total=_float(event["wanted"]))
                    progress.update(tasks[name], completed=_float(event["done"]))
                case "PowerCut":
                    self._fetched(progress)
                    self._line("the power is cut again, in the middle of programming a page")
                case "Restored":
                    self._fetched(progress)
                case "Booting":
                    self._line(f"boot record written last; booting firmware {event['firmware_version']}")
                case "PowerOff":
                    self._totals.received_bytes += int(_float(event["received_bytes"]))
                    self._totals.flash_s += _float(event["flash_s"])

    def _fetched(self, progress: Progress) -> None:
        for task in progress.tasks:
            name = task.description.removeprefix("restoring ")
            many = "" if task.completed == 1 else "s"
            self._line(f"{name}: {task.completed:.0f} erase block{many} fetched, verified, written and read back")

    def _checked(self, event: dict[str, JsonValue], *, first: bool) -> None:
        components = event["components"]
        assert isinstance(components, list)
        for component in components:
            assert isinstance(component, dict)
            damaged = component["damaged"]
            assert isinstance(damaged, list)
            name = str(component["name"])
            tally = self._totals.of(name)
            tally.erase_blocks = int(_float(component["erase_blocks"]))
            tally.damaged = max(tally.damaged, len(damaged))
            if damaged:
                still = "" if first else "still "
                self._line(f"{name}: {len(damaged)} of {tally.erase_blocks} erase blocks {still}do not match")

    def _restored(self, name: str) -> None:
        tally = self._totals.of(name)
        now_s = time.monotonic()
        tally.seconds += now_s - self._counted_until_s
        self._counted_until_s = now_s
        tally.fetched += 1
        tally.bytes_moved += self._erase_block

    # The end

    def _snapshot(self) -> dict[str, str]:
        """SHA-256 of every partition but the boot record, which keeps a journal of boots."""
        layout = parse_layout((self._gateway / LAYOUT_FILE).read_text(encoding="utf-8"), source=LAYOUT_FILE)
        flash = (self._gateway / FLASH_FILE).read_bytes()
        return {
            p.name: hashlib.sha256(flash[p.offset_bytes : p.offset_bytes + p.size_bytes]).hexdigest()
            for p in layout.partitions
            if p.name != layout.record.target
        }

    def _compare(self, before: dict[str, str]) -> bool:
        """Whether all of flash is what was backed up, and its components are the files that went in."""
        after = self._snapshot()
        for name, path in (("firmware", self._firmware), ("config", self._config)):
            out = self._folder / f"{name}.out"
            run_command("gateway", "extract", str(self._gateway), name, str(out))
            self._totals.of(name).verified = out.read_bytes() == path.read_bytes() and before[name] == after[name]
        return before == after and all(t.verified for t in self._totals.components.values())

    def _table(self, took_s: float, identical: bool) -> None:
        self._console.print()
        table = Table(title="What was damaged, and what it took to heal it", title_style="bold")
        table.add_column("component")
        for name in ("erase blocks", "damaged", "fetched", "moved", "seconds"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("verified")
        for name, t in self._totals.components.items():
            table.add_row(
                name,
                str(t.erase_blocks),
                str(t.damaged),
                str(t.fetched),
                size_text(t.bytes_moved),
                f"{t.seconds:.2f}",
                "[green]yes[/]" if t.verified else "[red]NO[/]",
            )
        self._console.print(table)
        moved = sum(t.bytes_moved for t in self._totals.components.values())
        self._line(
            f"{size_text(self._totals.received_bytes)} received in all, power cut included: "
            f"{self._totals.received_bytes / max(moved, 1):.3f} bytes per byte restored"
        )
        self._line(
            f"all this reading, erasing and programming keeps a W25Q128JV chip busy for {self._totals.flash_s:.0f} s"
        )
        verdict = "flash is identical to what was backed up" if identical else "flash is NOT what was backed up"
        self._console.print(f"[bold {'green' if identical else 'red'}]{verdict}[/] ({took_s:.0f} s)")

    # Small things

    def _enough_flash(self) -> int:
        """16 MiB, doubled until firmware, configuration and what the gateway needs itself fit."""
        needed = self._firmware.stat().st_size + self._config.stat().st_size + (1 << 20)
        size = 16 << 20
        while size < needed:
            size *= 2
        return size

    def _cut_operation(self) -> int:
        """The flash operation at which the first restore is half done: erasing, then programming page by page."""
        octets = self._firmware.read_bytes()
        torn = int(-(-len(octets) // self._erase_block) * TORN_AFTER_PART) + 1
        blank = b"\xff" * PAGE_BYTES
        pages = (
            octets[at : at + PAGE_BYTES] for at in range(0, min(len(octets), torn * self._erase_block), PAGE_BYTES)
        )
        operations = torn + sum(1 for page in pages if page != blank[: len(page)])
        return max(1, int(operations * CUT_AFTER_PART))

    def _heading(self, text: str) -> None:
        self._step += 1
        self._console.print()
        self._console.print(Rule(f"[bold]{self._step} of {STEPS}  {text}", align="left", style="dim"))

    def _line(self, text: str) -> None:
        self._console.print(f"  {text}", markup=False)

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("  {task.description:20}"),
            BarColumn(bar_width=40),
            TextColumn("{task.percentage:3.0f} %"),
            console=self._console,
            transient=True,
        )


def _float(value: JsonValue) -> float:
    assert isinstance(value, int | float)
    return value


def _made_up_settings(rng: random.Random) -> bytes:
    """90 KiB that look like a router's settings, a secret among them."""
    lines = ["# settings of the demo router", "wifi.key=correct horse battery staple"]
    lines += [f"host.{i}.mac={rng.randbytes(6).hex(':')}" for i in range(2800)]
    return "\n".join(lines).encode()


def _read(path: Path) -> bytes:
    return read_file(path, limit_bytes=MAX_TOTAL_BYTES)
