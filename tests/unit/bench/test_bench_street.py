# SPDX-License-Identifier: Apache-2.0
"""The street of devices, at its smallest."""

from __future__ import annotations

import random
import shutil
import socket
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bench import device_in_c, street
from bench.compiled import compiled
from bench.crowd import at_once, parts
from bench.links import Link, opened, why_not
from bench.processes import answers_tftp, free_port, python, running, says_ready
from bench.street import figures_of, measure
from bench.street_cargo import build

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None or not Path("/usr/include/openssl/sha.h").exists(),
    reason="wants Linux, a C compiler and the headers of OpenSSL and zlib",
)


def test_street_of_three_devices_all_restored(tmp_path: Path) -> None:
    devices = build(tmp_path / "street", devices=3, octets=random.Random(1).randbytes(17 << 16))
    figures = measure(devices, 3, limit_s=20)
    assert figures["failures"] == 0
    assert figures["setbacks"] == 0
    assert figures["slowest_of_median"] >= 1 and figures["blocks_per_request"] > 1


def test_device_in_c_that_is_done_has_heard_how_much_the_server_sent(tmp_path: Path) -> None:
    devices = build(tmp_path / "street", devices=1, octets=random.Random(1).randbytes(17 << 16))
    address, port = "127.0.0.1", free_port(socket.SOCK_DGRAM)
    serve = ("serve", "--udp", f"{address}:{port}", "--store", devices.store, "--log-level", "error")
    with running(python("-m", "unbrickd", *serve), ready=says_ready):
        told = device_in_c.restore(devices, address, port)
    assert told["block_bytes_sent"] >= 17 << 16


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_street_over_a_link_all_restored(tmp_path: Path) -> None:
    devices = build(tmp_path / "street", devices=3, octets=random.Random(1).randbytes(3 << 16))
    with opened(Link(rate_mbit=1000), seed=1, folder=tmp_path) as hosts:
        figures = measure(devices, 3, limit_s=20, hosts=hosts)
        assert hosts.pc.sent()[1] > 3 * (3 << 16)
    assert figures["failures"] == 0


@pytest.mark.parametrize("changed", [False, True])
def test_street_by_tftp_compares_every_byte(tmp_path: Path, changed: bool) -> None:
    served, wanted = tmp_path / "firmware", tmp_path / "wanted"
    served.write_bytes(random.Random(1).randbytes(100_000))
    wanted.write_bytes(served.read_bytes()[:-1] + (b"?" if changed else served.read_bytes()[-1:]))
    port = free_port(socket.SOCK_DGRAM)
    with running(python("-m", "bench.tftp", "serve", str(port), tmp_path), ready=answers_tftp(port)) as server:
        client = str(compiled("street_tftp", tmp_path))
        told = at_once([client, "127.0.0.1", str(port), str(wanted), "firmware", "1", "20"])
        figures = figures_of(told, 1, server, (0.0, 0))
    assert figures["failures"] == int(changed)
    blocks_bytes = 100_000 // 1468 * 1468 if changed else 100_000
    assert figures["mb_per_s"] * told[1]["elapsed_s"] * 1e6 == pytest.approx(blocks_bytes)


def test_street_by_tftp_stopped_counts_what_came_from_whoever_answered_first(tmp_path: Path) -> None:
    wanted, sent = tmp_path / "wanted", 3
    wanted.write_bytes(random.Random(1).randbytes(100_000))
    blocks = [wanted.read_bytes()[at : at + 1468] for at in range(0, sent * 1468, 1468)]

    def serve(listener: socket.socket, stranger: socket.socket) -> None:
        _, device = listener.recvfrom(512)
        listener.sendto(b"\0\6blksize\x001468\0", device)
        for number, block in enumerate(blocks, 1):
            listener.recv(512)
            stranger.sendto(struct.pack("!HH", 3, number) + bytes(1468), device)
            listener.sendto(struct.pack("!HH", 3, number) + block, device)

    with socket.socket(type=socket.SOCK_DGRAM) as listener, socket.socket(type=socket.SOCK_DGRAM) as stranger:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(10)
        with ThreadPoolExecutor() as pool:
            served = pool.submit(serve, listener, stranger)
            client, port = compiled("street_tftp", tmp_path), str(listener.getsockname()[1])
            seconds, told = at_once([str(client), "127.0.0.1", port, str(wanted), "wanted", "1", "0.2"])
            served.result()
    assert seconds == [None] and told["elapsed_s"] >= 0.2
    assert told["payload_bytes"] == sent * 1468


@pytest.mark.parametrize("devices", [1, 2, 3, 500])
def test_parts_of_a_street_are_all_of_it_once(devices: int) -> None:
    assert [device for part in parts(devices) for device in part] == list(range(devices))
    assert all(parts(devices))


def test_street_goals_beside_a_peer_that_was_stopped_are_judged() -> None:
    ours = {"mb_per_s": 200.0, "failures": 0.0}
    medians = {street.OURS: ours, street.FBTFTP: {"mb_per_s": 40.0, "failures": 500.0}}
    assert street.times(10, street.FBTFTP).judge(medians) == (5.0, False)
