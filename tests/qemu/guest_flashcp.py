# SPDX-License-Identifier: Apache-2.0
"""Runs in the gateway: `guest_flashcp.pyc FILE DEVICE` erases, writes, reads back, as mtd-utils' flashcp does."""

from __future__ import annotations

import sys
from pathlib import Path

from unbrickd.adapters.flash.mtd import MtdFlash
from unbrickd.flash.write import write_image


def main(file: Path, device: Path) -> None:
    with MtdFlash(device) as flash:
        write_image(flash, file.read_bytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
