# SPDX-License-Identifier: Apache-2.0
"""`python -m bench {loopback,links,street,uboot,report} …`: which benchmark; loopback by default. Each has --help."""

from __future__ import annotations

import signal
import sys

from bench import link_table, loopback, report, street, uboot

BENCHES = {
    "loopback": loopback.main,
    "links": link_table.main,
    "street": street.main,
    "uboot": uboot.main,
    "report": report.main,
}


def main(arguments: list[str]) -> None:
    which, *rest = arguments or ["loopback"]
    if which in BENCHES:
        BENCHES[which](rest)
    elif which in ("-h", "--help"):
        print(__doc__)
    elif which.startswith("-"):
        loopback.main(arguments)
    else:
        sys.exit(f"bench: there is no {which!r}, but {', '.join(BENCHES)}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that servers and namespaces do not stay behind
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("bench: stopped")
