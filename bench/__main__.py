# SPDX-License-Identifier: Apache-2.0
"""`python -m bench [loopback | links | street | uboot | report] …`: which benchmark; loopback if none is named."""

from __future__ import annotations

import sys

from bench import link_table, loopback, report, street, uboot


def main() -> None:
    which, *rest = sys.argv[1:] or ["loopback"]
    if which == "links":
        link_table.main(rest)
    elif which == "street":
        street.main(rest)
    elif which == "report":
        report.main(rest)
    elif which == "uboot":
        uboot.main(rest)
    else:
        loopback.main(rest if which == "loopback" else [which, *rest])


if __name__ == "__main__":
    main()
