# SPDX-License-Identifier: Apache-2.0
"""`unbrickd gateway` as a device maker uses it: real processes, a real server, real sockets on loopback."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from unbrickd.cli.demo_process import GatewayProcess, ServerProcess
from unbrickd.cli.text import JsonValue

pytestmark = pytest.mark.slow

SMALL = ["--flash-size", "1MiB", "--erase-block", "16KiB", "--good-after", "0.3", "--backup-after", "0.1"]


def unbrickd(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "unbrickd", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def ok(*arguments: str | Path) -> str:
    result = unbrickd(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "store", "udp") as process:
        yield process


@pytest.fixture
def gateway(tmp_path: Path, server: ServerProcess) -> Path:
    directory = tmp_path / "gw"
    ok("gateway", "create", directory, "--server", server.address, *SMALL)
    return directory


def component(directory: Path, name: str) -> bytes:
    out = directory.parent / f"{name}.out"
    ok("gateway", "extract", directory, name, out)
    return out.read_bytes()


def run_until(directory: Path, until: str, *options: str) -> list[dict[str, JsonValue]]:
    with GatewayProcess(directory, "--until", until, *options) as process:
        return [dict(event) for event in process.events()]


def named(events: list[dict[str, JsonValue]], name: str) -> list[dict[str, JsonValue]]:
    return [e for e in events if e["event"] == name]


def test_gateway_damaged_blocks_are_restored_and_nothing_else(gateway: Path) -> None:
    before = component(gateway, "firmware")
    run_until(gateway, "good")
    ok("gateway", "damage", gateway, "--random", "3", "--seed", "5")
    assert component(gateway, "firmware") != before
    events = run_until(gateway, "booted")
    assert len(named(events, "EraseBlockRestored")) == 3
    assert component(gateway, "firmware") == before
    assert json.loads(ok("gateway", "status", gateway, "--json"))["bootable"] is True


def test_gateway_second_backup_moves_nothing(gateway: Path) -> None:
    run_until(gateway, "good")
    (outcome,) = (e["outcome"] for e in named(run_until(gateway, "backed-up"), "BackupEnded"))
    assert isinstance(outcome, dict)
    assert outcome["payload_bytes"] == 0


def test_gateway_running_takes_config_and_upgrade_and_backs_both_up(gateway: Path, tmp_path: Path) -> None:
    run_until(gateway, "good")
    config, firmware = tmp_path / "config", tmp_path / "firmware"
    config.write_bytes(b"hostname=changed\n" * 50)
    firmware.write_bytes(bytes(range(256)) * 1000)
    with GatewayProcess(gateway) as process:
        events = process.events()
        wait_for(events, "SystemUp")
        assert "changed" in ok("gateway", "set-config", gateway, config)
        assert "config" in str(wait_for_upload(events)["uploaded"])
        assert "installed" in ok("gateway", "upgrade", gateway, firmware, "--version", "2.0")
        wait_for(events, "PowerOn")
        assert "firmware" in str(wait_for_upload(events)["uploaded"])
        status = json.loads(ok("gateway", "status", gateway, "--json"))
        assert (status["power"], status["state"]) == ("on", "running")
        ok("gateway", "cut-power", gateway)
    assert component(gateway, "config") == config.read_bytes()
    assert component(gateway, "firmware") == firmware.read_bytes()


def wait_for(events: Iterator[dict[str, JsonValue]], name: str) -> dict[str, JsonValue]:
    return next(e for e in events if e["event"] == name)


def wait_for_upload(events: Iterator[dict[str, JsonValue]]) -> dict[str, JsonValue]:
    while True:
        outcome = wait_for(events, "BackupEnded")["outcome"]
        assert isinstance(outcome, dict)
        assert outcome["ending"] == "committed"
        if outcome["uploaded"]:
            return outcome


def test_gateway_firmware_that_hangs_is_left_for_the_one_before(gateway: Path, tmp_path: Path) -> None:
    run_until(gateway, "good")
    before = component(gateway, "firmware")
    firmware = tmp_path / "firmware"
    firmware.write_bytes(b"\x5a" * 200_000)
    ok("gateway", "upgrade", gateway, firmware, "--version", "2.0", "--hangs")
    events = run_until(gateway, "booted")
    assert len(named(events, "Hung")) == 3
    assert named(events, "Booting")[-1]["went_back_from"] == 2
    assert component(gateway, "firmware") == before


def test_gateway_button_restores_though_sound(gateway: Path) -> None:
    run_until(gateway, "good")
    ok("gateway", "press-button", gateway)
    events = run_until(gateway, "booted")
    assert named(events, "Checked")[0]["reason"] == "button"
    assert named(events, "Restored")
    assert named(run_until(gateway, "booted"), "Checked")[0]["reason"] == "sound"


def test_gateway_without_server_waits_with_its_light_and_goes_on(gateway: Path, server: ServerProcess) -> None:
    run_until(gateway, "good")
    before = component(gateway, "firmware")
    server.stop()
    ok("gateway", "damage", gateway, "--erase-blocks", "0,2-4")
    with GatewayProcess(gateway, "--until", "booted") as process:
        events = process.events()
        assert wait_for(events, "LightChanged")["light"] == "start-server"
        time.sleep(1.0)
        server.start()
        assert wait_for(events, "Restored")["generation"] == 1
        wait_for(events, "PowerOff")
    assert component(gateway, "firmware") == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_gateway_stopped_while_it_waits_ends_cleanly(gateway: Path, server: ServerProcess, number: int) -> None:
    server.stop()
    ok("gateway", "damage", gateway, "--erase-blocks", "1")
    with GatewayProcess(gateway) as process:
        events = process.events()
        wait_for(events, "LightChanged")
        assert process.process is not None
        process.process.send_signal(number)
        wait_for(events, "PowerOff")
        assert process.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create", "{gw}"], "is not empty"),
        (["create", "{new}", "--firmware", "{none}"], "cannot be read"),
        (["create", "{new}", "--flash-size", "1MiB", "--firmware", "{big}"], "do not fit the partition of firmware"),
        (["create", "{new}", "--flash-size", "100KiB"], "not a whole number of erase blocks"),
        (["create", "{new}", "--flash-size", "384KiB"], "leave no room for firmware"),
        (["create", "{new}", "--layout", "{big}"], "Invalid statement (at line 1"),
        (["power-on", "{none}"], "is no virtual gateway"),
        (["status", "{none}"], "is no virtual gateway"),
        (["damage", "{gw}", "--random", "9999"], "erase blocks in use"),
        (["damage", "{gw}", "--erase-blocks", "9999"], "erase block 9999"),
        (["damage", "{gw}", "--erase-blocks", "x"], "is not a list like"),
        (["damage", "{gw}", "--partition", "nope", "--erase-blocks", "0"], "there is no partition"),
        (["damage", "{gw}", "--partition", "bootloader", "--erase-blocks", "0"], "protected"),
        (["upgrade", "{gw}", "{big}", "--version", "2"], "do not fit"),
        (["set-config", "{gw}", "{big}"], "do not fit"),
        (["set-config", "{gw}", "{none}"], "cannot be read"),
        (["extract", "{gw}", "nope", "{new}"], "there is no component"),
        (["cut-power", "{gw}"], "is off"),
        (["back-up", "{gw}"], "is off"),
    ],
)
def test_gateway_bad_input_is_a_clear_error_and_harms_nothing(
    gateway: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "big").write_bytes(bytes(2 << 20))
    names = {"gw": gateway, "new": tmp_path / "new", "none": tmp_path / "none", "big": tmp_path / "big"}
    before = (gateway / "flash.img").read_bytes()
    result = unbrickd("gateway", *(a.format(**names) for a in arguments))
    assert result.returncode not in (0, 1), result.stdout
    assert result.stderr.startswith("error: "), result.stderr
    assert words in result.stderr
    assert (gateway / "flash.img").read_bytes() == before
