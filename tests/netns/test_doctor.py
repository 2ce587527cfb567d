# SPDX-License-Identifier: Apache-2.0
"""`unbrickd doctor`, by a user without privileges, against each fault made on purpose; and what it says mends it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypedDict

import pytest
from lan_in_namespaces import NOBODY, STRICT, UNBRICKD, UNPRIVILEGED, Host, Server, cable, environment, run, why_not

REASON = why_not()
pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.skipif(bool(REASON), reason=REASON)]

MUTE = """
table inet f {
  chain out {
    type filter hook output priority 0
    udp dport 21531 drop
  }
}
"""
SETTLE_S = 5.0
SQUATTER = "import socket,sys; s=socket.socket(2,2); s.bind(('',21530)); print(flush=True); sys.stdin.read()"


class Finding(TypedDict):
    level: str
    code: str
    text: str
    mend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A PC with one card, `card`, at 192.168.1.10, and what hangs at its cable."""

    pc: Host
    other: Host
    home: Path
    stack: ExitStack

    def plug(self) -> None:
        cable(self.pc, "card", self.other, "lan")
        self.pc.ip("address add 192.168.1.10/24 dev card")
        self.settle(is_up=True)

    def settle(self, *, is_up: bool) -> None:
        """The kernel tells of a carrier that comes or goes up to a second late (linkwatch): wait until it has."""
        deadline_s = time.monotonic() + SETTLE_S
        while ("state UP" in self.pc.run("ip", "-o", "link", "show", "card")) is not is_up:
            assert time.monotonic() < deadline_s, "the carrier does not follow the cable"
            time.sleep(0.05)

    def serve(self, *flags: str) -> None:
        self.stack.callback(Server(self.pc, self.home / "store", "--log-level", "error", *flags).end)

    def faults(self, *flags: str) -> dict[str, Finding]:
        """By code; the exit code agrees with them."""
        words = (*UNBRICKD, "doctor", "--json", *(flags or ("--store", str(self.home / "store"))))
        done = subprocess.run(
            self.pc.inside(*UNPRIVILEGED, *words),
            capture_output=True,
            text=True,
            check=False,
            env=environment(self.home),
        )
        assert done.stderr == ""
        found: list[Finding] = json.loads(done.stdout)
        faults = {f["code"]: f for f in found if f["level"] == "fault"}
        assert done.returncode == (1 if faults else 0)
        assert all(f["mend"] for f in faults.values())
        return faults

    def obey(self, finding: Finding) -> None:
        self.pc.run(*finding["mend"].removeprefix("sudo ").split())


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        home = Path(stack.enter_context(TemporaryDirectory()))
        os.chown(home, NOBODY, NOBODY)
        yield Bench(pc=stack.enter_context(Host()), other=stack.enter_context(Host()), home=home, stack=stack)


def test_doctor_all_is_well_finds_no_fault(bench: Bench) -> None:
    bench.plug()
    bench.serve()
    assert bench.faults() == {}


def test_doctor_server_not_running_is_named(bench: Bench) -> None:
    bench.plug()
    faults = bench.faults()
    assert list(faults) == ["server-not-running"]
    assert faults["server-not-running"]["mend"] == "unbrickd serve"


def test_doctor_no_card_is_named(bench: Bench) -> None:
    bench.serve()
    assert list(bench.faults()) == ["no-link"]


def test_doctor_card_switched_off_is_named_and_mended(bench: Bench) -> None:
    bench.plug()
    bench.serve()
    bench.pc.ip("link set card down")
    faults = bench.faults()
    assert list(faults) == ["no-link"]
    bench.obey(faults["no-link"])
    bench.settle(is_up=True)
    assert bench.faults() == {}


def test_doctor_cable_without_a_router_is_named(bench: Bench) -> None:
    bench.plug()
    bench.serve()
    bench.other.ip("link set lan down")
    bench.settle(is_up=False)
    faults = bench.faults()
    assert list(faults) == ["no-link"]
    assert "cable" in faults["no-link"]["mend"]


