# SPDX-License-Identifier: Apache-2.0
"""A real device made of files and a command, backed up and healed by the real programs over loopback."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from unbrickd.cli.demo_process import ServerProcess
from unbrickd.cli.text import JsonValue
from unbrickd.sim.file_device import FileDevice, make_file_device

ERASE_BLOCK_BYTES = 4096
PATIENCE_S = 60

Events = list[dict[str, JsonValue]]


@pytest.fixture(params=["udp", "tcp"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "store", request.param) as running:
        yield running


@pytest.fixture
def udp_server(tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path / "store", "udp") as running:
        yield running


def make(
    folder: Path, server: ServerProcess, *, good_after_s: float = 0.3, wait_s: float = 60.0, transport: str = "udp"
) -> FileDevice:
    rng = random.Random(20100520)
    device = make_file_device(
        folder / "device",
        firmware=rng.randbytes(30 * ERASE_BLOCK_BYTES + 1234) + b"\0",
        settings=b"option hostname 'home'\n" * 300,
        server=server.address,
        entropy=rng.randbytes,
        good_after_s=good_after_s,
        wait_s=wait_s,
    )
    if transport == "tcp":
        text = device.layout.read_text(encoding="utf-8")
        device.layout.write_text(text.replace("[link]\n", '[link]\ntransport = "tcp"\n'), encoding="utf-8")
    return device


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "unbrickd", *words]


def unbrickd(*words: str) -> tuple[int, str, str]:
    done = subprocess.run(command(*words), capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    return done.returncode, done.stdout, done.stderr


def run_on(device: FileDevice, *words: str, code: int = 0) -> Events:
    """Run one command on the device and return its events."""
    found, out, err = unbrickd(*words, "--layout", str(device.layout), "--json")
    assert found == code, f"{words} ended with {found}:\n{out}\n{err}"
    return [json.loads(line) for line in out.splitlines()]


@contextmanager
def running_agent(device: FileDevice) -> Iterator[subprocess.Popen[str]]:
    """`unbrickd agent`, ended as an init system ends it; it must say goodbye with 0."""
    process = subprocess.Popen(
        command("agent", "--layout", str(device.layout), "--json"), stdout=subprocess.PIPE, text=True
    )
    watchdog = threading.Timer(PATIENCE_S, process.kill)  # so that a test that waits in vain for an event fails
    watchdog.start()
    try:
        yield process
        process.terminate()
        code = process.wait(PATIENCE_S)
        assert code == 0 or os.name == "nt", "Windows knows no way to ask"
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()


def until(process: subprocess.Popen[str], name: str, **wanted: JsonValue) -> dict[str, JsonValue]:
    """The next event of that name with these values."""
    assert process.stdout is not None
    for line in process.stdout:
        event: dict[str, JsonValue] = json.loads(line)
        if event["event"] == name and all(event.get(key) == value for key, value in wanted.items()):
            return event
    raise AssertionError(f"the agent ended before {name} {wanted}")


def damage(path: Path, *indexes: int) -> None:
    octets = bytearray(path.read_bytes())
    for index in indexes:
        at = index * ERASE_BLOCK_BYTES
        octets[at : at + ERASE_BLOCK_BYTES] = random.Random(index).randbytes(ERASE_BLOCK_BYTES)
    path.write_bytes(octets)


def contents(device: FileDevice) -> tuple[bytes, bytes]:
    return device.firmware.read_bytes(), device.settings.read_bytes()


def named(events: Events, name: str) -> Events:
    return [event for event in events if event["event"] == name]


def status(device: FileDevice) -> dict[str, JsonValue]:
    return run_on(device, "agent", "status")[0]


def test_recover_after_damage_everywhere_bytes_are_what_was_backed_up(
    tmp_path: Path, server: ServerProcess, request: pytest.FixtureRequest
) -> None:
    device = make(tmp_path, server, transport=request.node.callspec.params["server"])
    before = contents(device)
    backed_up = run_on(device, "agent", "--once")
    assert named(backed_up, "Provisioned")[0]["generation"] == 1
    shown = status(device)
    assert (shown["generation"], shown["good"], shown["server_missing"], shown["running"]) == (1, True, False, False)
    assert shown["last_backup"] is not None and not shown["pending"]
    run_on(device, "recover", "--check")

    damage(device.firmware, 3, 17, 30)
    damage(device.record, 0)  # one copy of the boot record
    device.settings.write_bytes(b"option hostname 'gone'\n")
    checked = named(run_on(device, "recover", "--check", code=5), "Checked")[0]
    assert isinstance(checked["components"], list)
    found = {str(c["name"]): c["damaged"] for c in checked["components"] if isinstance(c, dict)}
    assert found == {"firmware": [3, 17, 30], "config": [0, 1]}

    events = run_on(device, "recover", "--wait", "30")
    assert contents(device) == before
    fetched = [(e["component"], e["index"]) for e in named(events, "EraseBlockRestored")]
    assert fetched == [("firmware", 3), ("firmware", 17), ("firmware", 30), ("config", 0), ("config", 1)]
    assert named(events, "Booting")[0]["config_default"] is False
    run_on(device, "recover", "--check")
    again = named(run_on(device, "agent", "--once"), "BackupEnded")[0]["outcome"]
    assert isinstance(again, dict) and again["payload_bytes"] == 0, "nothing differs from what the server holds"


def test_recover_record_lost_and_settings_command_fails_restores_all(tmp_path: Path, udp_server: ServerProcess) -> None:
    device = make(tmp_path, udp_server)
    before = contents(device)
    run_on(device, "agent", "--once")
    device.record.write_bytes(b"\xff" * device.record.stat().st_size)
    damage(device.firmware, 0)
    device.settings.unlink()
    code, _, err = unbrickd("agent", "--once", "--layout", str(device.layout))
    assert code == 5 and "unbrickd recover" in err, "a device that was backed up is not begun anew"
    events = run_on(device, "recover", "--wait", "30")
    assert named(events, "CommandFailed")[0]["component"] == "config"
    assert contents(device) == before
    assert status(device)["generation"] == 1


def test_recover_settings_do_not_stay_as_restored_fails(tmp_path: Path, udp_server: ServerProcess) -> None:
    device = make(tmp_path, udp_server)
    run_on(device, "agent", "--once")
    text = device.layout.read_text(encoding="utf-8")
    device.layout.write_text(
        text.replace("sys.stdin.buffer.read()", "sys.stdin.buffer.read() + b'!'"), encoding="utf-8"
    )
    device.settings.write_bytes(b"scrambled")
    assert named(run_on(device, "recover", "--wait", "30", code=5), "HandedBack")


def test_agent_and_recover_no_server_say_so_and_change_nothing(tmp_path: Path, udp_server: ServerProcess) -> None:
    device = make(tmp_path, udp_server)
    udp_server.stop()
    run_on(device, "agent", "--once", code=3)
    shown = status(device)
    assert shown["server_missing"] and shown["pending"] and shown["last_backup"] is None
    run_on(device, "recover", "--wait", "5")  # sound as it is: it needs no server
    damage(device.firmware, 5)
    before = contents(device)
    run_on(device, "recover", "--wait", "0.5", code=3)
    assert contents(device) == before
    device.install(random.Random(20100520).randbytes(30 * ERASE_BLOCK_BYTES + 1234) + b"\0", "1.0")
    device.settings.write_bytes(b"scrambled")
    text = device.layout.read_text(encoding="utf-8")
    device.layout.write_text(text.replace("wait_s = 60.0", "wait_s = 0.5"), encoding="utf-8")
    events = run_on(device, "recover", code=3)
    assert named(events, "Booting")[0]["config_default"] is True
    assert device.settings.read_bytes() == b"scrambled", "nothing unverified is handed to the restore command"
    udp_server.start()


def test_agent_running_records_what_it_is_told_and_nothing_else(tmp_path: Path, udp_server: ServerProcess) -> None:
    device = make(tmp_path, udp_server)
    layout = ("--layout", str(device.layout))
    with running_agent(device) as agent:
        until(agent, "Provisioned", generation=1)
        assert status(device)["running"]
        code, _, err = unbrickd("agent", *layout)
        assert code == 2 and "hint: " in err
        assert unbrickd("recover", *layout)[0] == 2

        device.install(random.Random(2).randbytes(40 * ERASE_BLOCK_BYTES), "2.0")
        damage(device.settings, 0)  # nobody says that the settings were changed …
        assert unbrickd("agent", "notify", "config-changed", *layout, "--wait", "20")[0] == 0  # … but now somebody does
        until(agent, "Recorded", generation=2, components=["config"])
        assert unbrickd("agent", "notify", "upgraded", *layout, "--wait", "20")[0] == 0
        until(agent, "Recorded", generation=3, components=["firmware"])
        until(agent, "ProvedGood", generation=3)
        assert unbrickd("agent", "notify", "back-up", *layout, "--wait", "20")[0] == 0
        outcome = until(agent, "BackupEnded")["outcome"]
        assert isinstance(outcome, dict) and outcome["ending"] == "committed"
    before = contents(device)
    shown = status(device)
    assert (shown["generation"], shown["good"], shown["running"], shown["notices"]) == (3, True, False, 0)

    damage(device.firmware, 1)
    with running_agent(device) as agent:
        assert until(agent, "Differs")["components"] == ["firmware"]
    assert status(device)["generation"] == 3, "damage is not recorded as a change"
    run_on(device, "recover", "--wait", "30")
    assert contents(device) == before


def test_agent_notice_left_while_it_does_not_run_is_seen_to_first(tmp_path: Path, udp_server: ServerProcess) -> None:
    device = make(tmp_path, udp_server)
    run_on(device, "agent", "--once")
    device.install(b"new firmware" * 1000, "2.0")
    assert unbrickd("agent", "notify", "upgraded", "--layout", str(device.layout))[0] == 0
    assert status(device)["notices"] == 1
    events = run_on(device, "agent", "--once")
    assert [e["event"] for e in events[:1]] == ["Recorded"] and not named(events, "Differs")
    shown = status(device)
    assert (shown["generation"], shown["notices"]) == (2, 0)
    assert os.listdir(device.folder / "state" / "notify") == []  # noqa: PTH208
