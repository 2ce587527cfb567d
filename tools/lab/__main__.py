# SPDX-License-Identifier: Apache-2.0
"""`python -m tools.lab`: build everything now, before tests in several processes want it, and print where it lies."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.lab import debian
from tools.lab.build import ARM, ARM64, kernel, qemu
from tools.lab.errors import LabError
from tools.lab.fit import PACKAGES
from tools.lab.recovery import recovery_sources, uboot_by_guide
from tools.lab.root import DEVICE_PACKAGES, root, small_root

REPOSITORY = Path(__file__).parents[2]
GUIDE = REPOSITORY / "docs/integrate-u-boot.md"


def main() -> int:
    try:
        debian.need(*PACKAGES)
        print(qemu())
        for board in (ARM, ARM64):
            print(uboot_by_guide(GUIDE, REPOSITORY, recovery_sources(REPOSITORY), board=board))
            print(kernel(board))
        print(root(REPOSITORY / "requirements/dev.txt", DEVICE_PACKAGES))
        print(small_root(ARM64.debian))
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
