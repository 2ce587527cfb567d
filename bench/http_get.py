# SPDX-License-Identifier: Apache-2.0
"""Plain HTTP: gets one file over one connection into memory, compares it, and prints a `Sample`."""

from __future__ import annotations

import argparse
import socket
import sys
import time
from pathlib import Path

from bench.sample import Sample, print_sample


def get(server: tuple[str, int], name: str, *, until_s: float) -> tuple[bytes, int, int]:
    """The body, bytes sent and bytes received; less of it if time.perf_counter() passes `until_s`."""
    question = f"GET /{name} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode()
    answer = bytearray()
    with socket.create_connection(server) as connection:
        connection.sendall(question)
        while time.perf_counter() < until_s and (octets := connection.recv(1 << 18)):
            answer += octets
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        sys.exit(f"HTTP: {bytes(head[:80])!r}")
    return bytes(body), len(question), len(answer)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.http_get", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("path", type=Path, help="the file that is served, to compare with")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: %(default)s")
    parser.add_argument("--limit", type=float, default=float("inf"), metavar="SECONDS", help="it stops after them")
    args = parser.parse_args()
    started_s, cpu_s = time.perf_counter(), time.process_time()
    until_s = started_s + args.limit
    body, sent, received = get((args.host, args.port), args.path.name, until_s=until_s)
    complete = time.perf_counter() < until_s
    sample = Sample(
        seconds=time.perf_counter() - started_s,
        cpu_s=time.process_time() - cpu_s,
        sent_bytes=sent,
        received_bytes=received,
        payload_bytes=len(body),
        started_s=started_s,
        complete=complete,
    )
    if body != args.path.read_bytes()[: None if complete else len(body)]:
        sys.exit("what was received is not what was served")
    print_sample(sample)


if __name__ == "__main__":
    main()
