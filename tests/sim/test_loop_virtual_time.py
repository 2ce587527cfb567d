# SPDX-License-Identifier: Apache-2.0
"""The whole loop in virtual time: back up, break, restore, boot; the product's own parts over a lossy network.

Replay one random story: `python tests/sim/test_loop_virtual_time.py SEED…`
"""

from __future__ import annotations

import random
import sys
from contextlib import suppress

import pytest

from unbrickd.agent.agent import AgentOptions, BackupEnded, BackupStarted, ProvedGood
from unbrickd.agent.session import Ending
from unbrickd.flash.write import write_image
from unbrickd.model.policy import BackupPolicy
from unbrickd.recovery import events as r
from unbrickd.recovery.check import Reason
from unbrickd.recovery.light import Light
from unbrickd.recovery.offer import Choice
from unbrickd.server.limits import ServerLimits
from unbrickd.sim.device import Power, image
from unbrickd.sim.household import FIRMWARE_BYTES, Household, backed_up
from unbrickd.sim.nor import Phase, PowerCut
from unbrickd.sim.world import SimServer
from unbrickd.wire.messages import Probe, Type
from unbrickd.wire.packet import decode

STORIES = 120
LOSSES = (0.0, 0.0, 0.02, 0.1, 0.3)


# One thing after the other


def test_loop_damaged_firmware_and_config_are_restored_and_nothing_else_is_fetched() -> None:
    home = backed_up()
    home.router.damage("firmware", 2, 5)
    home.router.damage("config", 0)
    booting = home.boot()
    assert (booting.generation, booting.config_default, booting.went_back_from) == (1, False, 0)
    (taken,) = home.router.events(r.OfferTaken)
    assert taken.is_named
    assert taken.components == (("firmware", 2, 8, 2 * 4096), ("config", 1, 2, 4096))
    assert taken.choices == (Choice.DAMAGED, Choice.DAMAGED)
    (restored,) = home.router.events(r.Restored)
    assert restored.payload_bytes == 3 * 4096
    home.assert_whole()
    lights = [event.light for event in home.router.events(r.LightChanged)]
    assert lights[-4:] == [Light.START_SERVER, Light.RESTORING, Light.OFF, Light.BOOTED]


def test_loop_sound_flash_boots_at_once_without_a_word() -> None:
    home = backed_up()
    sent = len(home.world.sent)
    home.switch_on()
    assert home.router.power is Power.RUNNING
    assert len(home.world.sent) == sent


def test_loop_second_start_with_nothing_new_sends_only_backup_and_its_ack() -> None:
    home = backed_up()
    before = len(home.world.sent)
    home.boot()
    home.world.run_for(120.0)
    kinds = [decode(octets).message.TYPE for _, octets in home.world.sent[before:]]
    assert kinds == [Type.PROBE, Type.PROBE_ACK, Type.BACKUP, Type.BACKUP_ACK]
    ended = home.router.events(BackupEnded)[-1].outcome
    assert (ended.ending, ended.payload_bytes, ended.uploaded) == (Ending.COMMITTED, 0, ())


def test_loop_no_server_probes_for_ever_at_a_civil_rate_and_restores_once_it_is_started() -> None:
    home = backed_up()
    home.pc.kill()
    home.router.damage("firmware", 0)
    before = len(home.world.sent)
    home.switch_on()
    home.world.run_for(24 * 3600.0)
    probes = [decode(octets).message for _, octets in home.world.sent[before:]]
    assert all(isinstance(p, Probe) for p in probes)
    assert 24 * 3600 / 2.4 <= len(probes) <= 24 * 3600 / 1.6 + 4
    assert home.router.power is Power.BOOTLOADER
    assert home.router.bootloader is not None and home.router.bootloader.light is Light.START_SERVER
    home.pc.start()
    home.world.run_until(lambda: home.router.power is Power.RUNNING, limit_s=4.0)
    home.assert_whole()


def test_loop_damaged_config_without_a_server_boots_with_defaults_and_says_so() -> None:
    home = backed_up()
    home.pc.kill()
    home.router.damage("config", 1)
    before = home.router.contents("firmware"), home.router.contents("config")
    booting = home.boot(limit_s=61.0)
    assert booting.config_default
    assert (home.router.contents("firmware"), home.router.contents("config")) == before, "it is left alone"
    home.world.run_for(100.0)
    assert home.router.events(ProvedGood) == [], "with another configuration it proves nothing"
    home.router.switch_off()
    home.pc.start()
    assert not home.boot().config_default
    home.assert_whole()


