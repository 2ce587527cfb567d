# SPDX-License-Identifier: Apache-2.0
"""What the core costs a bootloader: text, data, worst stack, RAM; per target, as its cross compiler makes it.

Text: of all object files; and, for bootloaders built with link-time optimisation (U-Boot's CONFIG_LTO), of the program
that is linked of them and of calls to every function of unbrickd.h, without the C library.
Stack: the frames of -fcallgraph-info along the deepest chain of calls, the caller's own functions (flash, network,
crypto of the table) not counted. RAM: all of `unbrickd_memory_bytes` but the document, which is the manifest. Exits 1
if a budget is broken (issue BOOTLOADER): 16 KiB of Thumb-2 text without crypto; one erase block and 32 KiB of RAM.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLAGS = (
    "-std=c99",
    "-Os",
    "-ffreestanding",
    "-fno-builtin",
    "-fshort-wchar",
    "-fno-strict-aliasing",
    "-fno-delete-null-pointer-checks",
    "-fno-common",
    "-ffunction-sections",
    "-fdata-sections",
    "-fno-pic",
    "-fno-pie",
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
    "-fno-stack-protector",
    "-Iinclude",
    "-Isrc",
    "-Icrypto",
)
"""As U-Boot's Makefile has them for all boards."""
_MIPS = ("-march=mips32r2", "-EB", "-mabi=32", "-mno-abicalls", "-G0")
TARGETS = {
    "ARM Thumb-2": (
        "arm-linux-gnueabihf",
        ("-mthumb", "-mthumb-interwork", "-march=armv7-a+fp", "-mno-unaligned-access", "-ffixed-r9"),
    ),
    "AArch64": ("aarch64-linux-gnu", ("-mstrict-align", "-mgeneral-regs-only", "-ffixed-r9", "-ffixed-x18")),
    "MIPS32 BE": ("mips-linux-gnu", _MIPS),
    "MIPS16e BE": ("mips-linux-gnu", (*_MIPS, "-mips16")),
}
"""Compiler prefix and flags, as U-Boot's arch/*/config.mk has them for such boards. MIPS16e: the shorter instructions
that the MIPS cores of most home gateways have (24K, 34K, 74K, 1004K); U-Boot does not use them, other loaders may."""
MAX_TEXT_BYTES = 16 << 10
MAX_RAM_BYTES = 32 << 10
LAYOUTS = ((64 << 10, 16), (64 << 10, 0), (256 << 10, 16))
"""(erase block in bytes, ring in frames; 0: no matter)"""
WORDS = "words"
"""The error texts, for those who have a console; nothing else of the core needs them."""

