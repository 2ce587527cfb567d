# SPDX-License-Identifier: Apache-2.0
"""The link needs no set-up: a server whose host has an address of another network is found, and answers.

Two network namespaces joined by one cable, made and left behind by this process alone; only on Linux, as root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE_S = 20.0
PYTHON = sys.executable

DEVICE = """
import socket, sys
from unbrickd.wire import messages as m
from unbrickd.wire.framing import DEFAULT_PORT, DEVICE_PORT
from unbrickd.wire.packet import decode, encode

host, wait_for = sys.argv[1:3]
family = socket.AF_INET6 if ":" in host else socket.AF_INET
sock = socket.socket(family, socket.SOCK_DGRAM)
index = socket.if_nametoindex("cable")
if family == socket.AF_INET:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    to = (host, DEFAULT_PORT)
else:
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP,
                    socket.inet_pton(family, "ff02::7562") + index.to_bytes(4, sys.byteorder))
    to = (host, DEFAULT_PORT, 0, index)
sock.bind(("", DEVICE_PORT))
sock.settimeout(0.5)
for _ in range(30):
    if wait_for == "ProbeAck":
        probe = m.Probe(device_id=bytes(16), nonce=b"12345678", purpose=m.Purpose.RESTORE)
        sock.sendto(encode(probe), to)
    try:
        octets, peer = sock.recvfrom(2000)
    except TimeoutError:
        continue
    answer = decode(octets).message
    if type(answer).__name__ == wait_for:
        print(wait_for, peer[0].partition("%")[0], peer[1])
        break
"""


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)


def _can_make_namespaces() -> bool:
    if sys.platform != "linux" or os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        return False
    return (
        _run("unshare", "--net", "ip", "link", "add", "cable", "type", "veth", "peer", "name", "other").returncode == 0
    )


pytestmark = pytest.mark.skipif(not _can_make_namespaces(), reason="needs Linux, root and network namespaces")


class Host:
    """A network namespace, which lives as long as the process in it."""

    def __init__(self) -> None:
        self.holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 120"], stdout=subprocess.PIPE)
        assert self.holder.stdout is not None
        self.holder.stdout.readline()
        self.run("ip", "link", "set", "lo", "up")

    def inside(self, *command: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", *command]

    def run(self, *command: str) -> str:
        result = _run(*self.inside(*command))
        assert result.returncode == 0, result.stderr
        return result.stdout

    def up(self, address: str) -> None:
        self.run("ip", "address", "add", address, "dev", "cable")
        self.run("ip", "link", "set", "cable", "up")

    def end(self) -> None:
        self.holder.kill()
        self.holder.communicate()


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """(the PC with an address of another network, the gateway with its own), joined by a cable."""
    pc, gateway = Host(), Host()
    try:
        pc.run("ip", "link", "add", "cable", "type", "veth", "peer", "name", "other")
        pc.run("ip", "link", "set", "other", "netns", str(gateway.holder.pid))
        gateway.run("ip", "link", "set", "other", "name", "cable")
        pc.up("10.99.99.9/24")
        gateway.up("192.168.1.1/24")
        # Addresses of IPv6 are usable only when no duplicate was found; here there is none to wait for.
        for host in (pc, gateway):
            host.run("ip", "-6", "address", "flush", "dev", "cable")
        pc.run("ip", "address", "add", "fe80::9/64", "dev", "cable", "nodad")
        gateway.run("ip", "address", "add", "fe80::1/64", "dev", "cable", "nodad")
        gateway.run("ip", "route", "add", "default", "dev", "cable")
        yield pc, gateway
    finally:
        pc.end()
        gateway.end()


@pytest.fixture
def server(hosts: tuple[Host, Host], tmp_path: Path) -> Iterator[None]:
    environment = {**os.environ, "UNBRICKD_CONFIG": os.devnull}
    process = subprocess.Popen(
        hosts[0].inside(PYTHON, "-m", "unbrickd", "serve", "--store", str(tmp_path / "store"), "--log-level", "error"),
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready udp 0.0.0.0:21530\n"
    yield
    process.terminate()
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("to", "answers_from"), [("255.255.255.255", "10.99.99.9"), ("ff02::7562", "fe80::9")], ids=["ipv4", "ipv6"]
)
@pytest.mark.parametrize("message", ["ProbeAck", "Announce"])
def test_serve_from_an_address_of_another_network_is_found(
    hosts: tuple[Host, Host], server: None, to: str, answers_from: str, message: str
) -> None:
    found = hosts[1].run(PYTHON, "-c", DEVICE, to, message)
    assert found == f"{message} {answers_from} 21530\n"


def test_serve_hears_devices_on_an_interface_that_comes_later(hosts: tuple[Host, Host], server: None) -> None:
    pc, gateway = hosts
    gateway.run("ip", "link", "delete", "cable")
    pc.run("ip", "link", "add", "cable", "type", "veth", "peer", "name", "other")
    pc.run("ip", "link", "set", "other", "netns", str(gateway.holder.pid))
    gateway.run("ip", "link", "set", "other", "name", "cable")
    for host, address in ((pc, "fe80::9/64"), (gateway, "fe80::1/64")):
        host.run("ip", "link", "set", "cable", "up")
        host.run("ip", "-6", "address", "flush", "dev", "cable")
        host.run("ip", "address", "add", address, "dev", "cable", "nodad")
    assert gateway.run(PYTHON, "-c", DEVICE, "ff02::7562", "ProbeAck").startswith("ProbeAck fe80::9")
