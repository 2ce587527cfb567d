# SPDX-License-Identifier: Apache-2.0
"""`unbrickd recover`: the bootloader's recovery as a program, for a rescue system, a NAS or the lab (R16 to R24)."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from collections.abc import Callable

from unbrickd.adapters.device import RealDevice, open_device, read_layout
from unbrickd.adapters.net.device import open_link
from unbrickd.cli.console import Narrator
from unbrickd.cli.drive import run_bootloader
from unbrickd.cli.main import Subparsers
from unbrickd.cli.real_device import (
    EXIT_NO_SERVER,
    add_places,
    alone,
    load_commands,
    state_folder,
    stopping_signals,
)
from unbrickd.errors import IntegrityError
from unbrickd.recovery.bootloader import Bootloader
from unbrickd.recovery.check import check_flash, decide
from unbrickd.recovery.events import Checked
from unbrickd.recovery.fetch import AMPLE_AHEAD_BYTES

_EPILOG = """\
Exit code: 0 what is in flash is verified and would boot; 3 no server helped in time; 5 damaged (with --check), or what
was restored does not stay. Each run without --check counts as an attempt to boot; the agent, once up, clears the count.

examples:
  unbrickd recover --layout layout.toml --check
  unbrickd recover --layout layout.toml --wait 300
"""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "recover",
        help="on the device: check its flash and restore what is damaged",
        description="Checks a device's flash and fetches what is damaged from its owner's PC, as its bootloader does.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_places(parser)
    parser.add_argument("--check", action="store_true", help="check only; write nothing, ask nobody")
    parser.add_argument("--button", action="store_true", help="restore the newest good state whatever flash holds")
    parser.add_argument("--wait", type=float, metavar="S", help="give up after so many seconds (default: never)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line for every event")
    return parser


def run(args: argparse.Namespace) -> int:
    layout = read_layout(args.layout)
    state = state_folder(args)
    with contextlib.ExitStack() as stack:
        if not args.check and state.is_dir():  # a rescue system may have none; its agent does not run then
            stack.enter_context(alone(state))
        opened = open_device(layout, base=args.layout.parent, write_components=not args.check)
        device = stack.enter_context(opened)
        narrator = stack.enter_context(Narrator(as_json=args.json))
        load_commands(device, narrator)
        if args.check:
            return _check(device, narrator)
        is_stopped = stack.enter_context(stopping_signals())
        deadline_s = float("inf") if args.wait is None else time.monotonic() + args.wait
        return _recover(
            device, narrator, button=args.button, stop=lambda: is_stopped() or time.monotonic() >= deadline_s
        )


def _check(device: RealDevice, narrator: Narrator) -> int:
    findings = check_flash(device.flash)
    decision = decide(findings, button=False, boot_limit=device.layout.boot.boot_limit)
    narrator(Checked(findings=findings, decision=decision, record_repaired=False))
    return IntegrityError.exit_code if decision.restore else 0


def _recover(device: RealDevice, narrator: Narrator, *, button: bool, stop: Callable[[], bool]) -> int:
    link = open_link(device.layout.link, say=narrator.say)
    try:
        bootloader = Bootloader(
            device.flash,
            button=button,
            policy=device.layout.boot,
            targets=link.targets,
            entropy=os.urandom,
            now_s=time.monotonic(),
            max_message_bytes=link.max_message_bytes,
            ring_frames=device.layout.link.ring_frames,
            polled=False,
            ahead_bytes=AMPLE_AHEAD_BYTES,
        )
        booting = run_bootloader(bootloader, link, on_event=narrator, stop=stop)
    finally:
        link.close()
    if booting is None or booting.config_default:
        return EXIT_NO_SERVER
    _hand_back(device, narrator)
    return 0


def _hand_back(device: RealDevice, narrator: Narrator) -> None:
    """Give restored components to their commands, now that all is verified, and see that they print the same again."""
    loaded = device.flash.record.load()
    assert loaded is not None, "the bootloader boots nothing without a record"
    for slot, flash in device.commands():
        manifest = loaded.record.sealed.generation.component(slot.component_id)
        # Half of a component may lie in RAM, if the server was lost on the way.
        if manifest is None or slot.damaged(manifest, device.flash.keys.content):
            continue
        if not flash.finish(manifest.length_bytes):
            continue
        narrator.say("HandedBack", text=f"{slot.name} handed back to its command", component=slot.name)
        flash.load()
        if flash.length_bytes != manifest.length_bytes or slot.damaged(manifest, device.flash.keys.content):
            raise IntegrityError(
                f"{slot.name} was restored, but its command does not print again what it was given",
                code="verify",
                hint="the command must print the same bytes for the same settings (docs/layout.md)",
            )
