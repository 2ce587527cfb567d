# SPDX-License-Identifier: Apache-2.0
"""A TCP download that never ends, to be beside: when told to stop (SIGTERM), it prints how far it was at which time."""

from __future__ import annotations

import argparse
import json
import signal
import socket
import sys
import time
from types import FrameType

SAMPLE_EVERY_S = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tcp_flow", description=__doc__)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("name", help="of a large file")
    args = parser.parse_args()
    came: list[tuple[float, int]] = []

    def stop(_signal: int, _frame: FrameType | None) -> None:
        print(json.dumps(came), flush=True)
        sys.exit()

    signal.signal(signal.SIGTERM, stop)
    total_bytes = 0
    with socket.create_connection((args.host, args.port)) as connection:
        connection.sendall(f"GET /{args.name} HTTP/1.0\r\n\r\n".encode())
        while octets := connection.recv(1 << 18):
            total_bytes += len(octets)
            now_s = time.perf_counter()
            if not came or now_s - came[-1][0] >= SAMPLE_EVERY_S:
                came.append((now_s, total_bytes))
    sys.exit("the server ended the download")


if __name__ == "__main__":
    main()
