# SPDX-License-Identifier: Apache-2.0
"""The other tests of this folder once more, in a Python in which the C core runs under ASan and UBSan.

With fences between the pieces of the core's memory, and every buffer a malloc of its own: a byte too far is a failure.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
AGAIN = ("test_c_vectors.py", "test_c_twins.py", "test_c_in_the_simulator.py", "test_c_ring.py")


def libasan() -> str:
    """Where gcc keeps it; gcc answers with the bare name if it has none."""
    return subprocess.run(
        ["gcc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
    ).stdout.strip()


def run_sanitized(*arguments: str) -> subprocess.CompletedProcess[str]:
    if not Path(libasan()).is_absolute():
        pytest.skip("gcc has no libasan: apt-get install libasan8 or what your system calls it")
    environment = os.environ | {
        "LD_PRELOAD": libasan(),
        "UNBRICKD_C_SANITIZED": "1",
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTEST_XDIST_WORKER": "",
    }
    return subprocess.run(
        [sys.executable, *arguments], check=False, capture_output=True, text=True, env=environment, cwd=HERE.parents[1]
    )


def test_sanitizers_see_a_byte_too_far() -> None:
    """So that the silence of the next test means something."""
    too_far = "from unbrickd_c import *; lib = core(); lib.ub_is_utf8(c_octets(b'abc'), 4)"
    ended = run_sanitized("-c", f"import sys; sys.path.insert(0, 'c/ports/sim'); {too_far}")
    assert ended.returncode != 0 and "AddressSanitizer: heap-buffer-overflow" in ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", AGAIN)
def test_sanitized_core_passes_the_same_tests(name: str) -> None:
    ended = run_sanitized("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", f"tests/c/{name}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert " passed" in ended.stdout
    print(ended.stdout.splitlines()[-1])
