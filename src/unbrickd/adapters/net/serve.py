# SPDX-License-Identifier: Apache-2.0
"""Joins the server's core to sockets and the clock: what comes goes in, what it says goes out, until told to stop.

The only place that calls the core, always from one event loop, so it needs no lock. What waits for the disk runs on
threads of its own, so that it holds up nobody else. A second process may serve every other restore, from a core of its
own (second.py).
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress

from unbrickd.adapters.net import steering
from unbrickd.adapters.net.addresses import broadcast_sources
from unbrickd.adapters.net.binding import Bound, bound_socket
from unbrickd.adapters.net.neighbours import OpenFlows, neighbours
from unbrickd.adapters.net.packet_info import interfaces
from unbrickd.adapters.net.second import First, Second
from unbrickd.adapters.net.server_tcp import TcpConnection, TcpListener
from unbrickd.adapters.net.server_udp import UdpSocket, listening_socket
from unbrickd.errors import ConfigError
from unbrickd.model.peer import Batch, Peer
from unbrickd.server.events import Event
from unbrickd.server.port import DiskWork
from unbrickd.server.server import Server
from unbrickd.wire.framing import Octets

BURST_BATCHES = 8
"""Sent before incoming messages are looked at again."""
TICK_S = 1.0
"""Announce at most once a second (spec/protocol.md §4.15); interfaces and idle connections are looked at as often."""
_ANY = ("0.0.0.0", "::")

_log = logging.getLogger(__name__)


async def serve(
    server: Server,
    *,
    udp_addresses: Sequence[tuple[str, int]],
    tcp_addresses: Sequence[tuple[str, int]] = (),
    announce: bool = True,
    second: Second | None = None,
    on_event: Callable[[Event], None],
    on_ready: Callable[[tuple[Bound, ...]], None] = lambda _: None,
    stop: asyncio.Event,
) -> None:
    """Serve until `stop` is set; then unfinished uploads are kept, so that they resume.

    on_ready: is told where the server listens, once it does. announce: from sockets that are bound to all addresses.
    second: a process in which `serve_share` waits; it is ended, too. The loop must be a selector loop (on Windows it is
    not the default). Raises ConfigError, "port-in-use" among others.
    """
    runner = _Runner(server, announce=announce, on_event=on_event, second=second)
    try:
        on_ready(await runner.open(udp_addresses, tcp_addresses))
        await stop.wait()
    finally:
        await runner.close()


async def serve_share(server: Server, first: First, sockets: Sequence[socket.socket]) -> None:
    """In the second process: serve what comes to these sockets until the first process ends. It hears what happens."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(first, ended.set)
    runner = _Runner(server, announce=False, on_event=first.tell)
    for sock in sockets:
        runner.adopt(sock)
    await ended.wait()
    await runner.close()


