# SPDX-License-Identifier: Apache-2.0
"""Writing that is believed only when read back: one erase block, or an image. Knows nothing of what is written.

Spec: spec/flash-format.md §1. A write is done again after a power cut by calling it again: what is there already is
left alone, so the second call costs only what the first did not finish.
"""

from __future__ import annotations

from itertools import groupby

from unbrickd.errors import FlashError
from unbrickd.flash.interface import ERASED, Flash
from unbrickd.model.geometry import EraseBlock

PAGE_BYTES = 256
"""Program page of serial NOR flash (W25Q128JV datasheet §8.2.13); parallel NOR takes any length."""
MAX_TRIES = 2
"""A second try helps against a disturbed erase; an erase block that fails twice is worn out."""


def write_erase_block(flash: Flash, block: EraseBlock, octets: bytes, *, page_bytes: int = PAGE_BYTES) -> None:
    """Make the erase block hold `octets`, then 0xFF up to its end; returns once it has been read back.

    Does nothing if it holds them, does not erase what reads as erased, and erases what cannot be read. Pages of 0xFF
    only are not programmed. Pages are programmed from the last to the first, so that a structure which begins with its
    magic is not there before all of it is.

    Raises FlashError: `too-big`; `verify` if it reads back wrong after MAX_TRIES; what the flash itself raises.
    A power cut leaves the contents of this erase block undefined and all others alone.
    """
    if len(octets) > block.size_bytes:
        raise FlashError(f"{len(octets)} bytes for an erase block of {block.size_bytes}", code="too-big")
    wanted = octets.ljust(block.size_bytes, bytes([ERASED]))
    blank = bytes([ERASED]) * block.size_bytes
    current = _read(flash, block)
    for _ in range(MAX_TRIES):
        if current == wanted:
            return
        if current != blank:
            flash.erase(block.offset_bytes)
            current = _read(flash, block)
            if current != blank:
                continue
        for at in reversed(range(0, block.size_bytes, page_bytes)):
            page = wanted[at : at + page_bytes]
            if page != blank[: len(page)]:
                flash.program(block.offset_bytes + at, page)
        current = _read(flash, block)
    if current != wanted:
        raise FlashError(
            f"erase block {block.index} at {block.offset_bytes:#x} reads back wrong after {MAX_TRIES} tries",
            code="verify",
            hint="the flash is worn out there",
        )


def program_erased(flash: Flash, offset_bytes: int, octets: bytes, *, page_bytes: int = PAGE_BYTES) -> bool:
    """Program what is erased, from the first page to the last, and read it back; whether that is right.

    `offset_bytes` begins a page. Pages of 0xFF only are not programmed, those between them at once. Raises FlashError,
    as the flash itself does. A power cut leaves what lies there undefined.
    """
    blank = bytes([ERASED]) * page_bytes
    pages = range(0, len(octets), page_bytes)
    for is_blank, run in groupby(pages, key=lambda at: blank.startswith(octets[at : at + page_bytes])):
        if not is_blank:
            first, *others = run
            flash.program(offset_bytes + first, octets[first : first + page_bytes * (1 + len(others))])
    return flash.read(offset_bytes, len(octets)) == octets


def _read(flash: Flash, block: EraseBlock) -> bytes | None:
    """What it holds, or None if it cannot be read, which erasing may mend."""
    try:
        return flash.read(block.offset_bytes, block.size_bytes)
    except FlashError:
        return None


def write_image(flash: Flash, octets: bytes) -> None:
    """Make the flash, from its start, hold an image; the last erase block is filled up with 0xFF, those after it stay.

    Raises FlashError (`too-big` before anything is written; else as `write_erase_block`).
    A power cut leaves erase blocks before some point new, one undefined and those after it old; call again.
    """
    if len(octets) > flash.geometry.total_bytes:
        raise FlashError(f"{len(octets)} bytes do not fit {flash.geometry.total_bytes} bytes of flash", code="too-big")
    for block in flash.geometry:
        if block.offset_bytes >= len(octets):
            return
        write_erase_block(flash, block, octets[block.offset_bytes : block.end_bytes])
