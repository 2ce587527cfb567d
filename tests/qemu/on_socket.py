# SPDX-License-Identifier: Apache-2.0
"""A participant of the simulated world, such as `sim.liar.Liar`, on a real UDP socket and in real time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from unbrickd.model.peer import Peer, Transport
from unbrickd.sim.world import Endpoint

TICK_S = 0.05
"""How late its timers, and the end, may be noticed."""


@contextmanager
def on_socket(endpoint: Endpoint, address: str) -> Iterator[None]:
    """It listens there, in a thread of its own, until the `with` is left. Raises what it raised."""
    host, _, port = address.rpartition(":")
    stop = threading.Event()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire, ThreadPoolExecutor(1) as thread:
        wire.bind((host, int(port)))
        wire.settimeout(TICK_S)
        talk = thread.submit(_talk, endpoint, wire, stop)
        try:
            yield
        finally:
            stop.set()
            talk.result()


def _talk(endpoint: Endpoint, wire: socket.socket, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            octets, (host, port) = wire.recvfrom(1 << 16)
        except TimeoutError:
            pass
        else:
            endpoint.receive(Peer(transport=Transport.UDP, host=host, port=port), octets, time.monotonic())
        for peer, said in endpoint.outgoing(time.monotonic()):
            wire.sendto(said, (peer.host, peer.port))
