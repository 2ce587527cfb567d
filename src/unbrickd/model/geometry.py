# SPDX-License-Identifier: Apache-2.0
"""How a stretch of flash is divided into erase blocks, uniform or mixed (spec/flash-format.md §1).

A geometry is a list of runs, as CFI reports them (JESD68.01 §"Erase Block Region Information"): so many erase blocks
of one size, then so many of the next. Knows nothing of what the erase blocks hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from unbrickd.errors import ConfigError

MAX_RUNS = 8
"""Runs of one geometry; CFI chips have at most four, stacked pairs eight (spec/flash-format.md §1)."""

MAX_ERASE_BLOCK_BYTES = 4 << 20
MIN_ERASE_BLOCK_BYTES = 256
MAX_ERASE_BLOCKS = 1 << 16
MAX_TOTAL_BYTES = (1 << 32) - 1
"""Offsets are 32-bit on the wire and in flash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EraseRun:
    """`count` erase blocks of `size_bytes` each."""

    count: int
    size_bytes: int


@dataclass(slots=True, kw_only=True)
class EraseBlock:
    """One erase block: its index (from 0), its first byte and its size, both within the geometry.

    Not frozen: one is made for every piece that is sent, and freezing takes twice the time.
    """

    index: int
    offset_bytes: int
    size_bytes: int

    @property
    def end_bytes(self) -> int:
        return self.offset_bytes + self.size_bytes


@dataclass(frozen=True, slots=True)
class Geometry:
    """Erase blocks from offset 0 on, without gaps. Raises ConfigError for runs out of range."""

    runs: tuple[EraseRun, ...]
    count: int = field(init=False, repr=False, compare=False)
    total_bytes: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Asked for at every access to flash, so they are summed up once.
        object.__setattr__(self, "count", sum(run.count for run in self.runs))
        object.__setattr__(self, "total_bytes", sum(run.count * run.size_bytes for run in self.runs))
        if not 1 <= len(self.runs) <= MAX_RUNS:
            raise ConfigError(f"a geometry has 1 to {MAX_RUNS} runs, not {len(self.runs)}", code="geometry")
        for run in self.runs:
            if run.count < 1:
                raise ConfigError(f"a run of {run.count} erase blocks", code="geometry")
            if not MIN_ERASE_BLOCK_BYTES <= run.size_bytes <= MAX_ERASE_BLOCK_BYTES or run.size_bytes % 16:
                raise ConfigError(
                    f"an erase block of {run.size_bytes} bytes: it must be a multiple of 16 from "
                    f"{MIN_ERASE_BLOCK_BYTES} to {MAX_ERASE_BLOCK_BYTES}",
                    code="geometry",
                )
        if self.count > MAX_ERASE_BLOCKS:
            raise ConfigError(f"{self.count} erase blocks; at most {MAX_ERASE_BLOCKS}", code="geometry")
        if self.total_bytes > MAX_TOTAL_BYTES:
            raise ConfigError(f"{self.total_bytes} bytes of flash; at most {MAX_TOTAL_BYTES}", code="geometry")

    @classmethod
    def uniform(cls, *, total_bytes: int, erase_block_bytes: int) -> Geometry:
        """A chip or an image of equal erase blocks; `total_bytes` is rounded up to whole erase blocks."""
        if erase_block_bytes < 1 or total_bytes < 1:
            raise ConfigError("sizes of flash must be positive", code="geometry")
        return cls((EraseRun(count=-(-total_bytes // erase_block_bytes), size_bytes=erase_block_bytes),))

    @property
    def largest_bytes(self) -> int:
        return max(run.size_bytes for run in self.runs)

    def __iter__(self) -> Iterator[EraseBlock]:
        index = offset = 0
        for run in self.runs:
            for _ in range(run.count):
                yield EraseBlock(index=index, offset_bytes=offset, size_bytes=run.size_bytes)
                index += 1
                offset += run.size_bytes

    def erase_block(self, index: int) -> EraseBlock:
        """The erase block of that index. Raises IndexError."""
        first = offset = 0
        for run in self.runs:
            if 0 <= index - first < run.count:
                at = offset + (index - first) * run.size_bytes
                return EraseBlock(index=index, offset_bytes=at, size_bytes=run.size_bytes)
            first += run.count
            offset += run.count * run.size_bytes
        raise IndexError(f"erase block {index} of {first}")

    def at(self, offset_bytes: int) -> EraseBlock:
        """The erase block that holds this byte. Raises IndexError."""
        first = offset = 0
        for run in self.runs:
            within = offset_bytes - offset
            if 0 <= within < run.count * run.size_bytes:
                skip = within // run.size_bytes
                return EraseBlock(
                    index=first + skip, offset_bytes=offset + skip * run.size_bytes, size_bytes=run.size_bytes
                )
            first += run.count
            offset += run.count * run.size_bytes
        raise IndexError(f"offset {offset_bytes} of {offset} bytes")

    def cut(self, *, offset_bytes: int, length_bytes: int) -> Geometry:
        """The geometry of a partition: the erase blocks from `offset_bytes` on that hold `length_bytes`.

        The start must be an erase block's; the length is rounded up to whole erase blocks. Raises ConfigError.
        """
        if offset_bytes < 0 or length_bytes < 1 or offset_bytes + length_bytes > self.total_bytes:
            raise ConfigError(
                f"{length_bytes} bytes at {offset_bytes} do not lie within {self.total_bytes} bytes of flash",
                code="geometry",
            )
        runs: list[EraseRun] = []
        offset = 0
        end = offset_bytes + length_bytes
        for run in self.runs:
            start, offset = offset, offset + run.count * run.size_bytes
            lo, hi = max(start, offset_bytes), min(offset, end)
            if lo >= hi:
                continue
            if (lo - start) % run.size_bytes:
                raise ConfigError(f"offset {offset_bytes} is not the start of an erase block", code="geometry")
            runs.append(EraseRun(count=-(-(hi - lo) // run.size_bytes), size_bytes=run.size_bytes))
        return Geometry(tuple(runs))