@pytest.mark.parametrize("is_ours", [True, False])
def test_doctor_port_in_use_is_named_with_its_program_if_it_may_be_known(bench: Bench, is_ours: bool) -> None:
    bench.plug()
    command = bench.pc.inside(*(UNPRIVILEGED if is_ours else ()), UNBRICKD[0], "-c", SQUATTER)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as squatter:
        assert squatter.stdout is not None
        squatter.stdout.readline()
        faults = bench.faults()
        assert list(faults) == ["port-in-use"]
        if is_ours:
            assert f"(pid {squatter.pid})" in faults["port-in-use"]["text"]
            bench.obey(faults["port-in-use"])
        else:
            assert "only root" in faults["port-in-use"]["text"]
            squatter.kill()
        squatter.communicate()
    assert list(bench.faults()) == ["server-not-running"]


@pytest.mark.parametrize("runs", [True, False], ids=["server_runs", "no_server"])
def test_doctor_firewall_is_named(bench: Bench, runs: bool) -> None:
    bench.plug()
    if runs:
        bench.serve()
    before = set(bench.faults())
    bench.pc.firewall(STRICT)
    faults = bench.faults()
    assert set(faults) - before == {"firewall"}
    assert "21530" in faults["firewall"]["mend"]
    bench.pc.firewall("insert rule inet firewall in udp dport 21530 accept")
    assert set(bench.faults()) == before


def test_doctor_server_on_the_wrong_card_is_named(bench: Bench) -> None:
    bench.plug()
    cable(bench.pc, "wifi", bench.other, "ap")
    bench.pc.ip("address add 10.0.0.5/24 dev wifi")
    bench.serve("--udp", "10.0.0.5:21530")
    faults = bench.faults()
    assert list(faults) == ["wrong-card"]
    assert "deaf on card" in faults["wrong-card"]["text"]


def test_doctor_card_without_an_address_beside_one_with_is_no_fault(bench: Bench) -> None:
    """The dead router gives none, and the PC has its Wi-Fi besides."""
    bench.plug()
    cable(bench.pc, "wifi", bench.other, "ap")
    bench.pc.ip("address flush dev card")
    bench.pc.ip("address add 10.0.0.5/24 dev wifi")
    bench.serve()
    assert bench.faults() == {}


def test_doctor_address_that_is_not_here_is_the_only_fault(bench: Bench) -> None:
    bench.plug()
    assert list(bench.faults("--udp", "192.168.7.7:21530")) == ["address-not-here"]


def test_doctor_no_answer_path_is_named(bench: Bench) -> None:
    bench.plug()
    bench.serve()
    bench.pc.firewall(MUTE)
    assert list(bench.faults()) == ["no-answer-path"]


def test_doctor_reverse_path_filter_is_named_and_mended(bench: Bench) -> None:
    bench.plug()
    bench.serve()
    bench.pc.ip("address flush dev card")
    bench.pc.ip("address add 169.254.7.7/16 dev card")
    bench.pc.sysctl("net.ipv4.conf.all.rp_filter=2")
    faults = bench.faults()
    assert list(faults) == ["reverse-path"]
    bench.obey(faults["reverse-path"])
    assert bench.faults() == {}


def test_doctor_store_of_somebody_else_is_named_and_only_our_own_is_taken_over(bench: Bench) -> None:
    bench.plug()
    ours = bench.home / ".local/share/unbrickd/store"
    for store in (bench.home / "store", ours):
        store.mkdir(mode=0o700, parents=True)
    for folder in (bench.home / "store", bench.home / "store" / "below"):
        faults = bench.faults("--store", str(folder))
        assert set(faults) == {"store-not-writable", "server-not-running"}
        assert "chown" not in faults["store-not-writable"]["mend"]
    faults = bench.faults("--udp", "0.0.0.0:21530")
    assert faults["store-not-writable"]["mend"] == f'sudo chown -R "$USER" {ours}'


def test_doctor_full_disk_is_named(bench: Bench) -> None:
    bench.plug()
    store = bench.home / "store"
    store.mkdir()
    mounted = run("mount", "-t", "tmpfs", "-o", f"size=1m,uid={NOBODY},gid={NOBODY},mode=700", "disk", str(store))
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        assert set(bench.faults()) == {"disk-full", "server-not-running"}
    finally:
        run("umount", str(store))
