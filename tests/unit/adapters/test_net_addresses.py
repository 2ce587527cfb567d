# SPDX-License-Identifier: Apache-2.0
"""Which address a broadcast leaves from, as the kernel's answers tell (adapters.net.addresses and .rtnetlink)."""

from __future__ import annotations

import struct
import sys
from ipaddress import IPv4Interface

import pytest

from unbrickd.adapters.net import rtnetlink
from unbrickd.adapters.net.addresses import broadcast_sources

IFA_ADDRESS, IFA_LOCAL, IFA_LABEL = 1, 2, 3
UNIVERSE, LINK, HOST = 0, 253, 254
SECONDARY = 1


def told(
    interface: int, own: str, *, shared: str = "", flags: int = 0x80, scope: int = UNIVERSE, family: int = 2
) -> bytes:
    """One address as the kernel tells it; `own` is address/prefix."""
    address = IPv4Interface(own)
    other = IPv4Interface(shared).packed if shared else address.packed
    return (
        struct.pack("=BBBBI", family, address.network.prefixlen, flags, scope, interface)
        + rtnetlink.attribute(IFA_ADDRESS, other)
        + rtnetlink.attribute(IFA_LABEL, b"eth0\0\0\0\0")
        + rtnetlink.attribute(IFA_LOCAL, address.packed)
    )


def sources(monkeypatch: pytest.MonkeyPatch, *bodies: bytes) -> dict[int, str]:
    monkeypatch.setattr(rtnetlink, "dump", lambda *_: iter(bodies))
    monkeypatch.setattr(sys, "platform", "linux")
    return {interface: str(address) for interface, address in broadcast_sources().items()}


def test_broadcast_sources_of_several_addresses_is_the_first_that_is_no_secondary_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = sources(
        monkeypatch,
        told(1, "127.0.0.1/8", scope=HOST),
        told(2, "10.1.1.6/24", flags=SECONDARY),
        told(2, "10.1.1.5/24"),
        told(2, "192.168.7.7/16"),
        told(3, "169.254.7.7/16", scope=LINK),
    )
    assert found == {2: "10.1.1.5/24", 3: "169.254.7.7/16"}


def test_broadcast_sources_of_a_link_to_one_host_tell_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sources(monkeypatch, told(4, "10.8.0.2/24", shared="10.8.0.1/24")) == {4: "10.8.0.2/32"}


@pytest.mark.parametrize(
    "body", [b"", b"\x02\x18\x80\x00", told(2, "10.1.1.5/24", family=10), told(2, "10.1.1.5/24")[:8]]
)
def test_broadcast_sources_of_what_tells_no_address_are_none(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    assert sources(monkeypatch, body) == {}


def test_attributes_of_cut_octets_are_those_before_the_cut() -> None:
    octets = rtnetlink.attribute(1, b"abc\0") + rtnetlink.attribute(2, b"defg")
    assert rtnetlink.attributes(octets) == {1: b"abc\0", 2: b"defg"}
    assert rtnetlink.attributes(octets[:11]) == {1: b"abc\0"}
    assert rtnetlink.attributes(struct.pack("=HH", 0, 1) + octets)[2] == b"defg", "a length of 0 does not hold it up"
