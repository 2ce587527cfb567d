# SPDX-License-Identifier: Apache-2.0
"""A kernel of a few instructions, for tests whose point is made once the firmware runs: files/firmware.S."""

from __future__ import annotations

from pathlib import Path

from tools.lab import debian
from tools.lab.build import ARM
from tools.lab.steps import FILES, Words, kept, run

_SOURCE = FILES / "firmware.S"
UP = r"gateway firmware is up"
"""What it says when it comes up; then it switches off."""


def tiny_kernel(*, comes_up: bool) -> Path:
    """One that comes up, or one that restarts instead."""
    flags: Words = ["-DCOMES_UP"] if comes_up else []

    def make(folder: Path) -> None:
        debian.need(*ARM.packages)
        run([f"{ARM.compiler}gcc", "-c", *flags, "-o", "kernel.o", _SOURCE], folder=folder)
        run([f"{ARM.compiler}objcopy", "-O", "binary", "kernel.o", "kernel"], folder=folder)

    return kept("tiny-kernel", make, texts=[*map(str, flags)], files=[_SOURCE]) / "kernel"
