# SPDX-License-Identifier: Apache-2.0
"""The street of devices, at its smallest."""

from __future__ import annotations

import random
import shutil
import socket
import sys
from pathlib import Path

import pytest
from bench.compiled import compiled
from bench.links import Link, opened, run, why_not
from bench.processes import answers_tftp, free_port, python, running
from bench.street import figures_of, measure
from bench.street_cargo import build

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None or not Path("/usr/include/openssl/sha.h").exists(),
    reason="wants Linux, a C compiler and the headers of OpenSSL and zlib",
)


def test_street_of_three_devices_all_restored(tmp_path: Path) -> None:
    street = build(tmp_path / "street", devices=3, octets=random.Random(1).randbytes(17 << 16))
    figures = measure(street, 3, limit_s=20)
    assert figures["failures"] == 0
    assert figures["setbacks"] == 0
    assert figures["slowest_of_median"] >= 1 and figures["blocks_per_request"] > 1


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_street_over_a_link_all_restored(tmp_path: Path) -> None:
    street = build(tmp_path / "street", devices=3, octets=random.Random(1).randbytes(3 << 16))
    with opened(Link(rate_mbit=1000), seed=1, folder=tmp_path) as hosts:
        figures = measure(street, 3, limit_s=20, hosts=hosts)
        assert hosts.pc.sent()[1] > 3 * (3 << 16)
    assert figures["failures"] == 0


@pytest.mark.parametrize("changed", [False, True])
def test_street_by_tftp_compares_every_byte(tmp_path: Path, changed: bool) -> None:
    served, wanted = tmp_path / "firmware", tmp_path / "wanted"
    served.write_bytes(random.Random(1).randbytes(100_000))
    wanted.write_bytes(served.read_bytes()[:-1] + (b"?" if changed else served.read_bytes()[-1:]))
    port = free_port(socket.SOCK_DGRAM)
    with running(python("-m", "bench.tftp", "serve", str(port), tmp_path), ready=answers_tftp(port)) as server:
        told = run(compiled("street_tftp", tmp_path), "127.0.0.1", str(port), wanted, "firmware", "1", "20")
        figures = figures_of(told, 1, server, (0.0, 0))
    assert figures["failures"] == int(changed)
    assert ("mb_per_s" in figures) is not changed
