# SPDX-License-Identifier: Apache-2.0
"""No set-up (issue 4 B): a whole restore on every kind of network that an owner's PC may have, with nobody configuring.

Every cell runs twice: with a device that speaks IPv6 too, and with one that has IPv4 only, as the bootloaders of 2023.
What is known not to work is in docs/no-setup.md, whose table this file writes:
    UNBRICKD_NO_SETUP_TABLE=docs/no-setup.md python -m pytest tests/netns/test_no_setup.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from lan_in_namespaces import NOBODY, STRICT, UNBRICKD, Host, Restore, Server, cable, copied, run, switch, why_not

from unbrickd.adapters.net.borrowed_address import candidate
from unbrickd.cli.main import main

REASON = why_not()
pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.skipif(bool(REASON), reason=REASON)]

COMPONENTS = ("firmware", "config")
TABLE_VARIABLE = "UNBRICKD_NO_SETUP_TABLE"
TABLE_MARK = "<!-- measured -->\n"
DEVICE_ADDRESS = "192.168.1.1/24"
BORROW = 'borrow_address = "lan"'

LIKE_WINDOWS = """
table inet firewall {
  set asked { type inet_service; flags dynamic, timeout; timeout 4s; }
  chain out {
    type filter hook output priority 0
    ip daddr 255.255.255.255 update @asked { udp sport }
    ip6 daddr ff00::/8 update @asked { udp sport }
  }
  chain in {
    type filter hook input priority 0; policy drop
    iif lo accept
    ct state established,related accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    meta pkttype host udp dport @asked accept
  }
}
"""
"""Unicast answers to a broadcast or multicast are let in for four seconds (Windows: UnicastResponsesToMulticast…)."""

COUNTERS = """
table ip traffic {
  set heard { type ipv4_addr; flags dynamic; counter; }
  chain in {
    type filter hook input priority 0
    udp sport 21530 update @heard { ip daddr }
  }
}
"""
"""How much servers send to which address."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Damaged gateways and the store that holds them; `original`: what their flash must hold again, by component."""

    gateways: tuple[Path, ...]
    store: Path
    original: tuple[dict[str, bytes], ...]


def unbrickd(host: Host, home: Path, *words: str) -> None:
    done = run(*host.inside("env", f"HOME={home}", "UNBRICKD_CONFIG=/dev/null", *UNBRICKD, *words))
    assert done.returncode == 0, done.stderr


def extracted(home: Path, gateway: Path) -> dict[str, bytes]:
    for component in COMPONENTS:
        assert main(["gateway", "extract", str(gateway), component, str(home / component)]) == 0
    return {component: (home / component).read_bytes() for component in COMPONENTS}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where the unprivileged server may go, unlike pytest's own folders."""
    with TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture(scope="module")
def samples(folder: Path) -> Iterator[Samples]:
    """Two gateways that were backed up, and then lost their firmware and configuration as a whole."""
    home = folder / "samples"
    home.mkdir()
    os.chown(home, NOBODY, NOBODY)
    gateways = (home / "one", home / "two")
    with Host() as host:
        server = Server(host, home / "store")
        for gateway in gateways:
            create = "--flash-size 1MiB --erase-block 16KiB --good-after 0.1 --backup-after 0.1 --server 127.0.0.1"
            unbrickd(host, home, "gateway", "create", str(gateway), *create.split())
            (gateway / "config").write_bytes(os.urandom(4000))
            unbrickd(host, home, "gateway", "set-config", str(gateway), str(gateway / "config"))
            unbrickd(host, home, "gateway", "power-on", str(gateway), "--until", "good")
            layout = (gateway / "layout.toml").read_text(encoding="utf-8")
            (gateway / "layout.toml").write_text(layout.replace('"127.0.0.1"', '"discover"'), encoding="utf-8")
        server.end()
        original = tuple(extracted(home, gateway) for gateway in gateways)
        for gateway in gateways:
            for component, erase_blocks in (("firmware", "0-27"), ("config", "0")):
                damage = ("--partition", component, "--erase-blocks", erase_blocks)
                unbrickd(host, home, "gateway", "damage", str(gateway), *damage)
            assert extracted(home, gateway)["firmware"] != original[0]["firmware"]
    yield Samples(gateways=gateways, store=home / "store", original=original)


