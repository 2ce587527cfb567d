# SPDX-License-Identifier: Apache-2.0
"""U-Boot with our recovery when the owner's PC does not help: the program is not running, or is killed half-way."""

from __future__ import annotations

import random
import re
import shutil
import socket
import time
from pathlib import Path

import pytest
from tests.qemu.bench import BackedUp, Bench, serving
from tests.qemu.healing import BOOTING, RESTORE_PATIENCE_S, assert_healed, erase_blocks, restored_in
from tools.lab.gateway import ENVIRONMENT, ERASE_BLOCK_BYTES, FIRMWARE

from unbrickd.cli.demo_process import ServerProcess
from unbrickd.wire import messages as m
from unbrickd.wire.packet import decode

pytestmark = pytest.mark.qemu

SEED = 20100520
DAMAGED = 24
PROBES = 8
"""The last of them 2 s apart (spec/protocol.md §6)."""
LEAST_S = 5.5
"""So many take 7.15 s together, or 20 % less: the first two come within 0.05 s and count as one."""
PROBE_PATIENCE_S = 60.0
SAME_PROBE_S = 0.1
"""Each goes to two broadcast addresses, which QEMU's network both takes for the host."""


def damage(bench: Bench, backed_up: BackedUp) -> list[int]:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    indexes = sorted(rng.sample(range(erase_blocks(backed_up.image)), DAMAGED))
    bench.flash.damage(FIRMWARE, indexes, rng)
    return indexes


def hear_probes(address: str, count: int) -> float:
    """Listen in the server's place, and say nothing. How long it was from the first of so many Probes to the last."""
    host, _, port = address.rpartition(":")
    heard_s: list[float] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.bind((host, int(port)))
        ear.settimeout(PROBE_PATIENCE_S)
        while len(heard_s) < count:
            message = decode(ear.recv(1 << 16)).message
            assert isinstance(message, m.Probe) and message.purpose is m.Purpose.RESTORE
            if not heard_s or time.monotonic() - heard_s[-1] > SAME_PROBE_S:
                heard_s.append(time.monotonic())
    return heard_s[-1] - heard_s[0]


def kill(server: ServerProcess) -> None:
    """As the task manager does it."""
    assert server.process is not None
    server.process.kill()
    server.process.communicate()


def test_power_on_without_a_server_asks_for_it_and_probes_until_it_is_started(
    healer: Bench, backed_up: BackedUp, server_address: str, tmp_path: Path
) -> None:
    indexes, environment = damage(healer, backed_up), healer.flash.read(ENVIRONMENT)
    damaged = healer.flash.read(FIRMWARE)
    store = tmp_path / "store"
    shutil.copytree(backed_up.store, store)
    with healer.bootloader() as console:
        said = console.expect("(?s)^(.*)light: please start unbrickd on your PC", timeout_s=RESTORE_PATIENCE_S)[1]
        assert f"firmware: {DAMAGED} of" in said.decode()
        assert hear_probes(server_address, PROBES) >= LEAST_S, "at a civil rate"
        assert console.seen("light:|booting|restoring", within_s=0.0) is None
        assert healer.flash.read(FIRMWARE) == damaged, "it waits"
        with serving(store, server_address):
            said = console.expect("(?s)^(.*?)light: restoring, leave the power on", timeout_s=RESTORE_PATIENCE_S)[1]
            assert b"unbrickd: server 10.0.2.2" in said or b"unbrickd: server 127.0.0.1" in said
            said = console.expect(rf"(?s)^(.*?)light: sound, booting\r?\n{BOOTING}", timeout_s=RESTORE_PATIENCE_S)[1]
    assert sorted(restored_in(said.decode())) == [("firmware", index) for index in indexes]
    assert_healed(healer.flash, backed_up, environment)


def test_server_killed_in_the_middle_of_a_restore_goes_on_and_fetches_only_what_is_missing(
    healer: Bench, backed_up: BackedUp, server: ServerProcess
) -> None:
    indexes, environment = damage(healer, backed_up), healer.flash.read(ENVIRONMENT)
    said = ""
    with healer.bootloader() as console:
        for done in (2, 5):
            said += console.expect(rf"(?s)^.*?erase block \d+, {done} of \d+", timeout_s=RESTORE_PATIENCE_S)[0].decode()
            kill(server)
            server.start()
        said += console.expect(rf"(?s)^.*?{BOOTING}", timeout_s=RESTORE_PATIENCE_S)[0].decode()
        console.expect("gateway router7 is up", timeout_s=RESTORE_PATIENCE_S)
    assert said.count("gave up the server: it asks to begin again") == 2
    assert sorted(restored_in(said)) == [("firmware", index) for index in indexes], "each once"
    (payload,) = re.findall(r"restored generation 1, (\d+) bytes", said)
    assert int(payload) == sum(len(backed_up.image[i * ERASE_BLOCK_BYTES :][:ERASE_BLOCK_BYTES]) for i in indexes)
    assert_healed(healer.flash, backed_up, environment)
