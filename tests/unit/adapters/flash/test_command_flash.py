# SPDX-License-Identifier: Apache-2.0
"""A component behind two commands: contents in, contents out, bounds, and commands that misbehave."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from unbrickd.adapters.flash.command import MAX_STDERR_BYTES, CommandFlash
from unbrickd.errors import FlashError
from unbrickd.flash.write import write_image
from unbrickd.model.geometry import Geometry

GEOMETRY = Geometry.uniform(total_bytes=4 * 4096, erase_block_bytes=4096)
SETTINGS = b"option hostname 'home'\n" * 300


def python(code: str, *args: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code, *args)


def printing(path: Path) -> tuple[str, ...]:
    return python("import pathlib, sys; sys.stdout.buffer.write(pathlib.Path(sys.argv[1]).read_bytes())", str(path))


def taking(path: Path) -> tuple[str, ...]:
    return python("import pathlib, sys; pathlib.Path(sys.argv[1]).write_bytes(sys.stdin.buffer.read())", str(path))


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "settings"
    path.write_bytes(SETTINGS)
    return path


def test_load_command_prints_contents_and_length_are_its_output(settings: Path) -> None:
    flash = CommandFlash(GEOMETRY, printing(settings), ())
    assert flash.read(0, 4) == b"\xff" * 4
    flash.load()
    assert flash.length_bytes == len(SETTINGS)
    assert flash.read(0, GEOMETRY.total_bytes) == SETTINGS.ljust(GEOMETRY.total_bytes, b"\xff")


def test_finish_after_programming_gives_restore_command_exactly_the_image(settings: Path) -> None:
    flash = CommandFlash(GEOMETRY, printing(settings), taking(settings))
    flash.load()
    wanted = bytes(range(256)) * 20 + b"\xff\xff"  # its own 0xFF at the end must not be taken for erased flash
    write_image(flash, wanted)
    assert settings.read_bytes() == SETTINGS, "nothing is handed over before finish"
    assert flash.finish(len(wanted))
    assert settings.read_bytes() == wanted
    flash.load()
    assert flash.length_bytes == len(wanted)


def test_finish_nothing_programmed_runs_no_command(settings: Path) -> None:
    flash = CommandFlash(GEOMETRY, printing(settings), python("raise SystemExit(1)"))
    flash.load()
    assert not flash.finish(flash.length_bytes)


def test_finish_after_erase_only_counts_as_a_change(settings: Path) -> None:
    flash = CommandFlash(GEOMETRY, printing(settings), taking(settings))
    flash.load()
    flash.erase(0)
    assert flash.finish(16)
    assert settings.read_bytes() == b"\xff" * 16


def test_finish_restore_command_fails_raises_and_may_be_called_again(settings: Path) -> None:
    flash = CommandFlash(GEOMETRY, printing(settings), python("import sys; sys.exit('no space left')"))
    flash.load()
    flash.program(0, b"x")
    for _ in range(2):
        with pytest.raises(FlashError, match="exit status 1: no space left"):
            flash.finish(10)


def test_finish_restore_command_reads_no_input_succeeds_by_its_exit_status(settings: Path) -> None:
    geometry = Geometry.uniform(total_bytes=1 << 20, erase_block_bytes=4096)  # more than a pipe holds
    flash = CommandFlash(geometry, printing(settings), python("pass"))
    flash.load()
    flash.program(0, b"x")
    assert flash.finish(geometry.total_bytes)


def test_finish_without_restore_command_raises_read_only(settings: Path) -> None:
    flash = CommandFlash(GEOMETRY, printing(settings), ())
    flash.load()
    flash.program(0, b"x")
    with pytest.raises(FlashError) as caught:
        flash.finish(10)
    assert caught.value.code == "read-only"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import sys; print('half'); sys.exit('the overlay is not mounted')", "the overlay is not mounted"),
        ("raise SystemExit(3)", "exit status 3: it said nothing"),
        ("pass", "printed nothing"),
    ],
)
def test_load_command_fails_raises_and_keeps_contents(settings: Path, code: str, told: str) -> None:
    flash = CommandFlash(GEOMETRY, python(code), ())
    flash.program(0, b"before")
    with pytest.raises(FlashError, match=told) as caught:
        flash.load()
    assert caught.value.code == "command"
    assert flash.read(0, 6) == b"before"


def test_load_command_prints_without_end_is_cut_off(settings: Path) -> None:
    flash = CommandFlash(GEOMETRY, python("import sys\nwhile True: sys.stdout.write('x' * 65536)"), ())
    with pytest.raises(FlashError) as caught:
        flash.load()
    assert caught.value.code == "too-big"


def test_load_command_prints_all_that_fits_is_taken(settings: Path) -> None:
    settings.write_bytes(b"z" * GEOMETRY.total_bytes)
    flash = CommandFlash(GEOMETRY, printing(settings), ())
    flash.load()
    assert flash.length_bytes == GEOMETRY.total_bytes
    settings.write_bytes(b"z" * (GEOMETRY.total_bytes + 1))
    with pytest.raises(FlashError, match="more than"):
        flash.load()


def test_load_command_complains_at_length_only_the_end_is_told(settings: Path) -> None:
    code = "import sys; sys.stderr.write('a' * 1000000); sys.exit('the reason')"
    with pytest.raises(FlashError, match="the reason") as caught:
        CommandFlash(GEOMETRY, python(code), ()).load()
    assert len(str(caught.value)) < MAX_STDERR_BYTES + 1000


def test_load_command_hangs_is_ended() -> None:
    flash = CommandFlash(GEOMETRY, python("import time; print('x', flush=True); time.sleep(600)"), (), timeout_s=0.3)
    with pytest.raises(FlashError, match="did not end within") as caught:
        flash.load()
    assert caught.value.retry


def test_load_no_such_command_raises(tmp_path: Path) -> None:
    with pytest.raises(FlashError, match="cannot be run"):
        CommandFlash(GEOMETRY, (str(tmp_path / "nothing"),), ()).load()


def test_access_out_of_range_raises(settings: Path) -> None:
    flash = CommandFlash(GEOMETRY, printing(settings), ())
    for call in (
        lambda: flash.read(GEOMETRY.total_bytes, 1),
        lambda: flash.program(GEOMETRY.total_bytes - 1, b"xx"),
        lambda: flash.erase(1),
        lambda: flash.finish(GEOMETRY.total_bytes + 1),
    ):
        with pytest.raises(FlashError):
            call()