class Cell:
    """One network with what runs on it. The device, IPv6 or not, has its default address unless a cell takes it."""

    def __init__(self, samples: Samples, folder: Path, stack: ExitStack, *, device_has_ipv6: bool) -> None:
        self._samples = samples
        self._folder = folder
        self._stack = stack
        self.device_has_ipv6 = device_has_ipv6
        self.pc = self.host()
        self.device = self.host(has_ipv6=device_has_ipv6)

    def host(self, *, has_ipv6: bool = True) -> Host:
        return self._stack.enter_context(Host(has_ipv6=has_ipv6))

    def second_device(self) -> Host:
        return self.host(has_ipv6=self.device_has_ipv6)

    def plug(self, pc_address: str = "", device_address: str = DEVICE_ADDRESS) -> None:
        """One cable from the PC's card to the device."""
        cable(self.pc, "card", self.device, "lan")
        if pc_address:
            self.pc.ip(f"address add {pc_address} dev card")
        if device_address:
            self.device.ip(f"address add {device_address} dev lan")

    def serve(self, host: Host | None = None, *, holds_device: bool = True) -> None:
        home = Path(self._stack.enter_context(TemporaryDirectory(dir=self._folder)))
        home.chmod(0o755)
        os.chown(home, NOBODY, NOBODY)
        if holds_device:
            copied(self._samples.store, home / "store", owner=NOBODY)
        server = Server(host or self.pc, home / "store", "--log-level", "error")
        self._stack.callback(server.end)

    def power_on(self, host: Host | None = None, *, number: int = 0, link: str = "") -> Restoring:
        """link: what its layout says of it beside the default."""
        home = Path(self._stack.enter_context(TemporaryDirectory(dir=self._folder)))
        gateway = copied(self._samples.gateways[number], home / "gateway", owner=0)
        layout = (gateway / "layout.toml").read_text(encoding="utf-8")
        (gateway / "layout.toml").write_text(layout.replace("[link]\n", f"[link]\n{link}\n"), encoding="utf-8")
        restore = Restore(host or self.device, gateway)
        self._stack.callback(restore.end)
        return Restoring(restore, gateway, self._samples.original[number])


class Restoring:
    def __init__(self, restore: Restore, gateway: Path, original: dict[str, bytes]) -> None:
        self.until = restore.until
        self.said = restore.said
        self._restore = restore
        self._gateway = gateway
        self._original = original
        self.lost_bytes = sum(map(len, original.values()))

    def healed(self) -> float:
        """Wait until it boots, and see that its flash is again what it was. Seconds since power-on."""
        seconds = self._restore.wait()
        assert extracted(self._gateway.parent, self._gateway) == self._original
        return seconds


# Cells: each returns the seconds from power-on to a whole flash.


def right_subnet(cell: Cell) -> float:
    """an address of the right subnet"""
    cell.plug("192.168.1.10/24")
    return _serve_and_restore(cell)


def wrong_subnet(cell: Cell) -> float:
    """an address of another subnet, and a default route there"""
    _plug_other_subnet(cell)
    return _serve_and_restore(cell)


def _plug_other_subnet(cell: Cell) -> None:
    cell.plug("10.99.99.9/24")
    cell.pc.ip("route add default via 10.99.99.1")


def ipv4_link_local(cell: Cell) -> float:
    """only an IPv4 link-local address"""
    cell.pc.sysctl("net.ipv6.conf.all.disable_ipv6=1")
    cell.plug("169.254.7.7/16")
    return _serve_and_restore(cell)


def ipv6_link_local(cell: Cell) -> float:
    """only an IPv6 link-local address"""
    cell.plug()
    return _serve_and_restore(cell)


