# SPDX-License-Identifier: Apache-2.0
"""The laboratory's console, with a shell of the host in the place of the emulator."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.lab.console import Console, ConsoleError, Shell

pytestmark = pytest.mark.skipif(os.name == "nt" or shutil.which("sh") is None, reason="the laboratory is for Linux")


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    with Console(["sh"], log=tmp_path / "log") as running:
        yield running


def test_shell_run_gives_exit_code_and_output(console: Console) -> None:
    shell = Shell(console)
    ran = shell.run("echo one; echo two; false")
    assert (ran.code, ran.output) == (1, "one\ntwo\n")
    assert shell.check("echo three") == "three\n"


def test_shell_check_of_a_command_that_fails_raises_with_its_words(console: Console) -> None:
    with pytest.raises(ConsoleError, match="no luck"):
        Shell(console).check("echo no luck; false")


def test_expect_takes_what_was_matched_and_leaves_the_rest(console: Console, tmp_path: Path) -> None:
    console.type("echo alpha beta gamma\n")
    assert console.expect("al[a-z]*", timeout_s=10)[0] == b"alpha"
    console.expect("gamma", timeout_s=10)
    with pytest.raises(ConsoleError, match="within 0 s"):
        console.expect("alpha", timeout_s=0)
    assert b"alpha beta gamma" in (tmp_path / "log").read_bytes()


def test_expect_program_ended_raises_with_what_it_said(console: Console) -> None:
    console.type("echo farewell; exit\n")
    with pytest.raises(ConsoleError, match=r"ended(?s:.)*farewell"):
        console.expect("never", timeout_s=10)
    assert console.wait_until_it_ends(10) == 0


def test_cut_power_ends_the_process_and_twice_is_no_error(tmp_path: Path) -> None:
    with Console(["sleep", "1000"], log=tmp_path / "log") as console:
        console.cut_power()
        assert console.wait_until_it_ends(0) != 0
