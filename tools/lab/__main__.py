# SPDX-License-Identifier: Apache-2.0
"""`python -m tools.lab`: build everything now, and print where it lies."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.lab.build import ARM, ARM64, kernel, qemu, uboot
from tools.lab.errors import LabError


def main() -> int:
    try:
        for name, path in (("qemu", qemu()), ("kernel", kernel()), *((b.name, uboot(b)) for b in (ARM, ARM64))):
            print(f"{name}\t{Path(path)}")
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