@pytest.mark.parametrize("lost", [(0,), (1,), (0, 1)])
def test_loop_boot_record_lost_is_repaired_or_fetched(lost: tuple[int, ...]) -> None:
    home = backed_up()
    home.router.damage("record", *lost)
    booting = home.boot()
    assert booting.generation == 1
    home.assert_whole()
    checked = home.router.events(r.Checked)
    if lost == (0, 1):
        assert home.restored == [1]
        assert Reason.RECORD_LOST in [c.decision.reason for c in checked]
        assert home.router.events(r.Restored)[-1].payload_bytes < 2048, "only the document moves"
    else:
        assert home.restored == []
        assert checked[-1].record_repaired


def test_loop_everything_lost_comes_back() -> None:
    home = backed_up()
    home.router.damage("record", 0, 1)
    home.router.damage("firmware", *range(8))
    home.router.damage("config", 0, 1)
    assert home.boot().generation == 1
    home.assert_whole()


def test_loop_torn_upgrade_goes_back_to_what_ran_before() -> None:
    home = backed_up()
    router = home.router
    router.chip.cut_power(at=router.chip.operations + 40, phase=Phase.TORN)
    with pytest.raises(PowerCut):
        router.install_firmware(image(77, FIRMWARE_BYTES), "2.0")
    router.lose_power()
    booting = home.boot()
    assert (booting.generation, booting.firmware_version) == (1, "1.0")
    home.assert_whole()


def test_loop_upgrade_that_does_not_come_up_falls_back_after_the_set_number_of_boots_and_says_so() -> None:
    home = backed_up()
    home.boot()
    home.router.hangs.add("2.0")
    home.upgrade(image(77, FIRMWARE_BYTES), "2.0")
    home.switch_on()
    home.world.run_until(lambda: home.router.power is Power.RUNNING)
    boots = [(b.firmware_version, b.went_back_from) for b in home.router.events(r.Booting)][2:]
    assert boots == [("2.0", 0), ("2.0", 0), ("2.0", 0), ("1.0", 2)]
    taken = home.router.events(r.OfferTaken)[-1]
    assert taken.choices == (Choice.VERSION, Choice.KEEP)
    home.assert_whole()
    record = home.router.software.loaded().record
    assert (record.counter, record.rejected_from, record.rejected_to) == (2, 2, 2)
    home.router.switch_off()
    assert home.boot().went_back_from == 0, "said once"


def test_loop_config_that_keeps_the_system_from_coming_up_is_left_for_the_one_before() -> None:
    home = backed_up()
    home.boot()
    first = home.config
    home.set_config(image(9, 4000))
    home.router.hangs.add("1.0")
    for _ in range(3):
        home.router.switch_off()
        home.switch_on()
        assert home.router.power is Power.HANGING
    home.router.switch_off()
    home.switch_on()
    home.world.run_until(lambda: home.restored == [1])
    home.router.hangs.clear()
    home.world.run_until(lambda: home.router.power is Power.RUNNING)
    assert home.router.contents("config")[: len(first)] == first
    assert home.router.events(r.OfferTaken)[-1].choices == (Choice.KEEP, Choice.CONTENT)


def test_loop_fails_to_boot_and_nothing_older_is_held_boots_as_it_is() -> None:
    home = backed_up()
    home.router.hangs.add("1.0")
    home.switch_on()
    home.world.run_until(lambda: home.router.events(r.Checked)[-1].decision.reason is Reason.BOOT_FAILED)
    home.router.hangs.clear()
    home.world.run_until(lambda: home.router.power is Power.RUNNING, limit_s=61.0)
    assert home.restored == []
    assert home.router.booted is not None and home.router.booted.went_back_from == 0
    home.assert_whole()


def test_loop_held_button_restores_the_newest_good_generation() -> None:
    home = backed_up()
    home.boot()
    home.set_config(image(9, 4000))
    home.world.run_until(lambda: home.held == [2, 1])
    assert home.held_good == [1], "two is not good yet"
    home.router.switch_off()
    booting = home.boot(button=True)
    assert booting.generation == 1
    home.assert_whole()


def test_loop_held_button_with_nothing_to_do_restores_nothing_and_boots() -> None:
    home = backed_up()
    assert home.boot(button=True).generation == 1
    assert home.router.events(r.Restored)[-1].payload_bytes == 0


