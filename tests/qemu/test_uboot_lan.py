# SPDX-License-Identifier: Apache-2.0
"""U-Boot on a LAN that nobody configured, and on one that loses frames: a TAP in a network namespace.

Wants root, for the namespace (tools/lab/lan.py).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lan_in_namespaces import STRICT
from tests.qemu.bench import Laboratory, Stopwatch
from tests.qemu.capture import options as captured
from tests.qemu.capture import ring
from tests.qemu.healing import RESTORE_PATIENCE_S, restored_in
from tests.qemu.small import ERASE_BLOCKS, SEED, Small, bootloader, serving_in
from tools.lab.gateway import FIRMWARE, FlashFile
from tools.lab.lan import TAP, Lan, lan, why_not

REASON = why_not()
pytestmark = [pytest.mark.qemu, pytest.mark.skipif(REASON is not None, reason=str(REASON))]

RING_FRAMES = 32
OTHER_SUBNET = "10.99.99.9/24"


def restore(
    laboratory: Laboratory, small: Small, flash: FlashFile, lan: Lan, options: list[str] | None = None
) -> tuple[list[tuple[str, int]], str]:
    """Power on until it would boot: the erase blocks restored, and all that the console said."""
    with (
        serving_in(lan, small.store_copy(flash.path.parent)),
        bootloader(laboratory, flash, lan=lan, options=options or []) as console,
    ):
        said = console.expect("(?s)^(.*)unbrickd: booting generation 1,", timeout_s=RESTORE_PATIENCE_S)[1]
    return restored_in(said.decode()), said.decode()


# Loss.


def drops(lan: Lan) -> dict[str, int]:
    """How many frames nftables dropped, by hook."""
    said = lan.run("nft", "list", "table", "netdev", "loss")
    return {hook: int(count) for hook, count in re.findall(r"hook (\w+).*?packets (\d+)", said, re.DOTALL)}


@pytest.mark.parametrize("loss", [0.01, 0.05], ids="{:.0%}".format)
def test_power_on_frames_lost_each_way_restores_within_the_ring(
    loss: float, laboratory: Laboratory, small: Small, stopwatch: Stopwatch, tmp_path: Path
) -> None:
    """Every erase block of the firmware, through a card that takes 32 frames."""
    print(f"seed {SEED} of the damage; the kernel's own of the loss")
    flash = small.flash_copy(tmp_path)
    flash.damage(FIRMWARE, range(ERASE_BLOCKS), random.Random(SEED))
    with lan(OTHER_SUBNET, queue_frames=RING_FRAMES) as site:
        site.lose(loss)
        with stopwatch.timed(f"U-Boot, {loss:.0%} of the frames lost each way, {ERASE_BLOCKS} erase blocks"):
            restored, _ = restore(laboratory, small, flash, site, captured(tmp_path / "card.pcap"))
        lost = drops(site)
    assert sorted(restored) == [("firmware", index) for index in range(ERASE_BLOCKS)]
    assert small.differs(flash) == []
    assert lost["ingress"] > 0 and lost["egress"] > 0
    seen = ring(tmp_path / "card.pcap")
    print(f"{seen}, {lost} lost")
    assert seen.frames == RING_FRAMES
    assert 1 < seen.fullest <= RING_FRAMES, "the window opens, and never beyond what was advertised"


# No set-up. Each makes the PC's network; U-Boot's `ipaddr` is not set but where it says so.


def other_subnet(lan: Lan) -> None:
    """the PC has an address of another subnet, and a default route there"""
    lan.run("ip", "route", "add", "default", "via", "10.99.99.1")


def strict_firewall(lan: Lan) -> None:
    """its firewall lets in only what answers a flow that the PC opened: the server asks, the device answers"""
    lan.run("nft", STRICT)


def reverse_path_filter(lan: Lan) -> None:
    """it drops what comes from an address that it has no route to: only 0.0.0.0 is heard"""
    for which in ("all", TAP):
        lan.run("sysctl", "-q", "-w", f"net.ipv4.conf.{which}.rp_filter=1")


def no_address(lan: Lan) -> None:
    """it has no IPv4 address at all"""
    lan.run("ip", "address", "flush", "dev", TAP)


Make = Callable[[Lan], None]
CELLS: list[tuple[Make, dict[str, str], str]] = [
    (other_subnet, {}, r"server 10\.99\.99\.9"),
    (other_subnet, {"ipaddr": "192.168.1.1", "netmask": "255.255.255.0"}, r"server 10\.99\.99\.9"),
    (strict_firewall, {}, r"server 10\.99\.99\.9"),
    (reverse_path_filter, {}, r"server 10\.99\.99\.9"),
    (no_address, {}, r"server 0\.0\.0\.0"),
]


@pytest.fixture
def site() -> Iterator[Lan]:
    with lan(OTHER_SUBNET) as made:
        for which in ("all", "default", TAP):
            made.run("sysctl", "-q", "-w", f"net.ipv4.conf.{which}.rp_filter=0")
        yield made


@pytest.mark.parametrize(
    ("make", "variables", "server"),
    CELLS,
    ids=[f"{make.__name__}{'-with-ipaddr' if v else ''}" for make, v, _ in CELLS],
)
def test_power_on_network_nobody_configured_finds_the_server_and_restores(
    *,
    make: Make,
    variables: dict[str, str],
    server: str,
    site: Lan,
    laboratory: Laboratory,
    small: Small,
    stopwatch: Stopwatch,
    tmp_path: Path,
) -> None:
    flash = small.flash_copy(tmp_path, **variables)
    flash.damage(FIRMWARE, [3], random.Random(SEED))
    make(site)
    with stopwatch.timed(f"U-Boot, {make.__doc__}"):
        restored, said = restore(laboratory, small, flash, site)
    assert restored == [("firmware", 3)]
    assert re.search(server, said)
    assert small.differs(flash) == []