def no_address(cell: Cell) -> float:
    """no address at all, IPv6 disabled, the interface up"""
    cell.pc.sysctl("net.ipv6.conf.all.disable_ipv6=1")
    cell.pc.sysctl("net.ipv6.conf.default.disable_ipv6=1")
    cell.plug()
    return _serve_and_restore(cell)


def first_of_two_cards(cell: Cell) -> float:
    """two network cards, the device on the first, the default route by the second"""
    return _two_cards(cell, device_first=True)


def second_of_two_cards(cell: Cell) -> float:
    """two network cards, the device on the second, the default route by the first"""
    return _two_cards(cell, device_first=False)


def cable_without_address_beside_wifi(cell: Cell) -> float:
    """two network cards, the device on one that has no IPv4 address, the default route by the other"""
    return _two_cards(cell, device_first=True, address="")


def strict_firewall_beside_wifi(cell: Cell) -> float:
    """the same, and the strict firewall"""
    cell.pc.firewall(STRICT)
    return cable_without_address_beside_wifi(cell)


def _two_cards(cell: Cell, *, device_first: bool, address: str = "169.254.7.7/16") -> float:
    home = cell.host()
    plugs: list[Callable[[], None]] = [lambda: cell.plug(address), lambda: cable(cell.pc, "wifi", home, "ap")]
    for plug in plugs if device_first else reversed(plugs):
        plug()
    _give_wifi_the_default_route(cell, home)
    return _serve_and_restore(cell)


def _give_wifi_the_default_route(cell: Cell, home: Host) -> None:
    home.ip("address add 10.0.0.1/24 dev ap")
    cell.pc.ip("address add 10.0.0.5/24 dev wifi")
    cell.pc.ip("route add default via 10.0.0.1")


def behind_a_bridge(cell: Cell) -> float:
    """a bridge between (Wi-Fi-like second hop), address of another subnet"""
    access_point = cell.host()
    cable(cell.pc, "card", access_point, "one")
    cable(cell.device, "lan", access_point, "two")
    switch(access_point, "one", "two")
    cell.pc.ip("address add 10.99.99.9/24 dev card")
    cell.device.ip(f"address add {DEVICE_ADDRESS} dev lan")
    return _serve_and_restore(cell)


def strict_firewall(cell: Cell) -> float:
    """firewall: only answers to flows the PC opened (`ct state established,related`); right subnet"""
    cell.pc.firewall(STRICT)
    cell.plug("192.168.1.10/24")
    return _serve_and_restore(cell)


def strict_firewall_wrong_subnet(cell: Cell) -> float:
    """the same firewall, an address of another subnet"""
    cell.pc.firewall(STRICT)
    _plug_other_subnet(cell)
    return _serve_and_restore(cell)


def firewall_like_windows(cell: Cell) -> float:
    """firewall: unicast answers to a broadcast or multicast for 4 s; another subnet"""
    cell.pc.firewall(LIKE_WINDOWS)
    _plug_other_subnet(cell)
    return _serve_and_restore(cell)


def two_servers(cell: Cell) -> float:
    """two servers, only one of which holds the device"""
    other, middle = cell.host(), cell.host()
    for host, port in ((cell.pc, "one"), (other, "two"), (cell.device, "three")):
        cable(host, "lan", middle, port)
    switch(middle, "one", "two", "three")
    cell.pc.ip("address add 10.99.99.9/24 dev lan")
    other.ip("address add 192.168.1.20/24 dev lan")
    cell.device.ip(f"address add {DEVICE_ADDRESS} dev lan")
    cell.serve(other, holds_device=False)
    return _serve_and_restore(cell)


def two_devices_of_one_address(cell: Cell) -> float:
    """two devices at once, both with the default address 192.168.1.1"""
    return _two_devices(cell, DEVICE_ADDRESS)


def two_devices_without_address(cell: Cell) -> float:
    """two devices at once, both without an IPv4 address"""
    return _two_devices(cell, "")


