# SPDX-License-Identifier: Apache-2.0
"""`unbrickd agent` and `unbrickd recover` where no server is needed: notices, status, checks, and who may run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unbrickd.adapters.device import open_device, read_layout
from unbrickd.adapters.memory import save_memory
from unbrickd.adapters.notices import LetterBox, What
from unbrickd.agent.agent import Memory
from unbrickd.agent.software import DeviceSoftware
from unbrickd.cli.agent.serve import MEMORY_FILE
from unbrickd.cli.main import main
from unbrickd.cli.real_device import alone
from unbrickd.errors import ConfigError, FlashError, IntegrityError
from unbrickd.sim.file_device import FileDevice, make_file_device


@pytest.fixture
def device(tmp_path: Path) -> FileDevice:
    return make_file_device(
        tmp_path / "device",
        firmware=b"firmware" * 1000,
        settings=b"settings" * 10,
        server="127.0.0.1:9",
        entropy=bytes,
    )


@pytest.fixture
def recorded(device: FileDevice) -> FileDevice:
    """The device with its first boot record."""
    with open_device(read_layout(device.layout), base=device.folder, write_components=False) as opened:
        for _, flash in opened.commands():
            flash.load()
        DeviceSoftware(opened.flash).record_change({s.component_id: opened.installed(s) for s in opened.flash.slots})
    return device


def state(device: FileDevice) -> Path:
    return device.folder / "state"


def run(device: FileDevice, *words: str) -> int:
    return main([*words, "--layout", str(device.layout)])


def test_notify_no_agent_runs_leaves_a_notice(device: FileDevice) -> None:
    for what in What:
        assert run(device, "agent", "notify", what.value) == 0
    assert {notice.what for notice in LetterBox(state(device)).waiting()} == set(What)


def test_notify_state_elsewhere_leaves_it_there(device: FileDevice, tmp_path: Path) -> None:
    assert run(device, "agent", "notify", "upgraded", "--state", str(tmp_path / "s")) == 0
    assert run(device, "agent", "--state", str(tmp_path / "s"), "notify", "upgraded") == 0
    assert len(LetterBox(tmp_path / "s").waiting()) == 2


def test_notify_wait_no_agent_fails_and_the_notice_stays(
    device: FileDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(device, "agent", "notify", "upgraded", "--wait", "0") == ConfigError.exit_code
    assert "hint: the notice stays" in capsys.readouterr().err
    assert len(LetterBox(state(device)).waiting()) == 1


def test_status_new_device_has_nothing_yet(device: FileDevice, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(device, "agent", "status", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["model"], shown["generation"], shown["good"], shown["last_backup"]) == ("files-1", None, None, None)
    assert (shown["running"], shown["pending"], shown["server_missing"], shown["notices"]) == (False, False, False, 0)


def test_status_backed_up_device_shows_it_to_programs_and_people(
    recorded: FileDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    state(recorded).mkdir()
    memory = Memory(last_success_wall_s=1274313600.0, server_missing=True, pending=True)
    save_memory(state(recorded) / MEMORY_FILE, memory)
    LetterBox(state(recorded)).leave(What.UPGRADED)
    with alone(state(recorded)):
        assert run(recorded, "agent", "status", "--json") == 0
        shown = json.loads(capsys.readouterr().out)
    assert (shown["generation"], shown["good"], shown["last_backup"]) == (1, True, "2010-05-20T00:00:00+00:00")
    assert (shown["running"], shown["pending"], shown["server_missing"], shown["notices"]) == (True, True, True, 1)
    assert run(recorded, "agent", "status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["server", "missing:", "yes"] for line in lines)
    assert any(line.split() == ["running:", "no"] for line in lines)


@pytest.mark.parametrize("words", [["agent", "--once"], ["recover"]])
def test_agent_and_recover_another_is_at_work_refused(
    recorded: FileDevice, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = recorded.record.read_bytes()
    with alone(state(recorded)):
        assert run(recorded, *words) == ConfigError.exit_code
    assert "hint: " in capsys.readouterr().err
    assert recorded.record.read_bytes() == before


def test_recover_check_beside_a_running_agent_writes_nothing(
    recorded: FileDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    def files() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in recorded.folder.iterdir() if p.is_file()}

    with alone(state(recorded)):
        before = files()
        assert run(recorded, "recover", "--check", "--json") == 0
        assert files() == before
    checked = json.loads(capsys.readouterr().out)
    assert (checked["event"], checked["reason"], checked["restore"]) == ("Checked", "sound", False)


def test_recover_check_damage_is_located(recorded: FileDevice, capsys: pytest.CaptureFixture[str]) -> None:
    octets = bytearray(recorded.firmware.read_bytes())
    octets[4096] ^= 0x80
    recorded.firmware.write_bytes(octets)
    recorded.settings.unlink()
    assert run(recorded, "recover", "--check", "--json") == IntegrityError.exit_code
    failed, checked = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (failed["event"], failed["component"]) == ("CommandFailed", "config")
    assert {c["name"]: c["damaged"] for c in checked["components"]} == {"firmware": [1], "config": [0]}


def test_recover_check_no_record_says_so(device: FileDevice, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(device, "recover", "--check") == IntegrityError.exit_code
    assert "boot record is lost" in capsys.readouterr().out


def test_recover_sound_device_needs_no_server_and_runs_no_command(recorded: FileDevice) -> None:
    before = recorded.settings.read_bytes(), recorded.firmware.read_bytes()
    assert run(recorded, "recover") == 0
    assert (recorded.settings.read_bytes(), recorded.firmware.read_bytes()) == before


def test_agent_record_lost_after_a_backup_does_not_begin_anew(
    device: FileDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    state(device).mkdir()
    save_memory(state(device) / MEMORY_FILE, Memory(last_success_wall_s=1.0))
    before = device.record.read_bytes()
    assert run(device, "agent", "--once") == IntegrityError.exit_code
    assert "unbrickd recover" in capsys.readouterr().err
    assert device.record.read_bytes() == before


def test_agent_layout_or_flash_missing_refused(device: FileDevice, tmp_path: Path) -> None:
    assert main(["agent", "--layout", str(tmp_path / "none.toml")]) == ConfigError.exit_code
    device.firmware.unlink()
    assert run(device, "agent") == FlashError.exit_code