def test_loop_held_button_without_a_server_boots_after_the_set_time() -> None:
    home = backed_up()
    home.pc.kill()
    assert home.boot(button=True, limit_s=61.0).generation == 1


def test_loop_change_makes_a_good_generation_after_the_set_time_and_the_server_is_told() -> None:
    home = backed_up()
    home.boot()
    home.set_config(image(9, 4000))
    changed_s = home.now_s
    home.back_up()
    assert home.now_s - changed_s >= 30.0
    assert home.held_good == [2, 1]
    triggers = [e.trigger.value for e in home.router.events(BackupStarted)]
    assert triggers[-2:] == ["configuration change", "proved good"]


def test_loop_burst_of_changes_makes_one_backup() -> None:
    home = backed_up()
    home.boot()
    home.world.run_for(60.0)
    before = len(home.router.events(BackupStarted))
    for number in range(5):
        home.set_config(image(number, 4000))
        home.world.run_for(0.5)
    home.world.run_for(20.0)
    assert len(home.router.events(BackupStarted)) == before + 1
    assert home.held == [6, 1]


def test_loop_every_policy_off_sends_nothing_ever() -> None:
    off = BackupPolicy(after_start_s=None, period_s=None, after_upgrade=False, after_config_change=False)
    home = Household(options=AgentOptions(policy=off, good_after_s=30.0))
    home.boot()
    home.set_config(image(9, 4000))
    home.world.run_for(7 * 86400.0)
    assert home.world.sent == []
    assert [e.generation for e in home.router.events(ProvedGood)] == [2]
    assert home.router.memory.pending is False
    assert home.router.agent is not None
    home.router.agent.back_up_now(home.now_s)
    home.world.run_until(lambda: home.held_good == [2])


def test_loop_server_started_after_the_agent_gave_up_is_found_at_its_announcement() -> None:
    home = Household()
    home.pc.kill()
    home.boot()
    home.world.run_for(8 * 3600.0)
    assert home.router.memory.server_missing and home.router.memory.pending
    home.pc.start()
    assert home.pc.server is not None
    home.network.send("pc", "router", home.pc.server.announce(), home.now_s)
    home.world.run_until(lambda: not home.router.memory.server_missing, limit_s=10.0)
    assert home.held_good == [1] and not home.router.memory.pending


def test_loop_periodic_backup_after_downtime_is_caught_up() -> None:
    policy = BackupPolicy(after_start_s=None, period_s=3600.0, jitter=0.1)
    home = Household(options=AgentOptions(policy=policy, good_after_s=30.0))
    home.boot()
    home.world.run_until(lambda: home.held_good == [1], limit_s=100.0)
    home.router.switch_off()
    home.world.run_for(5 * 3600.0)
    before = len(home.router.events(BackupStarted))
    home.boot()
    home.world.run_for(61.0)
    assert len(home.router.events(BackupStarted)) == before + 1
    home.world.run_for(3600.0 * 1.1)
    assert len(home.router.events(BackupStarted)) == before + 2


def test_loop_server_restart_in_the_middle_of_a_restore_fetches_nothing_twice() -> None:
    home = backed_up()
    home.router.damage("firmware", *range(8))
    home.switch_on()
    home.world.run_until(lambda: len(home.router.events(r.EraseBlockRestored)) == 3)
    home.pc.kill()
    home.world.run_for(20.0)
    home.pc.start()
    home.world.run_until(lambda: home.router.power is Power.RUNNING, limit_s=30.0)
    home.assert_whole()
    fetched = [(e.component, e.index) for e in home.router.events(r.EraseBlockRestored)]
    assert len(fetched) == len(set(fetched)) == 8


def test_loop_server_restart_in_the_middle_of_a_backup_resumes_it() -> None:
    home = Household(loss=0.1)
    home.boot()
    home.world.run_until(lambda: home.is_busy and any("Progress" in type(e).__name__ for e in home.pc.log))
    home.pc.kill()
    home.pc.start()
    home.back_up()
    assert home.router.events(BackupEnded)[-1].outcome.ending is Ending.COMMITTED


def test_loop_two_servers_the_one_that_holds_the_device_restores_it() -> None:
    home = backed_up()
    for number in range(3):
        home.world.endpoints[f"stranger-{number}"] = SimServer(f"stranger-{number}")
    home.world.endpoints["pc"] = home.world.endpoints.pop("pc")
    home.router.damage("firmware", 1)
    home.boot(limit_s=10.0)
    home.assert_whole()
    assert {e.server for e in home.router.events(r.ServerFound)} == {"udp:pc:21530"}


