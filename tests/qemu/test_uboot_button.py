# SPDX-License-Identifier: Apache-2.0
"""The button and the light, through U-Boot's BUTTON and LED classes, on lines of a real (emulated) PL061.

The host holds the button's line and reads the light's register while U-Boot runs (tools/lab/pins.py).
"""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest
from tests.qemu.bench import PROMPT, Laboratory, record_of, serving
from tests.qemu.small import Small, bootloader
from tools.lab.console import Console
from tools.lab.pins import BUTTON, LIGHT, Pins, options, pins
from tools.lab.tiny import UP

pytestmark = pytest.mark.qemu

PATIENCE_S = 60.0
SAMPLE_S = 0.02
BLINKS_S = 4.5
"""Two periods of "please start the server", and a bit."""


def seen(light: Pins, duration_s: float) -> list[tuple[bool, float]]:
    """On or off, and for how long, one after the other; the first and the last are cut."""
    runs: list[tuple[bool, float]] = []
    began_s = at_s = time.monotonic()
    state = light.is_on(LIGHT)
    while (now_s := time.monotonic()) - began_s < duration_s:
        if light.is_on(LIGHT) is not state:
            runs.append((state, now_s - at_s))
            state, at_s = not state, now_s
        time.sleep(SAMPLE_S)
    return [*runs, (state, now_s - at_s)]


def at_prompt(console: Console) -> None:
    console.expect("Hit any key", timeout_s=PATIENCE_S)
    console.type(" ")
    console.expect(PROMPT, timeout_s=PATIENCE_S)


def test_power_on_button_held_restores_though_the_flash_is_sound(
    laboratory: Laboratory, small: Small, server_address: str, tmp_path: Path
) -> None:
    port = server_address.rpartition(":")[2]
    flash = small.flash_copy(tmp_path, unbrickd_port=port, bootdelay="1")
    before = record_of(flash, small.keys)
    with bootloader(laboratory, flash, options=options(tmp_path)) as console, pins(tmp_path) as board:
        at_prompt(console)
        assert not board.is_on(LIGHT)
        board.hold(BUTTON)
        console.type("run bootcmd\n")
        console.expect("the button is held", timeout_s=PATIENCE_S)
        console.expect("light: please start unbrickd on your PC", timeout_s=PATIENCE_S)
        whole = seen(board, BLINKS_S)[1:-1]
        assert len(whole) >= 2
        assert all(state is not after for (state, _), (after, _) in pairwise(whole))
        assert [round(length_s) for _, length_s in whole] == [1] * len(whole), whole
        board.hold(BUTTON, pressed=False)
        with serving(small.store_copy(tmp_path), server_address):
            console.expect("restored generation 1, 0 bytes", timeout_s=PATIENCE_S)
            console.expect("the flash is sound", timeout_s=PATIENCE_S)
            console.expect("light: sound, booting", timeout_s=PATIENCE_S)
            console.expect(UP, timeout_s=PATIENCE_S)
    assert small.differs(flash) == []
    after = record_of(flash, small.keys)
    assert before is not None and after is not None
    assert after.record.sealed.document == before.record.sealed.document
