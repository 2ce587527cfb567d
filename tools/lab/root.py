# SPDX-License-Identifier: Apache-2.0
"""The gateway's root file system: busybox and Python from Debian's armhf packages, and Python packages as pinned.

Knows what the program on the device needs, and nothing of the program itself, which tests lay on top (`cpio`).
"""

from __future__ import annotations

import re
import shutil
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

from tools.lab import debian
from tools.lab.build import ARM
from tools.lab.cpio import initramfs
from tools.lab.errors import LabError
from tools.lab.steps import FILES, Words, kept, run

_PYTHON = "3.11"
_PACKAGES = (
    "busybox-static",
    "libc6",
    "libgcc-s1",
    "libexpat1",
    "libffi8",
    "libssl3",
    "zlib1g",
    f"python{_PYTHON}-minimal",
    f"libpython{_PYTHON}-minimal",
    f"libpython{_PYTHON}-stdlib",
    "python3-cffi-backend",  # of cffi there is no wheel for this processor
)
DEVICE_PACKAGES = ("cryptography", "filelock")
"""All that the program on the device imports beyond the standard library."""
_PLATFORM = "manylinux_2_31_armv7l"
_LIBRARY = f"usr/lib/python{_PYTHON}"
_SITE = "usr/lib/python3/dist-packages"
_LEFT_OUT = (
    "usr/share",
    "usr/lib/arm-linux-gnueabihf/gconv",
    "usr/lib/arm-linux-gnueabihf/engines-3",
    "usr/lib/arm-linux-gnueabihf/ossl-modules",
    f"{_LIBRARY}/lib-dynload/_codecs_*",
    f"{_LIBRARY}/lib-dynload/_testcapi*",
    *(f"{_LIBRARY}/{name}" for name in ("config-*", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "tkinter")),
    *(
        f"{_LIBRARY}/{name}"
        for name in ("distutils", "sqlite3", "test", "turtle.py", "turtledemo", "unittest", "wsgiref", "xmlrpc")
    ),
    f"{_SITE}/*.dist-info",
)
"""What no program on the device reads."""


def root(requirements: Path, names: Iterable[str]) -> Path:
    """The compressed initramfs. requirements: pins and hashes of the Python packages, of which `names` are taken."""
    wanted = sorted(names)

    def make(folder: Path) -> None:
        tree = folder / "tree"
        taken = debian.unpack([f"{name}:{ARM.debian}" for name in _PACKAGES], tree)
        _unpack_wheels(_pins(requirements, wanted), tree / _SITE)
        for pattern in _LEFT_OUT:
            for path in tree.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        _make_folders(tree)
        compile_python(tree / "usr/lib")
        (folder / "root.cpio.gz").write_bytes(initramfs(tree))
        (folder / "packages").write_text("\n".join(taken) + "\n")
        shutil.rmtree(tree)

    texts = [*_PACKAGES, *_LEFT_OUT, _pins(requirements, wanted)]
    return kept("root", make, texts=texts, files=[FILES.parent / "cpio.py"]) / "root.cpio.gz"


def small_root(architecture: str) -> Path:
    """The compressed initramfs with busybox alone. architecture: Debian's."""

    def make(folder: Path) -> None:
        debian.unpack([f"busybox-static:{architecture}"], folder / "package")
        _make_folders(folder / "tree")
        (folder / "package/bin/busybox").rename(folder / "tree/bin/busybox")
        (folder / "root.cpio.gz").write_bytes(initramfs(folder / "tree"))
        for name in ("package", "tree"):
            shutil.rmtree(folder / name)

    return kept(f"root-small-{architecture}", make, files=[FILES.parent / "cpio.py"]) / "root.cpio.gz"


def _make_folders(tree: Path) -> None:
    for name in ("dev", "etc", "proc", "sys", "tmp", "run", "root", "bin"):
        (tree / name).mkdir(parents=True, exist_ok=True)


def compile_python(folder: Path) -> None:
    """Byte code instead of every source: half the size, and the slow device need not make it at each start."""
    python = shutil.which(f"python{_PYTHON}")
    if python is None:
        raise LabError(
            f"python{_PYTHON} is missing", hint="the device's Python reads byte code of its own version only"
        )
    # -b: beside the sources, where Python takes it without them. -s: tracebacks name the path on the device.
    words: Words = [python, "-m", "compileall", "-qq", "-b", "-s", folder, "--invalidation-mode", "unchecked-hash"]
    run([*words, folder], folder=folder)
    for source in folder.rglob("*.py"):
        if source.with_suffix(".pyc").exists():
            source.unlink()


def _pins(requirements: Path, names: Iterable[str]) -> str:
    """The lines of these packages, each with its hashes."""
    entries = re.split(r"\n(?=[A-Za-z0-9])", requirements.read_text())
    by_name = {re.split(r"[=; ]", entry, maxsplit=1)[0]: entry for entry in entries}
    missing = [name for name in names if name not in by_name]
    if missing:
        raise LabError(f"{requirements} does not pin {', '.join(missing)}")
    return "\n".join(by_name[name].rstrip() for name in names) + "\n"


def _unpack_wheels(pins: str, into: Path) -> None:
    wheels = into.parent / "wheels"
    wheels.mkdir(parents=True)
    wanted = wheels / "requirements.txt"
    wanted.write_text(pins)
    words: Words = ["download", "--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--dest", wheels]
    target = ["--platform", _PLATFORM, "--python-version", _PYTHON, "--implementation", "cp", "--abi", "abi3"]
    run([*_pip(), *words, *target, "--abi", "none", "-r", wanted], folder=wheels)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(into)
    shutil.rmtree(wheels)


def _pip() -> Words:
    """pip of this Python or, in an environment made without it, the one on the PATH."""
    try:
        run([sys.executable, "-m", "pip", "--version"], folder=Path("/"))
    except LabError:
        return ["pip3"]
    return [sys.executable, "-m", "pip"]
