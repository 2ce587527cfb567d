# SPDX-License-Identifier: Apache-2.0
"""A simulated NOR flash chip that refuses what hardware refuses, wears out and can lose power. Deterministic.

Spec: `flash.interface`. Knows nothing of what it holds. Everything random comes from the seed: the same calls on the
same seed leave the same bytes. The unit that power can cut is one page program or one erase, numbered from 0 in
`NorChip.operations`.

What it is strict about: programming needs fully erased bytes, even where only 1→0 is asked for, because NOR with
built-in ECC forbids programming twice; the granularity is the byte, so journal slots may share a page.
"""

from __future__ import annotations

import json
import mmap
import random
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from unbrickd.errors import ConfigError, FlashError
from unbrickd.flash.bounds import check_range, erase_block_from
from unbrickd.flash.interface import ERASED
from unbrickd.model.geometry import EraseBlock, Geometry


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipTimes:
    """Typical times from a datasheet. erase_s: ascending (erase size in bytes, seconds)."""

    source: str
    page_bytes: int
    page_program_s: float
    erase_s: tuple[tuple[int, float], ...]
    read_bytes_per_s: float

    def erasing_s(self, size_bytes: int) -> float:
        """Time for an erase block of any size, by the largest erases that fit it; a smaller one costs the smallest."""
        total_s, left = 0.0, size_bytes
        for size, seconds in reversed(self.erase_s):
            total_s += left // size * seconds
            left %= size
        return total_s + (self.erase_s[0][1] if left else 0.0)


W25Q128JV = ChipTimes(
    source="Winbond W25Q128JV datasheet, Revision F, 2018-03-27, AC electrical characteristics, typical: "
    "tPP, tSE, tBE1, tBE2; read at 50 MHz, one bit a clock",
    page_bytes=256,
    page_program_s=0.7e-3,
    erase_s=((4 << 10, 45e-3), (32 << 10, 120e-3), (64 << 10, 150e-3)),
    read_bytes_per_s=50e6 / 8,
)


class PowerCut(BaseException):
    """The power is gone. Not an Exception, so that no handler of the code under test swallows it."""


class Phase(Enum):
    """When power fails, relative to one operation."""

    BEFORE = "before"
    TORN = "torn"
    AFTER = "after"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChipState:
    """What a chip keeps beside its bytes, so that a chip in a file lives on in the next process.

    erase_cycles: (erase block index, cycles), those ever erased only. operations also continues the randomness.
    """

    erase_cycles: tuple[tuple[int, int], ...] = ()
    stuck: tuple[int, ...] = ()
    protected: tuple[tuple[int, int], ...] = ()
    write_protect: bool = True
    operations: int = 0

    def to_json(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self.__slots__}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ChipState:
        """Raises ConfigError if the text is not one that `to_json` wrote."""
        try:
            members = json.loads(text)
            return cls(
                erase_cycles=tuple((int(i), int(n)) for i, n in members["erase_cycles"]),
                stuck=tuple(int(i) for i in members["stuck"]),
                protected=tuple((int(at), int(n)) for at, n in members["protected"]),
                write_protect=bool(members["write_protect"]),
                operations=int(members["operations"]),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"this is not the state of a simulated chip: {error}", code="chip-state") from error


