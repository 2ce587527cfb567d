# SPDX-License-Identifier: Apache-2.0
"""Transcripts of the C core, replayed by the C core alone: here, and on a big-endian machine where there is one.

`make -C c test-be` does that for more stories; c/ports/sim/transcript.py has the form.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import transcript
from unbrickd_c import BUILD, SOURCES

CORE = [*sorted(SOURCES.glob("src/*.c")), *sorted(SOURCES.glob("crypto/*.c"))]
MIPS = "mips-linux-gnu-gcc"
QEMU = next((found for name in ("qemu-mips", "qemu-mips-static") if (found := shutil.which(name))), None)


def build(compiler: str, to: Path, *flags: str) -> None:
    include = [f"-I{SOURCES / name}" for name in ("include", "src", "crypto")]
    source = SOURCES / "ports" / "sim" / "replay.c"
    subprocess.run([compiler, "-std=c99", "-O1", *flags, *include, source, *CORE, "-o", to], check=True)


def replay(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("transcript") / "transcript"
    transcript.transcribe(path, range(12))
    return path


def test_replay_of_a_transcript_is_the_same_and_of_a_spoilt_one_is_not(told: Path) -> None:
    program = told.parent / "replay"
    build("gcc", program)
    ended = replay(program, told)
    assert ended.returncode == 0 and "power-ons" in ended.stdout, ended.stderr
    octets = bytearray(told.read_bytes())
    for letter in b"spe":
        spoilt = bytearray(octets)
        at = _last_entry(octets, letter)
        spoilt[at + 5 + 4] ^= 1
        (told.parent / "spoilt").write_bytes(spoilt)
        ended = replay(program, told.parent / "spoilt")
        assert ended.returncode == 1 and ended.stderr.startswith("entry "), chr(letter)


def _last_entry(octets: bytearray, letter: int) -> int:
    """Where the last entry of that letter begins."""
    at, found = 0, -1
    while at < len(octets):
        found = at if octets[at] == letter else found
        at += 5 + int.from_bytes(octets[at + 1 : at + 5], "big")
    assert found >= 0
    return found


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which(MIPS) is None, reason=f"no {MIPS}: apt-get install gcc-mips-linux-gnu libc6-dev-mips-cross"
)
@pytest.mark.skipif(QEMU is None, reason="no qemu-mips: apt-get install qemu-user")
def test_replay_on_a_big_endian_machine_is_the_same(told: Path) -> None:
    assert QEMU is not None
    program = told.parent / "replay-be"
    build(MIPS, program, "-static")
    ended = replay(QEMU, program, told)
    assert ended.returncode == 0 and "power-ons" in ended.stdout, ended.stderr


def test_replay_program_is_what_the_makefile_builds() -> None:
    subprocess.run(["make", "--silent", "-C", SOURCES, f"BUILD={BUILD}", BUILD / "replay"], check=True)
    assert replay(BUILD / "replay").returncode == 2
