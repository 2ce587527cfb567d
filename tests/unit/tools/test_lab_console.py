# SPDX-License-Identifier: Apache-2.0
"""The laboratory's console, with a shell of the host in the place of the emulator."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.lab.console import Console, ConsoleError, Shell

pytestmark = pytest.mark.skipif(shutil.which("setpriv") is None, reason="the laboratory is for Linux")

LAB = Path(__file__).parents[3]
KEEPER = """\
import sys, time
from pathlib import Path
from tools.lab.console import Console
with Console(["sh"], log=Path(sys.argv[1])) as console:
    console.type("echo pid $$\\n")
    print(console.expect(r"pid (\\d+)\\n", timeout_s=10)[1].decode(), flush=True)
    time.sleep(1000)
"""
"""A program that keeps a console until it is killed."""


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


def test_log_has_the_seconds_of_every_line(console: Console, tmp_path: Path) -> None:
    console.type("printf 'one\\ntwo\\n\\nthr'; printf 'ee\\n'; echo end\n")
    console.expect("end", timeout_s=10)
    lines = (tmp_path / "log").read_text().splitlines()
    assert [re.sub(r"^ +\d+\.\d{3}  ", "", line) for line in lines] == ["one", "two", "", "three", "end"]
    assert all(re.match(r" +\d+\.\d{3}  ", line) for line in lines)


def test_expect_program_ended_raises_with_what_it_said(console: Console) -> None:
    console.type("echo farewell; exit\n")
    with pytest.raises(ConsoleError, match=r"ended(?s:.)*farewell"):
        console.expect("never", timeout_s=10)
    assert console.wait_until_it_ends(10) == 0


def test_cut_power_ends_the_process_and_twice_is_no_error(tmp_path: Path) -> None:
    with Console(["sleep", "1000"], log=tmp_path / "log") as console:
        console.cut_power()
        assert console.wait_until_it_ends(0) != 0


def test_cut_power_keeps_the_last_words(console: Console, tmp_path: Path) -> None:
    console.type("echo one; echo two; echo three >&2; echo four\n")
    console.expect("one", timeout_s=10)
    console.type("exit\n")
    console.wait_until_it_ends(10)
    console.cut_power()
    assert console.unread == "\ntwo\nthree\nfour\n"
    assert b"four" in (tmp_path / "log").read_bytes()


def test_console_of_a_killed_test_run_dies_with_it(tmp_path: Path) -> None:
    keeper = subprocess.Popen([sys.executable, "-c", KEEPER, str(tmp_path / "log")], stdout=subprocess.PIPE, cwd=LAB)
    with keeper:
        assert keeper.stdout is not None
        kept = int(keeper.stdout.readline())
        assert is_running(kept)
        keeper.send_signal(signal.SIGKILL)
    deadline_s = time.monotonic() + 10
    while is_running(kept):
        assert time.monotonic() < deadline_s, "what it started lives on"


def is_running(pid: int) -> bool:
    """Neither gone nor a zombie that its new parent has not yet asked for."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
