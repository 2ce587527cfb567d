# SPDX-License-Identifier: Apache-2.0
"""What the kernel really does: the route that a borrowed address brings, and the address an Announce leaves from."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from lan_in_namespaces import NOBODY, UNPRIVILEGED, Host, Server, cable, run, why_not

REASON = why_not()
pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.skipif(bool(REASON), reason=REASON)]

CHANGE = """
import socket, sys
from ipaddress import IPv4Address
from unbrickd.adapters.net.addresses import add_address, remove_address

change = {"add": add_address, "remove": remove_address}[sys.argv[1]]
change(socket.if_nametoindex("lan"), IPv4Address("10.99.99.31"), IPv4Address("10.99.99.9"))
"""
HEAR = """
import json, socket
from unbrickd.wire.framing import DEVICE_PORT
from unbrickd.wire.packet import decode

sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", DEVICE_PORT))
sock.settimeout(10.0)
octets, (host, _) = sock.recvfrom(2000)
print(json.dumps([host, decode(octets).message.prefix_bits]))
"""


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """A PC with its card, and a device on it; the second card of the PC is `wifi`."""
    with ExitStack() as stack:
        pc, device, home = (stack.enter_context(Host(has_ipv6=False)) for _ in range(3))
        cable(pc, "card", device, "lan")
        cable(pc, "wifi", home, "ap")
        yield pc, device


def routes(host: Host) -> list[tuple[str, str]]:
    return [(route["dst"], route["dev"]) for route in json.loads(host.run("ip", "-json", "-4", "route", "show"))]


def addresses(host: Host) -> list[str]:
    (lan,) = json.loads(host.run("ip", "-json", "address", "show", "lan"))
    return [f"{info['local']}/{info['prefixlen']}" for info in lan["addr_info"]]


def test_borrowed_address_brings_a_route_to_the_server_alone_and_is_taken_back(hosts: tuple[Host, Host]) -> None:
    _, device = hosts
    device.ip("address add 172.16.0.1/24 dev lan")
    before = addresses(device), routes(device)
    device.run(sys.executable, "-c", CHANGE, "add")
    assert addresses(device) == ["172.16.0.1/24", "10.99.99.31/32"]
    assert sorted(set(routes(device)) - set(before[1])) == [("10.99.99.9", "lan")]
    device.run(sys.executable, "-c", CHANGE, "remove")
    assert (addresses(device), routes(device)) == before


def test_borrowed_address_without_the_privilege_is_refused(hosts: tuple[Host, Host]) -> None:
    _, device = hosts
    refused = run(*device.inside(*UNPRIVILEGED, sys.executable, "-c", CHANGE, "add"))
    assert "PermissionError" in refused.stderr and not addresses(device)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (["10.99.99.9/24"], ["10.99.99.9", 24]),
        (["10.99.99.9/26", "192.168.7.7/16", "10.99.99.10/26"], ["10.99.99.9", 26]),
        ([], ["10.0.0.5", 0]),
    ],
    ids=["one address", "several", "none, lent that of the other card"],
)
def test_announce_tells_the_network_of_the_address_it_comes_from(
    hosts: tuple[Host, Host], card: list[str], expected: list[object]
) -> None:
    pc, device = hosts
    pc.ip("address add 10.0.0.5/24 dev wifi")
    for address in card:
        pc.ip(f"address add {address} dev card")
    with TemporaryDirectory() as name:
        home = Path(name)
        home.chmod(0o755)
        os.chown(home, NOBODY, NOBODY)
        server = Server(pc, home / "store", "--log-level", "error")
        try:
            assert json.loads(device.run(sys.executable, "-c", HEAR)) == expected
        finally:
            server.end()
