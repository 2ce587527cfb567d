# SPDX-License-Identifier: Apache-2.0
"""The street of devices, at its smallest."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bench.street import compiled, measure
from bench.street_cargo import build

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None or not Path("/usr/include/openssl/sha.h").exists(),
    reason="wants Linux, a C compiler and the headers of OpenSSL and zlib",
)


def test_street_of_three_devices_all_restored(tmp_path: Path) -> None:
    try:
        clients = compiled(tmp_path)
    except subprocess.CalledProcessError as error:
        pytest.fail(str(error.stderr))
    street = build(tmp_path / "street", devices=3, size_bytes=17 << 16)
    figures = measure(clients, street, 3, limit_s=20)
    assert figures["failures"] == 0
    assert figures["setbacks"] == 0
