# SPDX-License-Identifier: Apache-2.0
"""What `unbrickd agent` and `unbrickd recover` share: where a device's files lie, and that only one of them runs."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from unbrickd.adapters.device import RealDevice
from unbrickd.cli.console import Narrator
from unbrickd.errors import ConfigError, FlashError

DEFAULT_LAYOUT = Path("/etc/unbrickd/layout.toml")
EXIT_NO_SERVER = 3
"""No server helped in time; everything else went well."""
_LOCK = "device.lock"


def add_places(parser: argparse.ArgumentParser, *, inherit: bool = False) -> None:
    """--layout and --state. inherit: the parser is an action's, and its command has them already."""
    parser.add_argument(
        "--layout",
        type=Path,
        default=argparse.SUPPRESS if inherit else DEFAULT_LAYOUT,
        metavar="FILE",
        help=f"the device's layout file (default: {DEFAULT_LAYOUT}; docs/layout.md)",
    )
    parser.add_argument(
        "--state",
        type=Path,
        default=argparse.SUPPRESS if inherit else None,
        metavar="DIR",
        help="where the agent keeps its state (default: `state` beside the layout file)",
    )


def state_folder(args: argparse.Namespace) -> Path:
    layout: Path = args.layout
    state: Path | None = args.state
    return layout.parent / "state" if state is None else state


@contextmanager
def alone(state: Path) -> Iterator[None]:
    """Be the only agent or recovery of the device. Raises ConfigError `in-use`, `not-writable`."""
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(state / _LOCK, thread_local=False)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            "another `unbrickd agent` or `unbrickd recover` is at work on this device",
            code="in-use",
            hint="stop it first; `unbrickd agent notify` tells a running agent of changes",
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{state} cannot be used: {error.strerror}", code="not-writable", hint="choose another --state"
        ) from error
    try:
        yield
    finally:
        lock.release()


def is_in_use(state: Path) -> bool:
    """Whether an agent or a recovery is at work."""
    if not (state / _LOCK).exists():
        return False
    try:
        with alone(state):
            return False
    except ConfigError as error:
        return error.code == "in-use"


@contextmanager
def stopping_signals() -> Iterator[Callable[[], bool]]:
    """Within the context SIGINT and SIGTERM end nothing at once; what it gives says whether one came."""
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def load_commands(device: RealDevice, narrator: Narrator) -> None:
    """Take in what the device's commands print. One that fails leaves its component erased, hence damaged."""
    for slot, flash in device.commands():
        try:
            flash.load()
        except FlashError as error:
            narrator.say("CommandFailed", text=f"trouble: {slot.name}: {error}", component=slot.name)
