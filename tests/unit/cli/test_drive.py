# SPDX-License-Identifier: Apache-2.0
"""The loop around a bootloader: it waits for the network only where there is something to wait for."""

from __future__ import annotations

import time
from collections.abc import Sequence

from unbrickd.cli.drive import run_bootloader
from unbrickd.model.peer import Datagram, Peer, Transport
from unbrickd.model.policy import BootPolicy
from unbrickd.recovery.bootloader import Bootloader
from unbrickd.recovery.events import Event, Restored
from unbrickd.sim.household import Household, backed_up
from unbrickd.wire import messages as m
from unbrickd.wire.framing import ETHERNET_MESSAGE_BYTES, Octets
from unbrickd.wire.packet import decode

SERVER = Peer(transport=Transport.UDP, host="192.0.2.1", port=1)
DEVICE = Peer(transport=Transport.UDP, host="192.0.2.2", port=2)


class Cable:
    """Leads straight into a server."""

    def __init__(self, home: Household) -> None:
        assert home.pc.server is not None
        self._server = home.pc.server
        self.targets: tuple[Peer, ...] = (SERVER,)
        self.max_message_bytes = ETHERNET_MESSAGE_BYTES
        self.sent_bytes = self.received_bytes = 0
        self.sent: list[int] = []
        self.bootloader: Bootloader | None = None

    def send(self, messages: Sequence[Datagram]) -> None:
        for _, octets in messages:
            self.sent.append(decode(octets).message.TYPE)
            self._server.receive(DEVICE, octets, time.monotonic())

    def receive(self, timeout_s: float) -> list[tuple[Peer, Octets]]:
        assert self.bootloader is not None and self.bootloader.booting is None, "waits though it may boot"
        received: list[tuple[Peer, Octets]] = []
        while (batch := self._server.next_batch()) is not None:
            received += [(SERVER, octets) for octets in batch.messages()]
        return received

    def close(self) -> None: ...


def power_on(home: Household, cable: Cable) -> Bootloader:
    cable.bootloader = Bootloader(
        home.router.flash,
        button=False,
        policy=BootPolicy(),
        targets=cable.targets,
        entropy=bytes,
        now_s=0.0,
        max_message_bytes=cable.max_message_bytes,
    )
    return cable.bootloader


def test_run_bootloader_boots_as_soon_as_it_may() -> None:
    home = backed_up()
    home.router.damage("firmware", 1, 2)
    cable, happened = Cable(home), list[Event]()
    booting = run_bootloader(power_on(home, cable), cable, on_event=happened.append, stop=lambda: False)
    assert booting is not None and booting.generation == 1
    assert [type(event) for event in happened].count(Restored) == 1 and happened[-1] is booting
    assert cable.sent[-1] == m.Type.DATA_END_ACK, "the server hears that all came"
    home.assert_whole()


def test_run_bootloader_that_is_told_to_stop_stops() -> None:
    home = backed_up()
    home.router.damage("firmware", 1)
    cable = Cable(home)
    asked = iter([False, True])
    assert run_bootloader(power_on(home, cable), cable, on_event=lambda _: None, stop=lambda: next(asked)) is None
    assert cable.sent[0] == m.Type.PROBE and m.Type.DATA_END_ACK not in cable.sent
