# SPDX-License-Identifier: Apache-2.0
"""The links that are measured, who is measured on each, and what is to be reached there.

The goals are the project's promise; a goal that is missed is reported, never moved. Knows medians, not how they came.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from bench.contenders import (
    ATFTPD,
    BACKUP,
    BBR,
    BESIDE,
    CUBIC,
    DNSMASQ,
    RESTORE,
    RESTORE_IN_C,
    RING_UNTOLD,
    RING_UNTOLD_IN_C,
    TFTP,
    TFTP_32,
    UFTP,
    Contender,
)
from bench.links import Link
from bench.processes import Figures

Medians = dict[str, Figures]
"""By contender's name. share: goodput as a part of the link's payload limit."""
CPU_S_PER_GB = 3.0
"""Of the server, where the system segments datagrams for it (UDP_SEGMENT, udp(7)), as Linux does."""
BACKUP_SHARE = 0.95
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """measured: raises KeyError if what it compares was not measured in this run. The bounds are inclusive."""

    text: str
    measured: Callable[[Medians], float]
    at_least: float = 0.0
    at_most: float = float("inf")

    def judge(self, medians: Medians) -> tuple[float | None, bool | None]:
        """What was measured and whether that is met; None if nothing was."""
        try:
            measured = self.measured(medians)
        except KeyError:
            return None, None
        return measured, self.at_least <= measured <= self.at_most


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One link; goals: besides those that hold on every link."""

    name: str
    link: Link
    size_bytes: int = 16 * MIB
    contenders: tuple[Contender, ...]
    goals: tuple[Goal, ...]

    @property
    def all_goals(self) -> tuple[Goal, ...]:
        return (*self.goals, backup_of_restore(), server_cpu())


def _fastest(medians: Medians, contenders: tuple[Contender, ...]) -> Figures:
    return max((medians[c.name] for c in contenders or (RESTORE,)), key=lambda figures: figures["bytes_per_s"])


def share(least: float, *contenders: Contender) -> Goal:
    """Of the fastest of them; of the restore."""
    text = f"restore ≥ {least:g} of the limit"
    return Goal(text=text, measured=lambda medians: _fastest(medians, contenders)["share"], at_least=least)


def times(least: float, *peers: Contender) -> Goal:
    """Ours by that of the best of these peers."""

    def measured(medians: Medians) -> float:
        return medians[RESTORE.name]["bytes_per_s"] / max(medians[peer.name]["bytes_per_s"] for peer in peers)

    of = " and ".join(peer.name for peer in peers)
    return Goal(text=f"restore ≥ {least:g} × {of}", measured=measured, at_least=least)


def waste(most: float, *contenders: Contender) -> Goal:
    """Of the one whose share counts."""
    text = f"waste ≤ {most:.3g}"
    return Goal(text=text, measured=lambda medians: _fastest(medians, contenders)["waste"], at_most=most)


def waste_at_loss(loss: float) -> Goal:
    return waste(1.05 / (1 - loss) ** 2)


def beside_tcp() -> tuple[Goal, Goal]:
    """Each gets its part of the link."""

    def between(who: str, key: str) -> Goal:
        text = f"beside one TCP flow: {who} between 0.3 and 0.7 of the link"
        return Goal(text=text, measured=lambda m: m[BESIDE.name][key], at_least=0.3, at_most=0.7)

    return between("unbrickd", "share"), between("TCP", "flow_share")


def backup_of_restore() -> Goal:
    def measured(medians: Medians) -> float:
        return medians[BACKUP.name]["bytes_per_s"] / medians[RESTORE.name]["bytes_per_s"]

    return Goal(text=f"backup ≥ {BACKUP_SHARE:g} × restore", measured=measured, at_least=BACKUP_SHARE)


def server_cpu() -> Goal:
    def measured(medians: Medians) -> float:
        return medians[RESTORE.name]["server_cpu_s_per_gb"]

    return Goal(text=f"server ≤ {CPU_S_PER_GB:g} CPU s/GB", measured=measured, at_most=CPU_S_PER_GB)


def in_c(medians: Medians) -> Medians:
    """The same, with the device in C in the place of the one in Python, which alone was beside TCP.

    Agents are Python, so the backup stays.
    """
    ours = (RESTORE.name, RING_UNTOLD.name, BESIDE.name)
    kept = {name: figures for name, figures in medians.items() if name not in ours}
    places = ((RESTORE, RESTORE_IN_C), (RING_UNTOLD, RING_UNTOLD_IN_C))
    return kept | {python.name: medians[c.name] for python, c in places if c.name in medians}


_OURS = (RESTORE, RESTORE_IN_C, BACKUP)
_ALL = (*_OURS, TFTP, TFTP_32, CUBIC, BBR, UFTP)
_CLEAN = Link(rate_mbit=100, rtt_ms=1)


def _lossy(loss: float, least: float) -> Row:
    return Row(
        name=f"100M 5 ms {loss:.0%}",
        link=Link(rate_mbit=100, rtt_ms=5, loss=loss),
        contenders=_ALL,
        goals=(share(least), times(1, BBR), times(5, CUBIC), waste_at_loss(loss)),
    )


def _short_queue(kib: int) -> Row:
    return Row(
        name=f"100M queue {kib}K",
        link=replace(_CLEAN, queue_bytes=kib << 10),
        contenders=(*_OURS, BESIDE, TFTP_32, CUBIC, BBR),
        goals=(share(0.90), *beside_tcp(), waste(1.10)),
    )


ROWS = (
    Row(
        name="100M 1 ms",
        link=_CLEAN,
        contenders=(*_ALL, DNSMASQ, ATFTPD),
        goals=(share(0.98), times(1, CUBIC, BBR), times(10, TFTP), times(1.4, TFTP_32), waste(1.01)),
    ),
    _lossy(0.01, 0.97),
    _lossy(0.05, 0.95),
    _lossy(0.10, 0.92),
    Row(
        name="20M 30 ms 2%",
        link=Link(rate_mbit=20, rtt_ms=30, loss=0.02),
        contenders=(*_OURS, CUBIC, BBR, UFTP),
        goals=(share(0.95), times(1.1, BBR), waste_at_loss(0.02)),
    ),
    _short_queue(12),
    _short_queue(30),
    Row(
        name="1G 0.5 ms",
        link=Link(rate_mbit=1000, rtt_ms=0.5),
        size_bytes=64 * MIB,
        contenders=(*_OURS, TFTP_32, CUBIC, BBR),
        goals=(times(0.95, CUBIC, BBR), waste(1.05)),
    ),
    Row(
        name="1G ring 8",
        link=Link(rate_mbit=1000, rtt_ms=0.5, ring_frames=8, service_us=30),
        contenders=(*_OURS, RING_UNTOLD, RING_UNTOLD_IN_C, CUBIC, BBR),
        goals=(share(0.90, RESTORE, RING_UNTOLD), waste(1.02, RESTORE, RING_UNTOLD)),
    ),
    Row(
        name="loopback",
        link=Link(rate_mbit=0),
        size_bytes=64 * MIB,
        contenders=(*_OURS, CUBIC),
        goals=(times(0.5, CUBIC), waste(1.05)),
    ),
)
QUICK = ("100M 1 ms", "100M 5 ms 5%", "100M queue 12K", "loopback")
"""What `make bench-quick` measures, once."""