def test_loop_two_servers_the_one_that_takes_no_new_devices_is_passed_over() -> None:
    home = Household()
    closed = SimServer("closed", limits=ServerLimits(accept_new=False))
    home.world.endpoints = {"router": home.router, "closed": closed, "pc": home.pc}
    home.boot()
    home.back_up()
    assert closed.vault.devices() == ()


def test_loop_power_cut_half_way_back_goes_on_going_back() -> None:
    home = half_way_back()
    assert home.boot().generation == 1
    assert home.router.booted is not None and home.router.booted.went_back_from == 2
    home.assert_whole()


def test_loop_generation_is_gone_half_way_back_the_recorded_one_is_mended_and_boots() -> None:
    home = half_way_back()
    home.pc.vault.delete(home.router.device_id, 1, force=True)
    booting = home.boot(limit_s=120.0)
    assert (booting.generation, booting.went_back_from) == (2, 0)
    home.assert_whole()
    assert home.held_good == [] and home.restored == [2]


def half_way_back() -> Household:
    """Switched off, with two erase blocks of generation 1 over generation 2, which failed to boot."""
    home = backed_up()
    home.boot()
    home.upgrade(image(77, FIRMWARE_BYTES), "2.0")
    home.boot()
    home.world.run_until(lambda: home.held == [2, 1])
    home.router.switch_off()
    home.router.hangs.add("2.0")
    home.switch_on()
    home.world.run_until(lambda: len(home.router.events(r.EraseBlockRestored)) == 2)
    home.router.switch_off()
    home.router.hangs.clear()
    return home


# Many stories


def random_story(seed: int) -> Household:
    """Whatever happens, in any order, the device ends up running what the record names."""
    rng = random.Random(seed)
    home = Household(seed, loss=rng.choice(LOSSES))
    home.boot()
    home.back_up()
    for chapter in range(rng.randrange(2, 7)):
        what = rng.choice(["config", "upgrade", "bad upgrade", "damage", "record", "button", "torn", "restart", "wait"])
        running = home.router.power is Power.RUNNING
        if what == "config" and running:
            home.set_config(image(seed * 100 + chapter, rng.randrange(1, 8192)))
            if rng.random() < 0.7:
                home.back_up()
        elif what == "upgrade" and running:
            home.upgrade(image(seed * 100 + chapter, rng.randrange(1, FIRMWARE_BYTES)), f"2.{chapter}")
            home.boot()
            if rng.random() < 0.7:
                home.back_up()
        elif what == "bad upgrade" and running:
            home.router.hangs.add(f"bad {chapter}")
            home.upgrade(image(seed * 100 + chapter, FIRMWARE_BYTES), f"bad {chapter}")
            home.boot()
        elif what == "restart":
            home.pc.kill()
            home.pc.start()
        elif what == "wait":
            home.world.run_for(rng.choice([1.0, 20.0, 100.0]))
        else:
            home.router.switch_off()
            if what == "torn":
                home.router.chip.cut_power(
                    at=home.router.chip.operations + rng.randrange(60), phase=rng.choice(list(Phase))
                )
                with suppress(PowerCut):
                    write_image(home.router.partition("firmware"), image(seed * 100 + chapter, FIRMWARE_BYTES))
                home.router.lose_power()
            if what == "damage":
                home.router.damage("firmware", *rng.sample(range(8), rng.randrange(1, 9)))
                home.router.damage("config", *rng.sample(range(2), rng.randrange(0, 3)))
            if what == "record":
                home.router.damage("record", *rng.sample(range(2), rng.randrange(1, 3)))
            home.boot(button=what == "button")
        home.firmware, home.config = home.made[home.recorded]
        home.assert_whole()
    return home


@pytest.mark.parametrize("seed", range(STORIES))
def test_loop_random_story_ends_running_what_the_record_names(seed: int) -> None:
    print(f"replay: python tests/sim/test_loop_virtual_time.py {seed}")
    random_story(seed)


def _replay(seed: int) -> None:
    home = random_story(seed)
    for at_s, event in home.router.log:
        if not isinstance(event, r.Checked):
            print(f"{at_s:10.3f} {event}")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        _replay(int(argument))
