# SPDX-License-Identifier: Apache-2.0
"""TFTP as bootloaders speak it: one block, one acknowledgement, and so on (RFC 1350, block size by RFC 2348).

The client gets or puts one file and prints a `Sample`. The server is for machines without tftpd-hpa. Block size is
U-Boot's default, CONFIG_TFTP_BLOCKSIZE = 1468.
"""

from __future__ import annotations

import argparse
import socket
import struct
import sys
import time
from pathlib import Path

from bench.sample import Sample, print_sample

BLOCK_BYTES = 1468
TIMEOUT_S = 1.0
TRIES = 10
RRQ, WRQ, DATA, ACK, ERROR, OACK = range(1, 7)

Address = tuple[str, int]


class Exchange:
    """Lock-step: send, wait for what answers it, send again if nothing comes."""

    def __init__(self, peer: Address, host: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, 0))
        self._socket.settimeout(TIMEOUT_S)
        self._peer = peer
        self.sent_bytes = self.received_bytes = 0

    def send(self, octets: bytes) -> None:
        self.sent_bytes += self._socket.sendto(octets, self._peer)

    def ask(self, octets: bytes, *answers: tuple[int, int]) -> tuple[int, bytes]:
        """Opcode and body of the first answer that is one of (opcode, block number); OACK has none."""
        for _ in range(TRIES):
            self.send(octets)
            try:
                while True:
                    answer, self._peer = self._socket.recvfrom(65536)
                    self.received_bytes += len(answer)
                    opcode, number = struct.unpack_from("!HH", answer)
                    if opcode == ERROR:
                        sys.exit(f"TFTP error: {answer[4:-1].decode(errors='replace')}")
                    if opcode == OACK:
                        return opcode, answer[2:]
                    if (opcode, number) in answers:
                        return opcode, answer[4:]
            except TimeoutError:
                continue
        sys.exit("the TFTP peer does not answer")

    def send_all(self, octets: bytes, first: int = 1) -> None:
        for number in range(first, len(octets) // BLOCK_BYTES + 2):
            block = octets[(number - 1) * BLOCK_BYTES : number * BLOCK_BYTES]
            self.ask(struct.pack("!HH", DATA, number & 0xFFFF) + block, (ACK, number & 0xFFFF))

    def receive_all(self, first_ask: bytes) -> bytearray:
        octets, number, ask = bytearray(), 1, first_ask
        while True:
            _, block = self.ask(ask, (DATA, number & 0xFFFF))
            octets += block
            ask = struct.pack("!HH", ACK, number & 0xFFFF)
            if len(block) < BLOCK_BYTES:
                self.send(ask)
                return octets
            number += 1

    def close(self) -> None:
        self._socket.close()


def request(opcode: int, name: str) -> bytes:
    return struct.pack("!H", opcode) + b"\0".join((name.encode(), b"octet", b"blksize", b"%d" % BLOCK_BYTES, b""))


def get(server: Address, name: str) -> tuple[bytearray, Exchange]:
    exchange = Exchange(server, server[0])
    exchange.ask(request(RRQ, name))
    return exchange.receive_all(struct.pack("!HH", ACK, 0)), exchange


def put(server: Address, name: str, octets: bytes) -> Exchange:
    exchange = Exchange(server, server[0])
    exchange.ask(request(WRQ, name), (ACK, 0))
    exchange.send_all(octets)
    return exchange


def serve(address: Address, folder: Path) -> None:
    """One transfer at a time, block size always BLOCK_BYTES; until it is ended."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(address)
    oack = struct.pack("!H", OACK) + b"blksize\0%d\0" % BLOCK_BYTES
    while True:
        asked, peer = listener.recvfrom(65536)
        opcode, name = struct.unpack_from("!H", asked)[0], asked[2:].split(b"\0")[0].decode()
        exchange = Exchange(peer, address[0])
        path = folder / Path(name).name
        if opcode == RRQ and path.is_file():
            exchange.ask(oack, (ACK, 0))
            exchange.send_all(path.read_bytes())
        elif opcode == WRQ:
            path.write_bytes(exchange.receive_all(oack))
        else:
            exchange.send(struct.pack("!HH", ERROR, 1) + b"no such file\0")
        exchange.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tftp", description=__doc__)
    parser.add_argument("what", choices=("get", "put", "serve"))
    parser.add_argument("port", type=int, help="of 127.0.0.1")
    parser.add_argument("path", type=Path, help="file to compare with or to put; folder to serve")
    args = parser.parse_args()
    server = ("127.0.0.1", args.port)
    if args.what == "serve":
        serve(server, args.path)
        return
    octets = args.path.read_bytes()
    started_s, cpu_s = time.perf_counter(), time.process_time()
    if args.what == "get":
        received, exchange = get(server, args.path.name)
    else:
        received, exchange = bytearray(octets), put(server, "upload.bin", octets)
    sample = Sample(
        seconds=time.perf_counter() - started_s,
        cpu_s=time.process_time() - cpu_s,
        sent_bytes=exchange.sent_bytes,
        received_bytes=exchange.received_bytes,
        payload_bytes=len(received),
    )
    if received != octets:
        sys.exit("what was received is not what was served")
    print_sample(sample)


if __name__ == "__main__":
    main()
