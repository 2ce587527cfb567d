# SPDX-License-Identifier: Apache-2.0
"""What the core costs a bootloader: text, data, worst stack, RAM; per target, as its cross compiler makes it.

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
    "-ffunction-sections",
    "-fno-pic",
    "-fno-pie",
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
    "-fno-stack-protector",
    "-Iinclude",
    "-Isrc",
    "-Icrypto",
)
"""As a bootloader is built."""
TARGETS = {
    "ARM Thumb-2": ("arm-linux-gnueabihf", ["-mthumb", "-march=armv7-a+fp"]),
    "AArch64": ("aarch64-linux-gnu", []),
    "MIPS32 BE": ("mips-linux-gnu", ["-mips32r2", "-EB", "-mno-abicalls", "-G0"]),
}
"""Compiler prefix and flags, as U-Boot builds for such boards."""
MAX_TEXT_BYTES = 16 << 10
MAX_RAM_BYTES = 32 << 10
LAYOUTS = ((64 << 10, 16), (64 << 10, 0), (256 << 10, 16))
"""(erase block in bytes, ring in frames; 0: no matter)"""
WORDS = "words"
"""The error texts, for those who have a console; nothing else of the core needs them."""

_NODE = re.compile(r'node: \{ title: "([^"]+)" label: "[^"]*\\n(\d+) bytes \(static\)')
_EDGE = re.compile(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"')

# Sizes of structures come out of the compiler as sizes of arrays, so that nothing needs to run on the target.
_PROBE = """
#include "internal.h"
char context_[sizeof(struct unbrickd)], flight_[sizeof(struct ub_flight)];
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one target, in bytes. text: of the core; ram: besides erase block and document, by layout."""

    target: str
    text: int
    words: int
    crypto: int
    data: int
    stack: int
    deepest: str
    ram: tuple[int, ...]


def sizes(prefix: str, objects: list[Path]) -> tuple[int, int]:
    """(text, data and bss) of all of them."""
    if not objects:
        return 0, 0
    run = subprocess.run([f"{prefix}-size", *map(str, objects)], check=True, capture_output=True, text=True)
    rows = [line.split() for line in run.stdout.splitlines()[1:]]
    return sum(int(row[0]) for row in rows), sum(int(row[1]) + int(row[2]) for row in rows)


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
        words=sizes(prefix, words)[0],
        crypto=sizes(prefix, objects["crypto"])[0],
        data=data,
        stack=stack,
        deepest=deepest,
        ram=tuple(
            struct["context_"] + struct["flight_"] * min(ring or 256, 256) + erase_block // 512 + 256 // 8
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
        print(f"{'':12} {'text':>6} {'words':>6} {'crypto':>6} {'data':>5} {'stack':>6}", *(f"{r:>12}" for r in rams))
        for c in costs:
            ram = " ".join(f"{r:12}" for r in c.ram)
            print(f"{c.target:12} {c.text:6} {c.words:6} {c.crypto:6} {c.data:5} {c.stack:6} {ram}")
        print(f"stack: {costs[0].deepest}")
        print("RAM: context, blocks in flight, block states, map of damage; besides one erase block and the document")
    thumb = costs[0]
    failed = thumb.text > MAX_TEXT_BYTES or any(r + c.stack > MAX_RAM_BYTES for c in costs for r in c.ram)
    if failed or any(c.data for c in costs):
        print(f"over budget: {MAX_TEXT_BYTES} text (Thumb-2), {MAX_RAM_BYTES} RAM and stack, no data", file=sys.stderr)
    return int(failed or any(c.data for c in costs))


if __name__ == "__main__":
    sys.exit(main())