class _Runner:
    def __init__(
        self, server: Server, *, announce: bool, on_event: Callable[[Event], None], second: Second | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._announce = announce
        self._on_event = on_event
        self._second = second
        self._shared: list[socket.socket] = []
        """Those of ours of which the second has the like."""
        self._udp: list[UdpSocket] = []
        self._tcp: list[TcpListener] = []
        self._flows = OpenFlows()
        self._carriers: dict[int, UdpSocket | TcpConnection] = {}
        self._blocked: frozenset[int] = frozenset()
        """Channels that take no more for now."""
        self._last_channel = 0
        self._pump_is_due = False
        self._working: set[asyncio.Future[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._tick_timer: asyncio.TimerHandle | None = None

    async def open(
        self, udp_addresses: Sequence[tuple[str, int]], tcp_addresses: Sequence[tuple[str, int]]
    ) -> tuple[Bound, ...]:
        """A family that this host lacks is passed over, if it was only asked for by "all addresses"."""
        bound: list[Bound] = []
        lacking: ConfigError | None = None
        for address in udp_addresses:
            try:
                udp = self.adopt(self._bound(address))
            except ConfigError as error:
                if error.code != "address-not-here" or address[0] not in _ANY:
                    raise
                lacking = error
                continue
            bound.append(udp.bound)
        for address in tcp_addresses:
            listener = TcpListener(
                channels=self._new_channel,
                on_datagrams=self._received,
                on_writable=self._writable,
                on_gone=self._gone,
            )
            try:
                bound.append(await listener.listen(address))
            except ConfigError as error:
                if error.code != "address-not-here" or address[0] not in _ANY:
                    raise
                lacking = error
                continue
            self._tcp.append(listener)
        if lacking is not None and not bound:
            raise lacking
        if self._second is not None:
            self._share_with(self._second)
        self._tick()
        return tuple(bound)

    def _bound(self, address: tuple[str, int]) -> socket.socket:
        """Raises ConfigError as `bound_socket` does, also if only another server shares the address."""
        shared = self._second is not None
        if shared and address[1]:
            bound_socket(socket.SOCK_DGRAM, address).close()
        sock = listening_socket(address, shared=shared)
        if shared:
            self._shared.append(sock)
        return sock

    def adopt(self, sock: socket.socket) -> UdpSocket:
        """Serve what comes there, and close it in the end."""
        udp = UdpSocket(
            self._loop, sock, channels=self._new_channel, on_datagrams=self._received, on_writable=self._writable
        )
        self._udp.append(udp)
        return udp

    def _share_with(self, second: Second) -> None:
        """Without what the kernel would have to do for it, or where only TCP is served, all is served here."""
        its = []
        try:
            for ours in self._shared:
                its.append(listening_socket(ours.getsockname()[:2], shared=True))
                steering.share_out(ours, its[-1])
            if its:
                second.serve(its)
                self._loop.add_reader(second, self._hear_second)
        except (OSError, ConfigError) as error:
            _log.info("there is no second process: %s", error)
            self._serve_alone()
        finally:
            for sock in its:
                sock.close()

    def _serve_alone(self) -> None:
        for ours in self._shared:
            with suppress(OSError):
                steering.take_all(ours)

    def _hear_second(self) -> None:
        assert self._second is not None
        try:
            for event in self._second.events():
                self._server.told(event, self._loop.time())
        except (EOFError, OSError):
            _log.warning("the second process ended; going on without it")
            self._loop.remove_reader(self._second)
            self._serve_alone()
        self._tell_events()
        self._arm_timer()

    async def close(self) -> None:
        await asyncio.gather(*self._working)
        if self._second is not None:
            self._loop.remove_reader(self._second)
            for event in self._second.end():
                self._server.told(event, self._loop.time())
        self._server.close()
        self._tell_events()
        for timer in (self._timer, self._tick_timer):
            if timer is not None:
                timer.cancel()
        for udp in self._udp:
            udp.close()
        for listener in self._tcp:
            await listener.close()

    def _new_channel(self, carrier: UdpSocket | TcpConnection) -> int:
        self._last_channel += 1
        self._carriers[self._last_channel] = carrier
        return self._last_channel

    # In

    def _received(self, datagrams: list[tuple[Peer, Octets]]) -> float:
        now_s = self._loop.time()
        for peer, octets in datagrams:
            self._server.receive(peer, octets, now_s)
        self._server.handle_timer(now_s)  # what came together is answered together, and now
        self._pump()
        return self._server.gather_s

    def _gone(self, connection: TcpConnection) -> None:
        del self._carriers[connection.channel]
        if connection.peer is not None:
            self._server.peer_gone(connection.peer)
            self._tell_events()

    # Out

    def _pump(self) -> None:
        """Send what the core has, a burst at a time; then wait for its next timer."""
        for _ in range(BURST_BATCHES):
            batch = self._server.next_batch(self._blocked)
            if batch is None:
                break
            self._send(batch)
        else:
            self._pump_soon()
        while (work := self._server.next_work()) is not None:
            self._run(work)
        self._tell_events()
        self._arm_timer()

    def _run(self, work: DiskWork) -> None:
        """Then tell the core."""

        def done(running: asyncio.Future[None]) -> None:
            self._working.discard(running)
            running.result()
            self._server.work_done(work, self._loop.time())
            self._pump()

        running = self._loop.run_in_executor(None, work.run)
        self._working.add(running)
        running.add_done_callback(done)

    def _send(self, batch: Batch) -> None:
        carrier = self._carriers.get(batch.peer.channel)
        if carrier is None:
            return
        carrier.send(batch)
        if carrier.is_blocked:
            self._find_blocked()

    def _writable(self) -> None:
        self._find_blocked()
        self._pump_soon()

    def _find_blocked(self) -> None:
        self._blocked = frozenset(channel for channel, carrier in self._carriers.items() if carrier.is_blocked)

    def _pump_soon(self) -> None:
        if not self._pump_is_due:
            self._pump_is_due = True
            self._loop.call_soon(self._pump_now)

    def _pump_now(self) -> None:
        self._pump_is_due = False
        self._pump()

    def _tell_events(self) -> None:
        for event in self._server.events():
            self._on_event(event)

    # Time

    def _arm_timer(self) -> None:
        """One that is due before stays: to call the core for nothing costs less than to set it at each message."""
        due_s = self._server.timer()
        if due_s is None or (self._timer is not None and self._timer.when() <= due_s):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due_s, self._timer_is_due)

    def _timer_is_due(self) -> None:
        self._timer = None
        self._server.handle_timer(self._loop.time())
        self._pump()

    def _tick(self) -> None:
        self._tick_timer = self._loop.call_later(TICK_S, self._tick)
        here = interfaces()
        for udp in self._udp:
            udp.join(here)
        if self._announce:
            sources = broadcast_sources()
            flows = self._flows.due(neighbours(), self._loop.time())
            for udp in self._udp:
                udp.announce(self._server.announce, here, sources, flows)
        for listener in self._tcp:
            listener.close_idle()
