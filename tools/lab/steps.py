# SPDX-License-Identifier: Apache-2.0
"""Runs the programs of the laboratory, and keeps what they made in folders named by a hash of what went in."""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

from tools.lab.errors import LabError

Words: TypeAlias = list[str | Path]
"""A program and its arguments."""
FILES = Path(__file__).parent / "files"
TIMEOUT_S = 1800.0
"""Longest that one program may take: three times the kernel on two slow cores."""
_SHOWN_LINES = 30
HASH_DIGITS = 16


def cache() -> Path:
    """$UNBRICKD_CACHE, or the user's cache as the XDG base directories have it."""
    named = os.environ.get("UNBRICKD_CACHE")
    base = Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unbrickd"
    return base / "lab"


def say(text: str) -> None:
    print(f"lab: {text}", file=sys.stderr, flush=True)


def run(words: Words, *, folder: Path, env: dict[str, str] | None = None, stdin: bytes = b"") -> str:
    """Run a program to its end and return its standard output. Raises LabError with the end of what it said."""
    command = [str(word) for word in words]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C", **(env or {})},
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise LabError(f"{command[0]} is missing", hint="run `make e2e` as root, or install it") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"`{' '.join(command)}` did not end within {TIMEOUT_S:g} s") from error
    output = done.stdout.decode(errors="replace")
    if done.returncode:
        said = "\n".join(output.splitlines()[-_SHOWN_LINES:])
        raise LabError(f"`{' '.join(command)}` failed with exit status {done.returncode}:\n{said}")
    return output


def digest_of(texts: Iterable[str], files: Iterable[Path]) -> str:
    """One hash of all that goes into an artefact; each text and file counts with its length."""
    sha = hashlib.sha256()
    for octets in (*(text.encode() for text in texts), *(path.read_bytes() for path in files)):
        sha.update(len(octets).to_bytes(8, "little") + octets)
    return sha.hexdigest()[:HASH_DIGITS]


def kept(name: str, make: Callable[[Path], None], *, texts: Iterable[str] = (), files: Iterable[Path] = ()) -> Path:
    """The folder with what `make` puts into the empty folder it is given; made only once for the same inputs.

    Inputs are the texts and files named, and the source of `make` itself. It is moved into place whole. Who wants what
    is being made waits for it.
    """
    import fcntl

    target = cache() / f"{name}-{digest_of([name, inspect.getsource(make), *texts], files)}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            _make(name, make, target)
    return target


def _make(name: str, make: Callable[[Path], None], target: Path) -> None:
    started_s = time.monotonic()
    say(f"making {name}")
    work = Path(tempfile.mkdtemp(prefix=f"{name}.", suffix=".work", dir=target.parent))
    try:
        work.chmod(0o755)
        make(work)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    say(f"made {name} in {time.monotonic() - started_s:.1f} s")
