# SPDX-License-Identifier: Apache-2.0
"""TFTP as bootloaders speak it: one block, one acknowledgement, and so on (RFC 1350, block size by RFC 2348).

The client gets or puts one file and prints a `Sample`; it can get with a window (RFC 7440), too. The server is for
machines without tftpd-hpa. Block size is U-Boot's default, CONFIG_TFTP_BLOCKSIZE = 1468.
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

    def __init__(self, peer: Address, host: str = "") -> None:
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

    def send_windows(self, octets: bytes, window: int) -> None:
        """Each window from what the last acknowledgement named (RFC 7440 §4)."""
        acknowledged, last, silences = 0, len(octets) // BLOCK_BYTES + 1, 0
        while acknowledged < last and silences < TRIES:
            for number in range(acknowledged + 1, min(acknowledged + window, last) + 1):
                block = octets[(number - 1) * BLOCK_BYTES : number * BLOCK_BYTES]
                self.send(struct.pack("!HH", DATA, number & 0xFFFF) + block)
            try:
                answer = self._socket.recv(65536)
            except TimeoutError:
                silences += 1
                continue
            silences = 0
            self.received_bytes += len(answer)
            opcode, number = struct.unpack_from("!HH", answer)
            ahead = (number - acknowledged) & 0xFFFF
            if opcode == ACK and ahead <= window:
                acknowledged += ahead

    def receive_all(self, first_ask: bytes, *, until_s: float = float("inf")) -> tuple[bytearray, bool]:
        """What came, and whether that is all; less if time.perf_counter() passes `until_s`."""
        octets, number, ask = bytearray(), 1, first_ask
        while time.perf_counter() < until_s:
            _, block = self.ask(ask, (DATA, number & 0xFFFF))
            octets += block
            ask = struct.pack("!HH", ACK, number & 0xFFFF)
            if len(block) < BLOCK_BYTES:
                self.send(ask)
                return octets, True
            number += 1
        return octets, False

    def receive_windows(self, window: int, *, until_s: float) -> tuple[bytearray, bool]:
        """As `receive_all`, acknowledging each `window` blocks and each gap (RFC 7440 §4)."""
        octets, number, fresh, gap_told = bytearray(), 0, 0, -1
        self.send(struct.pack("!HH", ACK, 0))
        while time.perf_counter() < until_s:
            try:
                packet, _ = self._socket.recvfrom(65536)
            except TimeoutError:
                packet = b"\0\0\0\0"
            self.received_bytes += len(packet)
            opcode, came = struct.unpack_from("!HH", packet)
            ends = False
            if opcode == DATA and came == (number + 1) & 0xFFFF:
                octets += packet[4:]
                number, fresh = number + 1, fresh + 1
                ends = len(packet) < 4 + BLOCK_BYTES
                if fresh < window and not ends:
                    continue
            elif opcode == DATA:
                if gap_told == number:
                    continue  # the rest of the window with the gap
                gap_told = number
            self.send(struct.pack("!HH", ACK, number & 0xFFFF))
            fresh = 0
            if ends:
                return octets, True
        return octets, False

    def close(self) -> None:
        self._socket.close()


def request(opcode: int, name: str, *, window: int = 1) -> bytes:
    options = [b"blksize", b"%d" % BLOCK_BYTES]
    if window > 1:
        options += [b"windowsize", b"%d" % window]
    return struct.pack("!H", opcode) + b"\0".join((name.encode(), b"octet", *options, b""))


def requested_window(asked: bytes) -> int:
    """What a request says (RFC 7440 §3), 1 if nothing."""
    fields = asked[2:].split(b"\0")
    return int(fields[fields.index(b"windowsize") + 1]) if b"windowsize" in fields else 1


def get(server: Address, name: str, *, window: int, until_s: float) -> tuple[bytearray, bool, Exchange]:
    exchange = Exchange(server)
    _, agreed = exchange.ask(request(RRQ, name, window=window))
    if window > 1:
        if b"windowsize\0%d\0" % window not in agreed:
            sys.exit("this TFTP server knows no windows")
        return *exchange.receive_windows(window, until_s=until_s), exchange
    return *exchange.receive_all(struct.pack("!HH", ACK, 0), until_s=until_s), exchange


def put(server: Address, name: str, octets: bytes) -> Exchange:
    exchange = Exchange(server)
    exchange.ask(request(WRQ, name), (ACK, 0))
    exchange.send_all(octets)
    return exchange


def serve(address: Address, folder: Path) -> None:
    """One transfer at a time, block size always BLOCK_BYTES, any window of a read; until it is ended."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(address)
    oack = struct.pack("!H", OACK) + b"blksize\0%d\0" % BLOCK_BYTES
    while True:
        asked, peer = listener.recvfrom(65536)
        opcode, name = struct.unpack_from("!H", asked)[0], asked[2:].split(b"\0")[0].decode()
        exchange = Exchange(peer, address[0])
        path = folder / Path(name).name
        if opcode == RRQ and path.is_file():
            window = requested_window(asked)
            exchange.ask(oack + (b"windowsize\0%d\0" % window if window > 1 else b""), (ACK, 0))
            if window > 1:
                exchange.send_windows(path.read_bytes(), window)
            else:
                exchange.send_all(path.read_bytes())
        elif opcode == WRQ:
            path.write_bytes(exchange.receive_all(oack)[0])
        else:
            exchange.send(struct.pack("!HH", ERROR, 1) + b"no such file\0")
        exchange.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.tftp", description=__doc__)
    parser.add_argument("what", choices=("get", "put", "serve"))
    parser.add_argument("port", type=int)
    parser.add_argument("path", type=Path, help="file to compare with or to put; folder to serve")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: %(default)s")
    parser.add_argument("--window", type=int, default=1, metavar="BLOCKS", help="of a get; default: lock-step")
    parser.add_argument("--limit", type=float, default=float("inf"), metavar="SECONDS", help="a get stops after them")
    args = parser.parse_args()
    server = (args.host, args.port)
    if args.what == "serve":
        serve(server, args.path)
        return
    octets = args.path.read_bytes()
    started_s, cpu_s = time.perf_counter(), time.process_time()
    if args.what == "get":
        until_s = started_s + args.limit
        received, complete, exchange = get(server, args.path.name, window=args.window, until_s=until_s)
    else:
        received, complete, exchange = bytearray(octets), True, put(server, "upload.bin", octets)
    sample = Sample(
        seconds=time.perf_counter() - started_s,
        cpu_s=time.process_time() - cpu_s,
        sent_bytes=exchange.sent_bytes,
        received_bytes=exchange.received_bytes,
        payload_bytes=len(received),
        started_s=started_s,
        complete=complete,
    )
    if received != octets[: None if complete else len(received)]:
        sys.exit("what was received is not what was served")
    print_sample(sample)


if __name__ == "__main__":
    main()
