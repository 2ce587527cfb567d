#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Puts the command `unbrickd` into a U-Boot tree: `python3 install.py path/to/u-boot`.

Copies the port and the core to cmd/unbrickd/ and adds one line to cmd/Makefile and cmd/Kconfig each. May be run again,
after an update of either side: what is right already is left alone. Standard library only. docs/integrate-u-boot.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

PORT = Path(__file__).resolve().parent
CORE = PORT.parents[1]
MAKE_LINE = "obj-$(CONFIG_CMD_UNBRICKD) += unbrickd/"
KCONFIG_LINE = 'source "cmd/unbrickd/Kconfig"'
MENU = 'menu "Misc commands"'
"""What our line in cmd/Kconfig goes before: between menus, in every release so far."""
NEEDED = ("include/net/udp.h", "include/linux/mtd/mtd.h", "lib/rsa/rsa-keyprop.c")
"""Without these it is no U-Boot, or one before 2020.10."""


def files() -> Iterator[tuple[str, Path]]:
    """Name below cmd/unbrickd/ and source of each file."""
    for pattern in ("*.c", "*.h", "Kconfig", "Makefile", "*.config"):
        for path in sorted(PORT.glob(pattern)):
            yield path.name, path
    for path in (*sorted((CORE / "src").glob("*.[ch]")), CORE / "include" / "unbrickd.h"):
        yield "core/" + path.name, path


def copy_files(folder: Path) -> int:
    """Returns how many changed. What lies there and is ours no more is removed."""
    wanted = dict(files())
    changed = 0
    for name, source in wanted.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        octets = source.read_bytes()
        if not target.is_file() or target.read_bytes() != octets:
            target.write_bytes(octets)
            changed += 1
    for path in (*folder.glob("*.[ch]"), *folder.glob("core/*.[ch]")):
        if path.relative_to(folder).as_posix() not in wanted:
            path.unlink()
            changed += 1
    return changed


def add_line(path: Path, line: str, before: str | None = None) -> int:
    """Returns 1 if it was not there yet. before: the line it goes above; else it is the last."""
    lines = path.read_text(encoding="utf-8").splitlines()
    if line in lines:
        return 0
    if before is None:
        lines.append(line)
    elif before in lines:
        lines[lines.index(before) : lines.index(before)] = [line, ""]
    else:
        sys.exit(f"error: {path}: no line {before!r}\nhint: add {line!r} by hand")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 1


def main() -> None:
    parser = argparse.ArgumentParser(description="Put the command `unbrickd` into a U-Boot tree.")
    parser.add_argument("tree", type=Path, help="the U-Boot sources")
    tree: Path = parser.parse_args().tree
    missing = [name for name in NEEDED if not (tree / name).is_file()]
    if missing:
        sys.exit("error: {} is not U-Boot 2020.10 or newer: no {}".format(tree, ", ".join(missing)))
    changed = copy_files(tree / "cmd" / "unbrickd")
    changed += add_line(tree / "cmd" / "Makefile", MAKE_LINE)
    changed += add_line(tree / "cmd" / "Kconfig", KCONFIG_LINE, before=MENU)
    print(f"unbrickd: {changed} files changed in {tree}")


if __name__ == "__main__":
    main()
