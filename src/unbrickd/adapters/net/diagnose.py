# SPDX-License-Identifier: Apache-2.0
"""Looks for what stands between a device and the server of this computer, with no privilege and no second computer.

A host hears its own broadcasts, and they pass its firewall as if they came in by the card; so a Probe that the server
does not answer by one card, but does answer on the loopback, was dropped on its way in. Firewalls themselves can be
read only by root. What a platform does not tell is said to be unknown. Knows no store and prints nothing.
"""

from __future__ import annotations

import os
import secrets
import select
import shutil
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from unbrickd.adapters.net import packet_info
from unbrickd.adapters.net.binding import bound_socket
from unbrickd.errors import ConfigError, RemoteProtocolError
from unbrickd.model.manifest import DEVICE_ID_BYTES
from unbrickd.wire import messages as m
from unbrickd.wire.framing import DEVICE_PORT, MAX_MESSAGE_BYTES
from unbrickd.wire.packet import decode, encode

PATIENCE_S = 0.3
"""For an answer of this very computer."""
TRIES = 2
LINK_PATIENCE_S = 3.0
"""For a card that was just switched on or plugged in: the two ends agree on a speed first."""
USUAL_DEVICE = "192.168.1.1"
"""The address that most routers come with."""
_RUNS, _RUNS_NOT = "server", "server-not-running"
_ANY = ("0.0.0.0", "::")
_IFF_UP, _IFF_BROADCAST, _IFF_LOOPBACK, _IFF_RUNNING = 0x1, 0x2, 0x8, 0x40
_SIOCGIFFLAGS, _SIOCGIFADDR = 0x8913, 0x8915
_IFREQ = struct.Struct("=16sH22x")
"""struct ifreq: name, and the flags of SIOCGIFFLAGS (netdevice(7))."""


class Level(Enum):
    OK = "ok"
    NOTE = "note"
    FAULT = "fault"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """code: short and stable, for scripts; mend: the command or the act that helps, "" if nothing is to be done."""

    level: Level
    code: str
    text: str
    mend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A network card that can broadcast. address: its first of IPv4, or ""."""

    index: int
    name: str
    is_up: bool
    has_link: bool
    address: str


def diagnose_network(udp_addresses: Sequence[tuple[str, int]]) -> list[Finding]:
    """What is found with a server that listens, or shall listen, at these addresses."""
    known = _settled_cards()
    findings = _links(known)
    live = [card for card in known or [] if card.has_link]
    addresses = [address for address in udp_addresses if ":" not in address[0]]
    if not addresses:
        return [*findings, Finding(level=Level.NOTE, code="no-udp", text="the server is not to use UDP over IPv4")]
    port = addresses[0][1]
    server_id = _server_at(port, [host for host, _ in addresses])
    server = _server(server_id, addresses)
    findings.append(server)
    is_ours = server.code in (_RUNS, _RUNS_NOT)
    narrow = _wrong_card(live, addresses, port) if is_ours else []
    findings += narrow
    for card in live:
        findings += _way_out(card)
        findings += _reverse_path(card)
        if is_ours and not narrow:
            findings.append(_way_in(card, live, port, server_id))
    if known is None:
        findings.append(_unknown_firewall(port))
    return findings


# Cards and links


def cards() -> list[Card] | None:
    """This computer's cards; None if the platform does not tell."""
    if sys.platform != "linux":
        return None
    found = []
    for index, name in socket.if_nameindex():
        flags = _flags(name)
        if flags & _IFF_BROADCAST and not flags & _IFF_LOOPBACK:
            up = bool(flags & _IFF_UP)
            has_link = up and bool(flags & _IFF_RUNNING)
            found.append(Card(index=index, name=name, is_up=up, has_link=has_link, address=_address(name)))
    return found


def _settled_cards() -> list[Card] | None:
    until_s = time.monotonic() + LINK_PATIENCE_S
    while True:
        known = cards()
        if known is None or time.monotonic() >= until_s:
            return known
        if any(card.has_link for card in known) or not any(card.is_up for card in known):
            return known
        time.sleep(0.1)


def _asked(name: str, question: int) -> bytes:
    import fcntl

    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        return fcntl.ioctl(sock, question, _IFREQ.pack(name.encode(), 0))


def _flags(name: str) -> int:
    try:
        return int(_IFREQ.unpack(_asked(name, _SIOCGIFFLAGS))[1])
    except OSError:
        return 0  # it went away


def _address(name: str) -> str:
    try:
        return socket.inet_ntoa(_asked(name, _SIOCGIFADDR)[20:24])
    except OSError:
        return ""