def _two_devices(cell: Cell, address: str) -> float:
    middle, other = cell.host(), cell.second_device()
    for host, port in ((cell.pc, "one"), (other, "two"), (cell.device, "three")):
        cable(host, "lan", middle, port)
    switch(middle, "one", "two", "three")
    cell.pc.ip("address add 192.168.1.10/24 dev lan")
    for device in (cell.device, other) if address else ():
        device.ip(f"address add {address} dev lan")
    cell.serve()
    restores = cell.power_on(), cell.power_on(other, number=1)
    return max(restore.healed() for restore in restores)


def device_without_address(cell: Cell) -> float:
    """a device without an IPv4 address"""
    cell.plug("10.99.99.9/24", device_address="")
    return _serve_and_restore(cell)


def device_learns_an_address(cell: Cell) -> float:
    """a device that has no address and learns one from the server"""
    cell.plug("10.99.99.9/24", device_address="")
    return _serve_and_restore_with_a_borrowed_address(cell)


def device_learns_an_address_that_is_free(cell: Cell) -> float:
    """the same, where another host has the first that it picks"""
    middle, other = cell.host(), cell.host()
    for host, port in ((cell.pc, "one"), (other, "two"), (cell.device, "three")):
        cable(host, "lan", middle, port)
    switch(middle, "one", "two", "three")
    cell.pc.ip("address add 10.99.99.9/24 dev lan")
    other.ip(f"address add {_picked(cell, 0)}/24 dev lan")
    return _serve_and_restore_with_a_borrowed_address(cell, picks=1)


def strict_firewall_device_learns_an_address(cell: Cell) -> float:
    """a device that learns its address, and the strict firewall (answers to flows the PC opened)"""
    cell.pc.firewall(STRICT)
    return device_learns_an_address(cell)


def firewall_like_windows_device_learns_an_address(cell: Cell) -> float:
    """a device that learns its address, and the firewall of unicast answers for 4 s"""
    cell.pc.firewall(LIKE_WINDOWS)
    return device_learns_an_address(cell)


def device_has_no_address_to_learn(cell: Cell) -> float:
    """a device that would learn its address, and two network cards, the device on one that has no IPv4 address"""
    home = cell.host()
    cell.plug(device_address="")
    cable(cell.pc, "wifi", home, "ap")
    _give_wifi_the_default_route(cell, home)
    cell.serve()
    restoring = cell.power_on(link=BORROW)
    seconds = restoring.healed()
    events = [event["event"] for event in restoring.said]
    assert "AddressBorrowed" not in events, "the address that the Announce is lent tells of another network"
    assert cell.device_has_ipv6 or "NoAddressBorrowed" in events
    return seconds


def _picked(cell: Cell, number: int) -> str:
    (lan,) = json.loads(cell.device.run("ip", "-json", "link", "show", "lan"))
    return str(candidate(IPv4Interface("10.99.99.9/24"), bytes.fromhex(lan["address"].replace(":", "")), number))


def _serve_and_restore_with_a_borrowed_address(cell: Cell, *, picks: int = 0) -> float:
    """Without IPv6, by which the server may be found before, no byte of the restore is broadcast to the device."""
    cell.device.firewall(COUNTERS)
    cell.serve()
    restoring = cell.power_on(link=BORROW)
    seconds = restoring.healed()
    assert not json.loads(cell.device.run("ip", "-json", "-4", "address", "show", "lan")), "it is given back"
    if not cell.device_has_ipv6:
        picked = _picked(cell, picks)
        assert [e["address"] for e in restoring.said if e["event"] == "AddressBorrowed"] == [picked]
        counted = _counted(cell.device)
        assert counted[picked] > restoring.lost_bytes > 500 * counted["255.255.255.255"], counted
    return seconds


def _counted(host: Host) -> dict[str, int]:
    """Bytes by the address they went to."""
    listed = json.loads(host.run("nft", "--json", "list", "set", "ip", "traffic", "heard"))["nftables"]
    (heard,) = [entry["set"] for entry in listed if "set" in entry]
    return {entry["elem"]["val"]: entry["elem"]["counter"]["bytes"] for entry in heard["elem"]}


