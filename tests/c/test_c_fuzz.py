# SPDX-License-Identifier: Apache-2.0
"""Every fuzz target of c/fuzz for a short while: under libFuzzer where clang is, else over random inputs; with ASan.

`make fuzz` does the same for longer, and keeps its corpus.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = sorted(path.stem for path in (ROOT / "c" / "fuzz").glob("fuzz_*.c"))
RUNS = 2000


def make_fuzz(tmp_path: Path, *arguments: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    ended = subprocess.run(
        ["make", "-C", str(ROOT / "c"), f"BUILD={tmp_path}", "fuzz", f"FUZZ_ARGS=-runs={RUNS} -seed=1", *arguments],
        check=False, capture_output=True, text=True, env=clean,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_fuzz_target_finds_nothing_in_a_short_run(target: str, tmp_path: Path) -> None:
    said = make_fuzz(tmp_path, f"FUZZ={target}")
    print(said)
    assert f"{target}: {RUNS}" in said


@pytest.mark.slow
def test_fuzz_targets_run_without_clang(tmp_path: Path) -> None:
    said = make_fuzz(tmp_path, "FUZZ=fuzz_session", "FUZZ_CC=")
    assert f"{RUNS} random inputs" in said