def _links(known: list[Card] | None) -> list[Finding]:
    if known is None:
        text = "whether a cable is plugged in cannot be seen on this system"
        return [Finding(level=Level.NOTE, code="link", text=text, mend="look at the light beside the socket")]
    live = [card for card in known if card.has_link]
    if live:
        where = ", ".join(f"{card.name} ({card.address or 'no IPv4 address; none is needed'})" for card in live)
        return [Finding(level=Level.OK, code="link", text=f"there is a link on {where}")]
    unplugged = [card for card in known if card.is_up]
    if unplugged:
        text = f"no link on {', '.join(card.name for card in unplugged)}"
        mend = "plug the cable into this computer and into a LAN socket of the router, and switch the router on"
    elif known:
        text, mend = f"{known[0].name} is switched off", f"sudo ip link set {known[0].name} up"
    else:
        text, mend = "this computer has no network card", "plug in a network adapter"
    return [Finding(level=Level.FAULT, code="no-link", text=text, mend=mend)]


# The server and its port


def _server_at(port: int, hosts: Sequence[str]) -> bytes | None:
    """The id of the server that runs here; None if none answers on the loopback, or at its own address."""
    for host in ("127.0.0.1", *(h for h in hosts if h not in _ANY)):
        answer = _probe(host, port, interface=0)
        if answer is not None:
            return answer
    return next(
        (a for _, _, host in _holders(port) if host not in _ANY and (a := _probe(host, port, interface=0))), None
    )


def _probe(host: str, port: int, *, interface: int, expected: bytes | None = None) -> bytes | None:
    """The id of the server that answers; with `expected`, only if it is that one."""
    nonce = secrets.token_bytes(m.NONCE_BYTES)
    probe = encode(m.Probe(device_id=bytes(DEVICE_ID_BYTES), nonce=nonce, purpose=m.Purpose.RESTORE))
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setblocking(False)
        for _ in range(TRIES):
            with suppress(OSError):
                way = packet_info.way_to(sock.family, host, port, interface=interface)
                packet_info.send(sock, probe, way)
            for octets in _within(sock, PATIENCE_S):
                try:
                    answer = decode(octets).message
                except RemoteProtocolError:
                    continue
                if isinstance(answer, m.ProbeAck) and answer.nonce == nonce and expected in (None, answer.server_id):
                    return answer.server_id
    return None


def _within(sock: socket.socket, patience_s: float) -> Iterator[bytes]:
    until_s = time.monotonic() + patience_s
    while (left_s := until_s - time.monotonic()) > 0:
        if select.select([sock], [], [], left_s)[0]:
            with suppress(OSError):
                yield sock.recv(MAX_MESSAGE_BYTES)


def _server(server_id: bytes | None, addresses: Sequence[tuple[str, int]]) -> Finding:
    port = addresses[0][1]
    if server_id is not None:
        return Finding(level=Level.OK, code=_RUNS, text=f"the server is running, on UDP port {port}")
    try:
        for address in addresses:
            bound_socket(socket.SOCK_DGRAM, address).close()
    except ConfigError as error:
        if error.code != "port-in-use":
            return Finding(level=Level.FAULT, code=error.code, text=str(error), mend=error.hint)
        names = [f"{name} (pid {pid})" for pid, name, _ in _holders(port) if pid]
        who = " and ".join(names) or "a program that only root may see"
        kill = next((f"kill {pid}" for pid, _, _ in _holders(port) if pid), "")
        return Finding(
            level=Level.FAULT,
            code="port-in-use",
            text=f"UDP port {port} is in use by {who}, which is no unbrickd server",
            mend=kill or f"sudo ss -ulpn 'sport = :{port}'  # shows which program to stop",
        )
    return Finding(level=Level.FAULT, code=_RUNS_NOT, text="the server is not running", mend="unbrickd serve")


def _holders(port: int) -> list[tuple[int, str, str]]:
    """(pid, name, address) of who holds the port, over IPv4; pid 0 where it may not be known (proc(5))."""
    found: list[tuple[int, str, str]] = []
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/net/udp").read_text(encoding="ascii").splitlines()[1:]:
            words = line.split()
            address, _, held = words[1].partition(":")
            if int(held, 16) == port:
                host = socket.inet_ntoa(int(address, 16).to_bytes(4, sys.byteorder))
                found.append((*_owner(f"socket:[{words[9]}]"), host))
    return found


def _owner(link: str) -> tuple[int, str]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(str(fd.readlink()) == link for fd in (process / "fd").iterdir()):
                return int(process.name), (process / "comm").read_text(encoding="utf-8").strip()
    return 0, ""


