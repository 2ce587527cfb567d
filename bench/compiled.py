# SPDX-License-Identifier: Apache-2.0
"""The programs of the benchmark that are in C, compiled when they are needed. Knows nothing of what they measure."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
CORE = FOLDER.parent / "c"
CORE_NEEDS = ("cc", "openssl/sha.h", "zlib.h")
"""Of what links the recovery core: the compiler, and headers (Debian packages: libssl-dev, zlib1g-dev)."""


@cache
def compiled(name: str, folder: Path, *, core: bool = False) -> Path:
    """bench/NAME.c as a program in that folder; core: with the recovery core, and OpenSSL and zlib for its hashes."""
    warnings = ("-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Werror")
    sources: list[str | Path] = [FOLDER / f"{name}.c"]
    if core:
        sources += [*sorted(CORE.glob("src/*.c")), *sorted(CORE.glob("crypto/*.c")), "-lcrypto", "-lz"]
        sources += [f"-I{CORE / 'include'}", f"-I{CORE / 'crypto'}"]
    command = ["cc", "-O3", "-march=native", *warnings, "-o", folder / name, *sources]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"bench/{name}.c: {done.stderr}")
    return folder / name
