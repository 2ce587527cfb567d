# SPDX-License-Identifier: Apache-2.0
"""After a power cut in a street: ten times as many devices at once as the server takes (issue 4 C)."""

from __future__ import annotations

from unbrickd.agent.agent import BackupEnded
from unbrickd.agent.session import Ending
from unbrickd.recovery.events import Restored
from unbrickd.server.limits import ServerLimits
from unbrickd.sim.device import Power, SimDevice, image
from unbrickd.sim.household import CONFIG_BYTES, FIRMWARE_BYTES
from unbrickd.sim.network import Network
from unbrickd.sim.world import SimServer, World
from unbrickd.wire.messages import DataBlock, Error, ErrorCode
from unbrickd.wire.packet import decode

SESSIONS = 4
DEVICES = 10 * SESSIONS
FIRMWARE = image(1, FIRMWARE_BYTES)


def damaged(number: int, pc: SimServer) -> SimDevice:
    router = SimDevice(f"router-{number}", seed=number)
    router.provision(FIRMWARE, image(number, CONFIG_BYTES))
    router.switch_on(0.0)
    World(Network(seed=number), router, pc).run_until(lambda: bool(pc.generations(router.device_id)))
    router.switch_off()
    router.damage("firmware", *range(router.layout.firmware_blocks))
    return router


def damaged_street(limits: ServerLimits) -> tuple[World, list[SimDevice]]:
    """Devices that were backed up one after the other, and then lost their whole firmware."""
    before = SimServer("pc")
    routers = [damaged(number, before) for number in range(DEVICES)]
    after = SimServer("pc", stores=before.stores, limits=limits)
    return World(Network(seed=1, rate_bytes_per_s=1e6), *routers, after), routers


def test_street_of_ten_times_what_the_server_takes_is_told_later_and_healed_without_waste() -> None:
    limits = ServerLimits(max_sessions=SESSIONS)
    world, routers = damaged_street(limits)
    for router in routers:
        router.switch_on(0.0)
    world.run_until(lambda: all(router.power is Power.RUNNING for router in routers), limit_s=60.0)
    assert all(router.contents("firmware")[:FIRMWARE_BYTES] == FIRMWARE for router in routers)
    said = [decode(octets).message for name, octets in world.sent if name == "pc"]
    later = [m.retry_after_s for m in said if isinstance(m, Error) and m.code == ErrorCode.BUSY]
    seconds = sorted(event_s for router in routers for event_s, event in router.log if isinstance(event, Restored))
    print(f"{len(later)} times later; median {seconds[DEVICES // 2]:.1f} s, slowest {seconds[-1]:.1f} s")
    assert DEVICES - SESSIONS <= len(later) <= 2 * DEVICES, "nobody asks again before it was told to"
    assert seconds[SESSIONS - 1] < 1.0, "those that were taken are healed at once"
    assert seconds[-1] <= 2 * (limits.retry_after_s + limits.retry_spread_s)
    assert sum(len(m.payload) for m in said if isinstance(m, DataBlock)) == DEVICES * FIRMWARE_BYTES


def test_street_that_backs_up_at_once_is_told_later_and_held_whole_within_a_minute() -> None:
    pc = SimServer("pc", limits=ServerLimits(max_backups=SESSIONS))
    routers = [SimDevice(f"router-{number}", seed=number) for number in range(DEVICES)]
    world = World(Network(seed=1, rate_bytes_per_s=1e6), *routers, pc)
    for number, router in enumerate(routers):
        router.provision(image(number, FIRMWARE_BYTES), image(-number, CONFIG_BYTES))
        router.switch_on(0.0)
    world.run_until(lambda: all(pc.generations(router.device_id) for router in routers), limit_s=60.0)
    outcomes = [event.outcome for router in routers for event in router.events(BackupEnded)]
    later = [outcome for outcome in outcomes if outcome.ending is Ending.BUSY]
    print(f"{len(later)} times later, the last after {world.now_s:.1f} s")
    assert DEVICES - SESSIONS <= len(later) <= 4 * DEVICES
    assert {outcome.ending for outcome in outcomes} == {Ending.BUSY, Ending.COMMITTED}