def _wrong_card(live: Sequence[Card], addresses: Sequence[tuple[str, int]], port: int) -> list[Finding]:
    """A server that listens at one address hears no broadcast, and nothing on other cards."""
    listens = [host for _, _, host in _holders(port)] or [host for host, _ in addresses]
    if any(host in _ANY for host in listens):
        return []
    deaf = ", ".join(card.name for card in live if card.address not in listens) or "every card, to broadcasts"
    text = f"the server listens only at {', '.join(listens)}, and is deaf on {deaf}"
    mend = "start `unbrickd serve` without --udp, and take `udp` out of its settings"
    return [Finding(level=Level.FAULT, code="wrong-card", text=text, mend=mend)]


# The ways in and out


def _way_out(card: Card) -> list[Finding]:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        try:
            packet_info.send(
                sock, b"", packet_info.way_to(sock.family, packet_info.BROADCAST, DEVICE_PORT, interface=card.index)
            )
        except PermissionError:
            text = f"a firewall here keeps the server from answering by {card.name}"
            mend = f"allow outgoing UDP to port {DEVICE_PORT}; `sudo nft list ruleset` shows the rule to delete"
        except OSError as error:
            text, mend = f"nothing can be sent by {card.name}: {error.strerror}", f"sudo ip link set {card.name} up"
        else:
            return []
    return [Finding(level=Level.FAULT, code="no-answer-path", text=text, mend=mend)]


def _reverse_path(card: Card) -> list[Finding]:
    """Linux may drop what comes from an address to which no route leads (rp_filter, ip-sysctl.rst)."""
    level = max(_number(f"/proc/sys/net/ipv4/conf/{name}/rp_filter") for name in ("all", card.name))
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        try:
            sock.connect((USUAL_DEVICE, DEVICE_PORT))
            is_taken = level != 1 or sock.getsockname()[0] == card.address
        except OSError:
            is_taken = level == 0
    if is_taken:
        return []
    return [
        Finding(
            level=Level.FAULT,
            code="reverse-path",
            text=f"{card.name} drops what comes from {USUAL_DEVICE}, for no route by this card leads there (rp_filter)",
            mend=f"sudo sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.{card.name}.rp_filter=0",
        )
    ]


def _number(path: str) -> int:
    try:
        return int(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _way_in(card: Card, live: Sequence[Card], port: int, server_id: bytes | None) -> Finding:
    if server_id is not None and not card.address and any(other.address for other in live):
        # Linux sends our Probe from another card's address, and the server's answer leaves by the cable of this one.
        text = f"whether a firewall drops what devices send by {card.name} cannot be seen while it has no address"
        return Finding(level=Level.NOTE, code="firewall", text=text)
    hears = _hears_itself(card, port) if server_id is None else _is_answered(card, port, server_id)
    if hears:
        return Finding(level=Level.OK, code="way-in", text=f"what devices send by {card.name} comes in")
    return Finding(
        level=Level.FAULT,
        code="firewall",
        text=f"a firewall on this computer drops what devices send by {card.name}; if this card has an address, a "
        "damaged one is healed all the same, some seconds later",
        mend=_allow(port),
    )


def _is_answered(card: Card, port: int, server_id: bytes) -> bool:
    return _probe(packet_info.BROADCAST, port, interface=card.index, expected=server_id) is not None


def _hears_itself(card: Card, port: int) -> bool:
    token = secrets.token_bytes(16)
    with (
        closing(bound_socket(socket.SOCK_DGRAM, ("0.0.0.0", port))) as ear,
        closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as mouth,
    ):
        mouth.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for _ in range(TRIES):
            with suppress(OSError):
                packet_info.send(
                    mouth, token, packet_info.way_to(mouth.family, packet_info.BROADCAST, port, interface=card.index)
                )
            if token in _within(ear, PATIENCE_S):
                return True
    return False


def _allow(port: int) -> str:
    """The command that lets the port in, of the firewall that this system has."""
    if sys.platform == "win32":
        return (
            "netsh advfirewall firewall add rule name=unbrickd dir=in action=allow protocol=UDP "
            f"localport={port}   (in a terminal of the administrator)"
        )
    if sys.platform == "darwin":
        return f"sudo /usr/libexec/ApplicationFirewall/socketfilterfw --unblockapp {sys.executable}"
    if shutil.which("ufw", path=_ADMIN_PATH):
        return f"sudo ufw allow {port}/udp"
    if shutil.which("firewall-cmd", path=_ADMIN_PATH):
        return f"sudo firewall-cmd --add-port={port}/udp"
    if shutil.which("nft", path=_ADMIN_PATH):
        return (
            f"sudo nft insert rule FAMILY TABLE CHAIN udp dport {port} accept   (`sudo nft list ruleset` shows which)"
        )
    return f"sudo iptables -I INPUT -p udp --dport {port} -j ACCEPT"


_ADMIN_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


def _unknown_firewall(port: int) -> Finding:
    text = "whether this system's firewall lets devices in cannot be seen from here; if none is heard, allow them"
    return Finding(level=Level.NOTE, code="firewall", text=text, mend=_allow(port))
