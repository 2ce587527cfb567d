# SPDX-License-Identifier: Apache-2.0
"""devices, generations, show, verify, export, delete, pin and unpin, on a real store; and the entry they share."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import sys
from pathlib import Path

import pytest

from unbrickd.adapters.store.open import open_vault
from unbrickd.cli import main as entry
from unbrickd.cli.main import COMMANDS, main
from unbrickd.model.geometry import Geometry
from unbrickd.model.manifest import ComponentKind, Generation, Manifest
from unbrickd.seal.content import seal_erase_block
from unbrickd.seal.generation import good_seal, seal_generation
from unbrickd.seal.identity import FirmwarePolicy, Identity, encode_recovery_code
from unbrickd.seal.keys import DeviceKeys
from unbrickd.seal.manifest import build_manifest

ERASE_BLOCK_BYTES = 4096
FIRMWARE = bytes(range(256)) * 40
CONFIG = b"password=secret\n" * 300
KEYS = DeviceKeys.of(
    Identity.generate(
        model="rx1", policy=FirmwarePolicy.OWNER, entropy=lambda count: hashlib.shake_256(b"cli").digest(count)
    )
)
DEVICE_ID = KEYS.identity.device_id
CODE = encode_recovery_code(KEYS.identity.recovery_secret)


def manifest_of(cid: int, kind: ComponentKind, octets: bytes, *, sealed: bool) -> Manifest:
    return build_manifest(
        component_id=cid,
        kind=kind,
        name=kind.name.lower(),
        version=f"{cid}.0",
        geometry=Geometry.uniform(total_bytes=len(octets), erase_block_bytes=ERASE_BLOCK_BYTES),
        image=lambda offset, length: octets[offset : offset + length],
        length_bytes=len(octets),
        content_keys=KEYS.content if sealed else None,
    )


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Generation 1, good, and 2, on trial, of one device with an open firmware and a sealed configuration."""
    directory = tmp_path / "store"
    monkeypatch.setenv("UNBRICKD_STORE", str(directory))
    monkeypatch.setenv("UNBRICKD_CONFIG", os.devnull)
    with open_vault(directory, exclusive=True) as vault:
        for number, firmware in ((1, FIRMWARE), (2, FIRMWARE[::-1])):
            parts = (
                (manifest_of(1, ComponentKind.FIRMWARE, firmware, sealed=False), firmware),
                (manifest_of(2, ComponentKind.CONFIG, CONFIG, sealed=True), CONFIG),
            )
            for manifest, octets in parts:
                staging = vault.stage(DEVICE_ID, manifest)
                for block, size in manifest.erase_blocks():
                    piece = octets[block.offset_bytes : block.offset_bytes + size]
                    if manifest.sealed:
                        place = {"component_id": manifest.component_id, "index": block.index}
                        _, piece = seal_erase_block(KEYS.content, plaintext=piece, **place)
                    assert staging.put(block.index, piece)
                vault.commit_image(staging)
            generation = Generation(
                device_id=DEVICE_ID, model="rx1", number=number, components=tuple(m for m, _ in parts)
            )
            sealed = seal_generation(KEYS, generation)
            vault.commit_generation(sealed, good_seal(KEYS, sealed) if number == 1 else None)
    return directory


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> object:
    code, out, err = run(capsys, *arguments, "--json")
    assert (code, err) == (0, "")
    value: object = json.loads(out)
    return value


