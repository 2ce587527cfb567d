# SPDX-License-Identifier: Apache-2.0
"""Light and button of the board: two lines of its PL061, driven and seen by the host while the guest runs.

QEMU's device tree knows neither, so the bootloader is started with one that does. The host reaches the lines by QEMU's
own test protocol (qtest), beside the emulated processor; the guest's driver meets a real register.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from tools.lab import debian
from tools.lab.errors import LabError
from tools.lab.steps import Words, kept, run

LIGHT, BUTTON = 4, 5
"""Lines; QEMU has its own power key on 3."""
_DATA = 0x0903_0000 + (0xFF << 2)
"""All eight lines at once (Arm DDI 0190B, GPIODATA)."""
_NODES = f"""
/ {{
    leds {{
        compatible = "gpio-leds";
        recovery {{ label = "recovery"; gpios = <&{{/pl061@9030000}} {LIGHT} 0>; }};
    }};
    buttons {{
        compatible = "gpio-keys";
        reset {{ label = "reset"; gpios = <&{{/pl061@9030000}} {BUTTON} 0>; }};
    }};
}};
"""
_PATIENCE_S = 10.0


def device_tree(board: Words) -> Path:
    """The device tree of that board with light and button. board: QEMU and its options that make it."""

    def make(folder: Path) -> None:
        debian.need("device-tree-compiler")
        dump = ["-nodefaults", "-display", "none", "-machine", f"dumpdtb={folder / 'plain.dtb'}"]
        run([*board, *dump], folder=folder)
        source = run(["dtc", "-q", "-I", "dtb", "-O", "dts", "plain.dtb"], folder=folder)
        run(["dtc", "-q", "-@", "-O", "dtb", "-o", "board.dtb"], folder=folder, stdin=(source + _NODES).encode())

    return kept("device-tree", make, texts=[*map(str, board), _NODES]) / "board.dtb"


class Pins:
    """The lines of a running board."""

    def __init__(self, qtest: socket.socket, chip: str) -> None:
        self._qtest = qtest
        self._chip = chip

    def hold(self, line: int, *, pressed: bool = True) -> None:
        self._ask(f"set_irq_in {self._chip} unnamed-gpio-in {line} {int(pressed)}")

    def is_on(self, line: int) -> bool:
        return bool(int(self._ask(f"readb {_DATA:#x}"), 16) >> line & 1)

    def _ask(self, command: str) -> str:
        self._qtest.sendall(command.encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            answer += _received(self._qtest)
        status, _, value = answer.decode().strip().partition(" ")
        if status != "OK":
            raise LabError(f"QEMU refused `{command}`: {value}")
        return value or "0"


def options(folder: Path) -> Words:
    """What QEMU is started with so that `pins` reach it; the folder takes the sockets."""
    return [
        *("-qtest", f"unix:{folder / 'qtest'},server=on,wait=off", "-qtest-log", "none"),
        *("-qmp", f"unix:{folder / 'qmp'},server=on,wait=off"),
    ]


@contextlib.contextmanager
def pins(folder: Path) -> Iterator[Pins]:
    """Once QEMU was started."""
    with _connected(folder / "qmp") as qmp, _connected(folder / "qtest") as qtest:
        yield Pins(qtest, _path_of_chip(qmp))


def _connected(path: Path) -> socket.socket:
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(_PATIENCE_S)
        try:
            made.connect(str(path))
        except OSError as error:
            made.close()
            if time.monotonic() >= deadline_s:
                raise LabError(f"QEMU does not listen at {path}") from error
            time.sleep(0.02)
        else:
            return made


def _path_of_chip(qmp: socket.socket) -> str:
    """QEMU numbers the devices that a board is made of; only their types are names."""
    folder = "/machine/unattached"
    for command in (
        {"execute": "qmp_capabilities"},
        {"execute": "qom-list", "arguments": {"path": folder}, "id": "list"},
    ):
        qmp.sendall(json.dumps(command).encode() + b"\n")
    said = b""
    while b'"id": "list"' not in said or not said.endswith(b"\n"):
        said += _received(qmp)
    answers = [json.loads(line) for line in said.splitlines()]
    (found,) = (entry["name"] for entry in answers[-1]["return"] if entry["type"] == "child<pl061>")
    return f"{folder}/{found}"


def _received(connection: socket.socket) -> bytes:
    octets = connection.recv(1 << 16)
    if not octets:
        raise LabError("QEMU ended")
    return octets