class NorChip:
    """A Flash over `buffer`, or over a new erased one; its size must be the geometry's.

    protected: (offset, length) in bytes, refused while `write_protect` is set: the pin, which only hands can move, so
    no method of Flash reaches it. endurance_cycles: erases an erase block stands, None for any number; after that it
    either reports a failed erase or silently keeps bits at 0. stuck: indexes of erase blocks that do not erase.
    busy_s and the other counts start at 0 and only grow.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        buffer: bytearray | mmap.mmap | None = None,
        protected: Iterable[tuple[int, int]] = (),
        endurance_cycles: int | None = None,
        stuck: Iterable[int] = (),
        times: ChipTimes = W25Q128JV,
        seed: int = 0,
        state: ChipState | None = None,
    ) -> None:
        self._geometry = geometry
        self._bytes = bytearray([ERASED]) * geometry.total_bytes if buffer is None else buffer
        if len(self._bytes) != geometry.total_bytes:
            raise ConfigError(
                f"a buffer of {len(self._bytes)} bytes for {geometry.total_bytes} bytes of flash", code="geometry"
            )
        self._seed = seed
        self._endurance = endurance_cycles
        self._times = times
        kept = state if state is not None else ChipState(stuck=tuple(stuck), protected=tuple(protected))
        self._cycles = dict(kept.erase_cycles)
        self.stuck = set(kept.stuck)
        self._protected = kept.protected
        self.write_protect = kept.write_protect
        self.operations = kept.operations
        self.reads = self.programs = self.erases = 0
        self.bytes_read = self.bytes_programmed = self.bytes_erased = 0
        self.busy_s = 0.0
        self._cut: tuple[int, Phase] | None = None
        self._off = False

    @property
    def geometry(self) -> Geometry:
        return self._geometry

    @property
    def state(self) -> ChipState:
        return ChipState(
            erase_cycles=tuple(sorted(self._cycles.items())),
            stuck=tuple(sorted(self.stuck)),
            protected=self._protected,
            write_protect=self.write_protect,
            operations=self.operations,
        )

    def erase_cycles(self, index: int) -> int:
        """How often the erase block of that index has been erased."""
        return self._cycles.get(index, 0)

    # What the product calls.

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        self._powered()
        check_range(self._geometry, offset_bytes, length_bytes)
        self.reads += 1
        self.bytes_read += length_bytes
        self.busy_s += length_bytes / self._times.read_bytes_per_s
        return bytes(self._bytes[offset_bytes : offset_bytes + length_bytes])

    def program(self, offset_bytes: int, octets: bytes) -> None:
        self._powered()
        check_range(self._geometry, offset_bytes, len(octets))
        self._refuse_protected(offset_bytes, len(octets))
        end = offset_bytes + len(octets)
        if self._bytes[offset_bytes:end].count(ERASED) != len(octets):
            raise FlashError(f"{len(octets)} bytes at {offset_bytes:#x} are not erased", code="not-erased")
        at = offset_bytes
        while at < end:
            page_end = min(end, (at // self._times.page_bytes + 1) * self._times.page_bytes)
            self._program_page(at, octets[at - offset_bytes : page_end - offset_bytes])
            at = page_end

    def erase(self, offset_bytes: int) -> None:
        self._powered()
        block = erase_block_from(self._geometry, offset_bytes)
        self._refuse_protected(block.offset_bytes, block.size_bytes)
        phase = self._begin()
        old = bytes(self._bytes[block.offset_bytes : block.end_bytes])
        self.erases += 1
        self.bytes_erased += block.size_bytes
        self.busy_s += self._times.erasing_s(block.size_bytes)
        self._cycles[block.index] = self.erase_cycles(block.index) + 1
        if block.index in self.stuck:
            self._end(phase)
            raise FlashError(f"erase block {block.index} does not erase", code="erase-failed")
        if phase is Phase.TORN:
            self._bytes[block.offset_bytes : block.end_bytes] = _torn_erase(self._random("torn"), old)
        elif self._endurance is not None and self._cycles[block.index] > self._endurance:
            self._erase_worn(block, phase)
        else:
            self._bytes[block.offset_bytes : block.end_bytes] = bytes([ERASED]) * block.size_bytes
        self._end(phase)

    # What the world does to a chip.

    def cut_power(self, *, at: int, phase: Phase) -> None:
        """Power fails before, within or after the operation of that number (`operations` is the next one's).

        From then on every call raises PowerCut, until `power_on`.
        """
        self._cut = (at, phase)

    def power_on(self) -> None:
        """Power is back; a cut that has not happened yet is called off."""
        self._off = False
        self._cut = None

    def flip_bits(self, count: int, *, offset_bytes: int = 0, length_bytes: int | None = None) -> tuple[int, ...]:
        """Flip that many different bits in a range; returns the offsets of their bytes. Protection does not help."""
        length = self._geometry.total_bytes - offset_bytes if length_bytes is None else length_bytes
        check_range(self._geometry, offset_bytes, length)
        bits = self._random("flip").sample(range(offset_bytes * 8, (offset_bytes + length) * 8), count)
        self.operations += 1
        for bit in bits:
            self._bytes[bit // 8] = self._bytes[bit // 8] ^ 1 << bit % 8
        return tuple(sorted(bit // 8 for bit in bits))

    # Inside.

    def _random(self, what: str) -> random.Random:
        return random.Random(f"{self._seed}:{what}:{self.operations}")

    def _powered(self) -> None:
        if self._off:
            raise PowerCut

    def _refuse_protected(self, offset_bytes: int, length_bytes: int) -> None:
        for at, length in self._protected if self.write_protect else ():
            if offset_bytes < at + length and at < offset_bytes + length_bytes:
                raise FlashError(
                    f"{length_bytes} bytes at {offset_bytes:#x} touch a protected sector", code="protected"
                )

    def _begin(self) -> Phase | None:
        """The phase of the cut that falls on this operation, if one does."""
        phase = self._cut[1] if self._cut is not None and self._cut[0] == self.operations else None
        if phase is Phase.BEFORE:
            self._end(phase)
        return phase

    def _end(self, phase: Phase | None) -> None:
        self.operations += 1
        if phase is not None:
            self._off = True
            raise PowerCut

    def _program_page(self, at: int, octets: bytes) -> None:
        phase = self._begin()
        self.programs += 1
        self.bytes_programmed += len(octets)
        self.busy_s += self._times.page_program_s
        stored = _torn_program(self._random("torn"), octets) if phase is Phase.TORN else octets
        self._bytes[at : at + len(octets)] = stored
        self._end(phase)

    def _erase_worn(self, block: EraseBlock, phase: Phase | None) -> None:
        """Half of the worn erase blocks say that they failed; the others keep a few bits and say nothing."""
        rng = random.Random(f"{self._seed}:worn:{block.index}")
        if rng.random() < 0.5:
            self._end(phase)
            raise FlashError(f"erase block {block.index} is worn out", code="worn-out")
        worn = bytearray([ERASED]) * block.size_bytes
        for _ in range(1 + rng.randrange(8)):
            worn[rng.randrange(block.size_bytes)] &= ~(1 << rng.randrange(8)) & 0xFF
        self._bytes[block.offset_bytes : block.end_bytes] = bytes(worn)


def _mask(rng: random.Random, length_bytes: int) -> int:
    """Random bits of a random density (a quarter, half, three quarters), or all bits of a random prefix."""
    bits = length_bytes * 8
    match rng.randrange(4):
        case 0:
            return rng.getrandbits(bits)
        case 1:
            return rng.getrandbits(bits) & rng.getrandbits(bits)
        case 2:
            return rng.getrandbits(bits) | rng.getrandbits(bits)
        case _:
            kept = rng.randrange(length_bytes + 1)
            return int.from_bytes(b"\xff" * kept + bytes(length_bytes - kept), "big")


def _torn_program(rng: random.Random, wanted: bytes) -> bytes:
    """Some of the bits that were to become 0 did."""
    unfinished = int.from_bytes(wanted, "big") | ~_mask(rng, len(wanted)) & (1 << len(wanted) * 8) - 1
    return unfinished.to_bytes(len(wanted), "big")


def _torn_erase(rng: random.Random, old: bytes) -> bytes:
    """Bits became 1; or became 0, in the pre-programming that precedes an erase; or whole bytes stayed."""
    bits = int.from_bytes(old, "big")
    match rng.randrange(3):
        case 0:
            return (bits | _mask(rng, len(old))).to_bytes(len(old), "big")
        case 1:
            return (bits & _mask(rng, len(old))).to_bytes(len(old), "big")
        case _:
            return bytes(rng.choice((byte, ERASED)) for byte in old)