def nobody_has_an_address(cell: Cell) -> float:
    """neither PC nor device has an IPv4 address"""
    cell.plug(device_address="")
    return _serve_and_restore(cell)


def filtered_reverse_path(cell: Cell) -> float:
    """another subnet with a default route, and the reverse path filter of systemd (rp_filter 2)"""
    _plug_other_subnet(cell)
    _filter_reverse_path(cell)
    return _serve_and_restore(cell)


def filtered_reverse_path_and_no_route(cell: Cell) -> float:
    """IPv4 link-local, no default route, rp_filter 2; a device without an IPv4 address"""
    cell.plug("169.254.7.7/16", device_address="")
    _filter_reverse_path(cell)
    return _serve_and_restore(cell)


def _filter_reverse_path(cell: Cell) -> None:
    for which in ("all", "card"):
        cell.pc.sysctl(f"net.ipv4.conf.{which}.rp_filter=2")


def comes_and_goes(cell: Cell) -> float:
    """the cable is plugged in, pulled and plugged in again, with another address, while the server runs"""
    cell.serve()
    cell.plug("10.99.99.9/24")
    cell.pc.ip("link delete card")
    cell.plug("10.77.77.7/24")
    cell.pc.ip("link set card down")
    restoring = cell.power_on()
    restoring.until("LightChanged")
    cell.pc.ip("link set card up")
    cell.pc.ip("address add 10.66.66.6/24 dev card")
    cell.pc.ip("address delete 10.77.77.7/24 dev card")
    return restoring.healed()


def _serve_and_restore(cell: Cell) -> float:
    cell.serve()
    return cell.power_on().healed()


CELLS = (
    right_subnet,
    wrong_subnet,
    ipv4_link_local,
    ipv6_link_local,
    no_address,
    first_of_two_cards,
    second_of_two_cards,
    cable_without_address_beside_wifi,
    strict_firewall_beside_wifi,
    behind_a_bridge,
    strict_firewall,
    strict_firewall_wrong_subnet,
    firewall_like_windows,
    two_servers,
    two_devices_of_one_address,
    two_devices_without_address,
    device_without_address,
    device_learns_an_address,
    device_learns_an_address_that_is_free,
    strict_firewall_device_learns_an_address,
    firewall_like_windows_device_learns_an_address,
    device_has_no_address_to_learn,
    nobody_has_an_address,
    filtered_reverse_path,
    filtered_reverse_path_and_no_route,
    comes_and_goes,
)
DEVICES = {"ipv4_only": False, "ipv6_too": True}


@pytest.fixture(scope="module")
def measured() -> Iterator[dict[tuple[str, str], float]]:
    """Seconds by cell and device; written into the page that the environment names, if it names one."""
    seconds: dict[tuple[str, str], float] = {}
    yield seconds
    page = os.environ.get(TABLE_VARIABLE)
    if page:
        before, _, after = Path(page).read_text(encoding="utf-8").split(TABLE_MARK)
        Path(page).write_text(before + TABLE_MARK + _table(seconds) + TABLE_MARK + after, encoding="utf-8")


def _table(seconds: dict[tuple[str, str], float]) -> str:
    lines = ["| the PC's network | IPv4-only device | IPv6 too |", "| --- | --- | --- |"]
    for cell in CELLS:
        times = (seconds.get((cell.__name__, device)) for device in DEVICES)
        lines.append(f"| {cell.__doc__} | " + " | ".join(f"{t:.1f} s" if t else "no" for t in times) + " |")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("network", CELLS, ids=lambda cell: cell.__name__)
def test_restore_on_a_network_that_nobody_configured_is_whole(
    network: Callable[[Cell], float],
    device: str,
    samples: Samples,
    folder: Path,
    measured: dict[tuple[str, str], float],
) -> None:
    with ExitStack() as stack:
        cell = Cell(samples, folder, stack, device_has_ipv6=DEVICES[device])
        measured[network.__name__, device] = network(cell)