def test_devices_lists_what_is_backed_up(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_json(capsys, "devices") == [
        {
            "device_id": DEVICE_ID.hex(),
            "name": f"rx1-{DEVICE_ID.hex()[:4]}",
            "model": "rx1",
            "last_seen": None,
            "generations": 2,
            "newest": 2,
            "newest_good": 1,
        }
    ]
    code, out, _ = run(capsys, "devices")
    assert code == 0 and out.split("\t")[1:5] == [DEVICE_ID.hex(), "rx1", "2", "1"]


def test_devices_name_gives_a_device_a_name_by_which_it_is_found(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "devices", "--name", DEVICE_ID.hex()[:6], "kitchen")
    assert code == 0 and out.startswith("kitchen\t")
    assert run(capsys, "generations", "kitchen")[0] == 0


def test_generations_lists_newest_first_with_their_states(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "generations", DEVICE_ID.hex()[:5])
    assert code == 0
    assert [(line.split("\t")[0], line.split("\t")[3]) for line in out.splitlines()] == [("2", "trial"), ("1", "good")]


@pytest.mark.parametrize(
    ("device", "said"),
    [("nobody", "no device 'nobody' is backed up here"), ("", "no device '' is backed up here")],
)
def test_device_that_is_not_there_is_an_error_with_a_hint(
    store: Path, capsys: pytest.CaptureFixture[str], device: str, said: str
) -> None:
    assert run(capsys, "show", device) == (2, "", f"error: {said}\nhint: `unbrickd devices` lists them\n")


def test_show_names_the_newest_good_generation_and_its_components(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = run_json(capsys, "show", DEVICE_ID.hex())
    assert isinstance(shown, dict)
    assert (shown["number"], shown["good"]) == (1, True)
    assert [(c["name"], c["length_bytes"], c["sealed"], c["held"]) for c in shown["components"]] == [
        ("firmware", len(FIRMWARE), False, True),
        ("config", len(CONFIG), True, True),
    ]
    code, out, _ = run(capsys, "show", DEVICE_ID.hex(), "2")
    assert code == 0 and out.startswith(f"generation 2 of rx1-{DEVICE_ID.hex()[:4]} (rx1)\ntrial;")
    code, _, err = run(capsys, "show", DEVICE_ID.hex(), "9")
    assert code == 2 and "there is no generation 9 of rx1-" in err


def test_export_without_the_code_leaves_sealed_components_encrypted_and_says_so(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "out"
    code, out, _ = run(capsys, "export", DEVICE_ID.hex(), "--to", str(to))
    assert code == 0 and "config.sealed" in out
    assert (to / "firmware.bin").read_bytes() == FIRMWARE
    sealed = (to / "config.sealed").read_bytes()
    assert len(sealed) == len(CONFIG) and b"secret" not in sealed
    readme = (to / "README.txt").read_text(encoding="utf-8")
    assert hashlib.sha256(FIRMWARE).hexdigest() in readme and "ENCRYPTED: do not flash it" in readme
    assert sorted(p.name for p in to.iterdir()) == ["README.txt", "config.sealed", "firmware.bin", "generation.ubgn"]


def test_export_with_the_code_gives_back_what_was_in_flash(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getpass", lambda _: CODE.lower())
    to = tmp_path / "out"
    exported = run_json(capsys, "export", DEVICE_ID.hex(), "2", "--to", str(to), "--recovery-code", "-")
    assert isinstance(exported, dict) and [f["encrypted"] for f in exported["files"]] == [False, False]
    assert (to / "config.bin").read_bytes() == CONFIG
    assert (to / "firmware.bin").read_bytes() == FIRMWARE[::-1]
    assert "ENCRYPTED" not in (to / "README.txt").read_text(encoding="utf-8")


def test_export_with_another_devices_code_writes_no_file_under_its_name(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(
        capsys,
        "export",
        DEVICE_ID.hex(),
        "--to",
        str(tmp_path / "o"),
        "--recovery-code",
        encode_recovery_code(bytes(16)),
    )
    assert code == 5 and "config does not open with this recovery code\nhint:" in err
    assert [p.name for p in (tmp_path / "o").iterdir()] == ["firmware.bin"]


def test_export_into_a_directory_with_files_is_refused(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "precious").touch()
    code, _, err = run(capsys, "export", DEVICE_ID.hex(), "--to", str(tmp_path))
    assert code == 2 and "is not empty" in err


def test_verify_finds_a_flipped_bit_and_marks_it(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "verify")[:2] == (0, "every backup is whole\n")
    image = max((store / "images").glob("??/*.img"), key=lambda p: p.stat().st_size)
    octets = bytearray(image.read_bytes())
    octets[5000] ^= 1
    image.write_bytes(octets)
    code, out, _ = run(capsys, "verify", "--json")
    found = json.loads(out)
    assert code == 5 and found["damaged"] and "rotten-image" in [f["kind"] for f in found["findings"]]
    _, out, _ = run(capsys, "generations", DEVICE_ID.hex())
    assert "damaged" in out


def test_verify_rebuild_makes_a_lost_catalogue_again(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = run_json(capsys, "show", DEVICE_ID.hex(), "2")
    (store / "catalogue.sqlite3").unlink()
    assert run(capsys, "devices")[0] == 4
    code, out, err = run(capsys, "verify", "--rebuild")
    assert (code, out) == (0, "every backup is whole\n") and "2 generations" in err
    after = run_json(capsys, "show", DEVICE_ID.hex(), "2")
    assert isinstance(before, dict) and isinstance(after, dict)
    assert before["digest"] == after["digest"]


def test_delete_protects_the_last_good_and_pinned_ones_unless_forced(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device = DEVICE_ID.hex()
    code, _, err = run(capsys, "delete", device, "1")
    assert code == 4 and "last good one" in err
    assert run(capsys, "pin", device, "2")[0] == 0
    assert run(capsys, "delete", device, "2")[0] == 4
    assert run(capsys, "unpin", device, "2")[0] == 0
    assert run(capsys, "delete", device, "2")[0] == 0
    assert run(capsys, "delete", device, "1", "--force")[0] == 0
    assert run_json(capsys, "generations", device) == []


@pytest.mark.parametrize("command", [["delete"], ["pin"], ["unpin"]])
def test_commands_that_change_the_store_are_refused_while_a_server_runs_and_others_are_not(
    store: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    with open_vault(store, exclusive=True):
        code, _, err = run(capsys, *command, DEVICE_ID.hex(), "1")
        assert code == 4 and "uses this store" in err
        assert run(capsys, "verify")[:2] == (0, "every backup is whole\n")
        assert run(capsys, "generations", DEVICE_ID.hex())[0] == 0


def test_store_that_is_not_there_is_an_error_and_is_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = tmp_path / "nowhere"
    for command in (["devices"], ["verify"], ["pin", "x", "1"], ["verify", "--rebuild"]):
        code, _, err = run(capsys, *command, "--store", str(nowhere))
        assert code == 4 and "there is no store in" in err
    assert not nowhere.exists()


def test_store_that_one_may_not_look_into_is_an_error_that_says_who_may(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)  # root may look into everything
    monkeypatch.setenv("UNBRICKD_STORE", str(tmp_path))
    for command in (["devices"], ["verify"], ["pin", "x", "1"], ["verify", "--rebuild"]):
        code, out, err = run(capsys, *command)
        assert (code, out) == (4, "") and "you may not look into" in err and "hint: run this as the user" in err


def test_devices_of_an_empty_store_says_where_to_look_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_vault(tmp_path, exclusive=True):
        code, out, err = run(capsys, "devices", "--store", str(tmp_path))
    assert (code, out) == (0, "") and "no device is backed up here yet" in err


@pytest.mark.parametrize(
    "command", ["serve", "devices", "generations", "show", "verify", "export", "delete", "pin", "unpin"]
)
def test_command_help_teaches_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command in COMMANDS
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"  unbrickd {command}" in capsys.readouterr().out


def test_main_interrupted_returns_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("unbrickd.cli.devices.run", interrupt)
    assert main(["devices"]) == entry.EXIT_INTERRUPTED == 130


def test_main_whose_reader_went_away_ends_quietly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def lose(_: object) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("unbrickd.cli.devices.run", lose)
    with (tmp_path / "out").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert main(["devices"]) == 0


def test_tables_are_coloured_nowhere_but_on_a_terminal(
    store: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    out = io.StringIO()
    out.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["devices"]) == 0
    assert "newest good" in out.getvalue() and "\x1b[3" not in out.getvalue()
