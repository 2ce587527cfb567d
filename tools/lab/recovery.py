# SPDX-License-Identifier: Apache-2.0
"""U-Boot with a recovery in it, by a guide for device makers that is followed to the letter.

The guide is Markdown: its ```sh blocks are run in order, its ```config block is the board's configuration. What else
they need lies beside them in the folder they run in: the pristine sources as `u-boot`, the repository as `unbrickd`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from tools.lab import debian
from tools.lab.build import ARM, Board, uboot_source
from tools.lab.errors import LabError
from tools.lab.steps import FILES, kept, run

_BOARD_CONFIG = FILES / "uboot.config"
_PACKAGES = (
    "make", "gcc", "bison", "flex", "bc", "libssl-dev", "libc6-dev", "device-tree-compiler", "python3-dev",
    "python3-setuptools", "swig", "libgnutls28-dev", "uuid-dev",
)  # fmt: skip
# A virtual environment's Python has not what pylibfdt is built with.
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "VIRTUAL_ENV": "", "PYTHONPATH": ""}


def blocks(guide: Path, language: str) -> list[str]:
    """The fenced blocks of one language. Raises LabError if there are none."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", guide.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    if not found:
        raise LabError(f"{guide.name} has no block of {language}")
    return found


def recovery_sources(repository: Path) -> list[Path]:
    """The files of the repository that the steps take."""
    patterns = ("c/ports/u-boot/*", "c/src/*.[ch]", "c/include/*.h")
    return [path for pattern in patterns for path in repository.glob(pattern) if path.is_file()]


def uboot_by_guide(
    guide: Path,
    repository: Path,
    sources: Iterable[Path],
    *,
    board: Board = ARM,
    patches: Sequence[Path] = (),
    tree: Path | None = None,
) -> Path:
    """u-boot.bin.

    sources: what it depends on; board: put for the guide's; patches: what U-Boot gets besides, first; tree: of another
    U-Boot than Debian's, taken as it is at its first build.
    """
    pristine = uboot_source() if tree is None else tree
    steps = "".join(blocks(guide, "sh")).replace(f"{ARM.name}_defconfig", f"{board.name}_defconfig")
    config = "".join(blocks(guide, "config"))

    def make(folder: Path) -> None:
        debian.need(*_PACKAGES, *board.packages)
        shutil.copytree(pristine, folder / "u-boot", symlinks=True)
        for patch in patches:
            run(["patch", "-p1"], folder=folder / "u-boot", stdin=patch.read_bytes())
        (folder / "unbrickd").symlink_to(repository)
        (folder / "my-board.config").write_text(_BOARD_CONFIG.read_text() + config)
        said = run(["sh", "-eu", "-c", steps], folder=folder, env=_ENVIRONMENT | {"CROSS_COMPILE": board.compiler})
        warnings = [line for line in said.splitlines() if "cmd/unbrickd/" in line and "warning:" in line]
        if warnings:
            raise LabError("our code does not compile cleanly: " + "; ".join(warnings))
        made = folder / "build/.config"
        lost = [line for line in config.splitlines() if line not in made.read_text().splitlines()]
        if lost:
            raise LabError(f"not taken over: {'; '.join(lost)}")
        for name in ("u-boot.bin", "u-boot"):
            (folder / "build" / name).rename(folder / name.replace("u-boot", "bootloader"))
        for name in ("build", "u-boot"):
            shutil.rmtree(folder / name)
        (folder / "unbrickd").unlink()

    texts = [steps, config, str(pristine)]
    files = [_BOARD_CONFIG, *patches, *sorted(sources)]
    return kept(f"uboot-{board.name}-recovery", make, texts=texts, files=files) / "bootloader.bin"
