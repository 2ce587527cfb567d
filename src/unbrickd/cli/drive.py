# SPDX-License-Identifier: Apache-2.0
"""Drives a bootloader or an agent over a link in real time: the loop that a device's firmware has around the cores."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from unbrickd.adapters.net.device import DeviceLink
from unbrickd.agent.agent import Agent
from unbrickd.agent.agent import Event as AgentEvent
from unbrickd.model.peer import Datagram, Peer
from unbrickd.recovery.bootloader import Bootloader
from unbrickd.recovery.events import Booting
from unbrickd.recovery.events import Event as RecoveryEvent
from unbrickd.wire.framing import Octets

TICK_S = 0.2
"""Longest wait, so that signals, buttons and requests are seen in time."""


class _Machine(Protocol):
    def outgoing(self, now_s: float) -> list[Datagram]: ...
    def receive(self, peer: Peer, octets: Octets, now_s: float) -> None: ...
    def timer(self) -> float | None: ...


def _send(machine: _Machine, link: DeviceLink) -> None:
    link.send(machine.outgoing(time.monotonic()))


def _receive(machine: _Machine, link: DeviceLink) -> None:
    """Take what comes until the next thing is due, or for a tick."""
    due_s = machine.timer()
    wait_s = TICK_S if due_s is None else min(TICK_S, max(0.0, due_s - time.monotonic()))
    received = link.receive(wait_s)
    came_s = time.monotonic()
    for peer, octets in received:
        machine.receive(peer, octets, came_s)


def run_bootloader(
    bootloader: Bootloader, link: DeviceLink, *, on_event: Callable[[RecoveryEvent], None], stop: Callable[[], bool]
) -> Booting | None:
    """Until it boots, or `stop` says so (then None)."""
    while True:
        _send(bootloader, link)
        for event in bootloader.events():
            on_event(event)
        if bootloader.booting is not None or stop():
            return bootloader.booting
        _receive(bootloader, link)


class _AgentInRealTime:
    """An agent with the clock of the day read for it."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.timer = agent.timer

    def outgoing(self, now_s: float) -> list[Datagram]:
        return self._agent.outgoing(now_s, time.time())

    def receive(self, peer: Peer, octets: Octets, now_s: float) -> None:
        self._agent.receive(peer, octets, now_s, time.time())


def run_agent(
    agent: Agent, link: DeviceLink, *, on_event: Callable[[AgentEvent], None], stop: Callable[[], bool]
) -> None:
    """Until `stop` says so; it is asked at least every tick, and may tell the agent what happened on the device."""
    machine = _AgentInRealTime(agent)
    while not stop():
        _send(machine, link)
        _receive(machine, link)
        for event in agent.events():
            on_event(event)
