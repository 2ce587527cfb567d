# SPDX-License-Identifier: Apache-2.0
"""Runs in the gateway: what the kernel's MTD says and does when `MtdFlash` asks. Prints one JSON object."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from unbrickd.adapters.flash.mtd import MtdFlash
from unbrickd.errors import FlashError
from unbrickd.flash.write import write_erase_block


def outcome(action: Callable[[], object]) -> str:
    """ "done", or the code of the error."""
    try:
        action()
    except FlashError as error:
        return error.code
    return "done"


def main(spare: Path, read_only: Path) -> None:
    said: dict[str, object] = {}
    with MtdFlash(spare) as flash:
        blocks = list(flash.geometry)
        said["erase_blocks"] = [block.size_bytes for block in blocks]
        first, second, last = blocks[0], blocks[1], blocks[-1]
        pattern = bytes(range(256)) * (first.size_bytes // 256)
        write_erase_block(flash, first, pattern)
        flash.program(second.offset_bytes + 5, b"unaligned")
        said["unaligned"] = flash.read(second.offset_bytes + 4, 11).hex()
        write_erase_block(flash, last, pattern)
        write_erase_block(flash, last, pattern[::-1])
        said["lock"] = outcome(lambda: flash.lock(first.offset_bytes, first.size_bytes))
        said["unlock"] = outcome(lambda: flash.unlock(first.offset_bytes, first.size_bytes))
        said["still_there"] = flash.read(first.offset_bytes, first.size_bytes) == pattern
    said["open_read_only"] = outcome(lambda: MtdFlash(read_only).close())
    with MtdFlash(read_only, writable=False) as flash:
        said["erase_read_only"] = outcome(lambda: flash.erase(0))
        said["program_read_only"] = outcome(lambda: flash.program(0, b"\0"))
        said["unlock_read_only"] = outcome(lambda: flash.unlock(0, flash.geometry.total_bytes))
    print(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