_NODE = re.compile(r'node: \{ title: "([^"]+)" label: "[^"]*\\n(\d+) bytes \(static\)')
_EDGE = re.compile(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"')

_PROTOTYPE = re.compile(r"^[a-z][^(;]*\b(unbrickd_\w+)\(", re.MULTILINE)
_LINK = (
    "-static",
    "-nostdlib",
    "-nostartfiles",
    "-Wl,--entry=callers",
    "-Wl,--gc-sections",
    "-Wl,--unresolved-symbols=ignore-all",
)
_SECTION = re.compile(r"^\.(text|rodata|data|bss)\S*\s+(\d+)", re.MULTILINE)

# Sizes of structures come out of the compiler as sizes of arrays, so that nothing needs to run on the target.
_PROBE = """
#include "internal.h"
char context_[sizeof(struct unbrickd)], flight_[sizeof(struct ub_flight)], block_[sizeof(struct ub_block)];
char ahead_[UB_AHEAD + UB_PAGE], shortest_[UB_SHORTEST_BLOCK];
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one target, in bytes. text, lto: of the core; ram: besides erase block and document, by layout."""

    target: str
    text: int
    lto: int
    words: int
    crypto: int
    data: int
    stack: int
    deepest: str
    ram: tuple[int, ...]


def sizes(prefix: str, objects: list[Path]) -> tuple[int, int]:
    """(code and constants, data and bss) of all of them: what a linker keeps of each, its own tables not counted."""
    text = data = 0
    if objects:
        run = subprocess.run([f"{prefix}-size", "-A", *map(str, objects)], check=True, capture_output=True, text=True)
        for name, size in _SECTION.findall(run.stdout):
            text += int(size) if name in ("text", "rodata") else 0
            data += int(size) if name in ("data", "bss") else 0
    return text, data


def deepest_stack(graphs: list[Path]) -> tuple[int, str]:
    """Bytes and the functions of the deepest chain. Raises SystemExit on recursion, which the core must not have."""
    frames: dict[str, int] = {}
    calls: dict[str, set[str]] = {}
    for graph in graphs:
        text = graph.read_text(encoding="utf-8")
        for name, size in _NODE.findall(text):
            frames[name] = int(size)
        for source, target in _EDGE.findall(text):
            calls.setdefault(source, set()).add(target)

    def depth(name: str, above: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
        if name in above:
            sys.exit(f"recursion: {' → '.join((*above, name))}")
        below = [depth(callee, (*above, name)) for callee in calls.get(name, ())]
        size, path = max(below, default=(0, ()))
        return frames.get(name, 0) + size, (name, *path)

    size, path = max(depth(name, ()) for name in frames)
    return size, " → ".join(name.rpartition(":")[2] for name in path if frames.get(name))


def text_with_lto(target: str, directory: Path) -> int:
    prefix, flags = TARGETS[target]
    gcc = [f"{prefix}-gcc", *FLAGS, *flags]
    names = [n for n in _PROTOTYPE.findall((ROOT / "include/unbrickd.h").read_text(encoding="utf-8")) if WORDS not in n]
    calls = "".join(f"void {n}(void);\n" for n in names)
    calls += f"void (*const volatile callers[])(void) = {{ {', '.join(names)} }};\n"
    caller, linked = directory / "callers.o", directory / "linked"
    subprocess.run([*gcc, "-x", "c", "-", "-c", "-o", caller], check=True, cwd=ROOT, input=calls, text=True)
    sources = [source for source in sorted((ROOT / "src").glob("*.c")) if source.stem != WORDS]
    subprocess.run([*gcc, "-flto", *_LINK, caller, *sources, "-o", linked], check=True, cwd=ROOT)
    return sizes(prefix, [linked])[0]


def measure(target: str, directory: Path) -> Cost:
    prefix, flags = TARGETS[target]
    gcc = [f"{prefix}-gcc", *FLAGS, *flags]
    objects: dict[str, list[Path]] = {"src": [], "crypto": []}
    for folder, made in objects.items():
        for source in sorted((ROOT / folder).glob("*.c")):
            made.append(directory / f"{source.stem}.o")
            subprocess.run([*gcc, "-fcallgraph-info=su", "-c", source, "-o", made[-1]], check=True, cwd=ROOT)
    probe = directory / "probe.o"
    subprocess.run([*gcc, "-x", "c", "-", "-c", "-o", probe], check=True, cwd=ROOT, input=_PROBE, text=True)
    listed = subprocess.run([f"{prefix}-nm", "-S", probe], check=True, capture_output=True, text=True).stdout
    struct = {row.split()[-1]: int(row.split()[1], 16) for row in listed.splitlines()}
    words = [o for o in objects["src"] if o.stem == WORDS]
    text, data = sizes(prefix, [o for o in objects["src"] if o not in words])
    stack, deepest = deepest_stack([o.with_suffix(".ci") for o in objects["src"]])
    return Cost(
        target=target,
        text=text,
        lto=text_with_lto(target, directory),
        words=sizes(prefix, words)[0],
        crypto=sizes(prefix, objects["crypto"])[0],
        data=data,
        stack=stack,
        deepest=deepest,
        ram=tuple(
            struct["context_"]
            + struct["flight_"] * min(ring or 256, 256)
            + struct["ahead_"]
            + struct["block_"] * ((erase_block + struct["ahead_"]) // struct["shortest_"])
            + 256 // 8
            for erase_block, ring in LAYOUTS
        ),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object a target, for a record")
    arguments = parser.parse_args()
    costs = []
    for target in TARGETS:
        with tempfile.TemporaryDirectory() as directory:
            costs.append(measure(target, Path(directory)))
    if arguments.json:
        for cost in costs:
            print(json.dumps(asdict(cost)))
    else:
        rams = [f"RAM {size >> 10}K/{ring or '-'}" for size, ring in LAYOUTS]
        print(
            f"{'':12} {'text':>6} {'LTO':>6} {'words':>6} {'crypto':>6} {'data':>5} {'stack':>6}",
            *(f"{r:>12}" for r in rams),
        )
        for c in costs:
            ram = " ".join(f"{r:12}" for r in c.ram)
            print(f"{c.target:12} {c.text:6} {c.lto:6} {c.words:6} {c.crypto:6} {c.data:5} {c.stack:6} {ram}")
        print(f"stack: {costs[0].deepest}")
        print(
            "RAM: context, what is taken ahead, blocks, flights, map of damage; besides an erase block and the document"
        )
    thumb = costs[0]
    failed = thumb.text > MAX_TEXT_BYTES or any(r + c.stack > MAX_RAM_BYTES for c in costs for r in c.ram)
    if failed or any(c.data for c in costs):
        print(f"over budget: {MAX_TEXT_BYTES} text (Thumb-2), {MAX_RAM_BYTES} RAM and stack, no data", file=sys.stderr)
    return int(failed or any(c.data for c in costs))


if __name__ == "__main__":
    sys.exit(main())
