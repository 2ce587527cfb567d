# SPDX-License-Identifier: Apache-2.0
"""What `unbrickd doctor` says where nothing needs a network; its faults are made on purpose in tests/netns."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path

import pytest

from unbrickd.adapters.net import diagnose
from unbrickd.adapters.net.diagnose import Level, diagnose_network
from unbrickd.cli.doctor import diagnose_store


def test_diagnose_platform_that_tells_no_cards_says_what_it_cannot_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnose, "cards", lambda: None)
    monkeypatch.setattr(diagnose, "PATIENCE_S", 0.0)
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.bind(("", 0))
        port = sock.getsockname()[1]
    found = {f.code: f for f in diagnose_network([("0.0.0.0", port)])}
    assert {code for code, f in found.items() if f.level is Level.FAULT} == {"server-not-running"}
    assert found["link"].level is found["firewall"].level is Level.NOTE
    assert str(port) in found["firewall"].mend


def test_diagnose_server_without_udp_is_noted() -> None:
    assert [f.level for f in diagnose_network([]) if f.code == "no-udp"] == [Level.NOTE]


@pytest.mark.parametrize("depth", ["store", "not/there/yet"])
def test_diagnose_store_that_can_be_made_is_well(tmp_path: Path, depth: str) -> None:
    assert [f.level for f in diagnose_store(tmp_path / depth)] == [Level.OK]


def test_diagnose_store_that_is_a_file_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"")
    assert [f.code for f in diagnose_store(tmp_path / "store")] == ["store-not-writable"]
