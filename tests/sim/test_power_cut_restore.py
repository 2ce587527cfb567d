# SPDX-License-Identifier: Apache-2.0
"""Power cut before, within and after every flash operation of a restore, a fall-back, a backup and an upgrade.

What must hold: the next power-on, with the PC there, ends in a running system; flash is, to the byte, the generation
that the boot record names, which is the old one or the new one; both copies of the record are whole; and the PC ends up
with that generation as a good one. Replay: `python tests/sim/test_power_cut_restore.py SCENARIO AT PHASE SEED`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from unbrickd.sim.device import Power, image
from unbrickd.sim.household import FIRMWARE_BYTES, Household, backed_up
from unbrickd.sim.nor import Phase, PowerCut

TORN_SEEDS = range(2)
MAX_OPERATIONS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """before: the household, switched off; act: what is cut; ends: generations that may be there in the end."""

    before: Callable[[], Household]
    act: Callable[[Household], None]
    ends: frozenset[int]


def all_damaged() -> Household:
    home = backed_up()
    home.router.damage("firmware", *range(8))
    home.router.damage("config", 0, 1)
    return home


def all_lost() -> Household:
    home = all_damaged()
    home.router.damage("record", 0, 1)
    return home


def does_not_come_up() -> Household:
    """Generation 2 has other firmware and another configuration, and failed to boot as often as it may."""
    home = backed_up()
    home.boot()
    home.set_config(image(40, 6000))
    home.upgrade(image(41, FIRMWARE_BYTES), "2.0")
    home.router.hangs.add("2.0")
    home.switch_on()
    home.world.run_until(lambda: home.router.power is Power.BOOTLOADER)
    home.router.switch_off()
    return home


def run(home: Household) -> None:
    """Switch on, and wait until the system runs or the power is gone."""
    home.switch_on()
    home.world.run_until(lambda: home.router.power in (Power.RUNNING, Power.OFF))


def change_config_and_back_up(home: Household) -> None:
    run(home)
    if home.router.power is Power.RUNNING:
        home.set_config(image(42, 7000))
        home.world.run_until(lambda: home.held_good == [2, 1] or home.router.power is Power.OFF)


def upgrade_and_back_up(home: Household) -> None:
    run(home)
    if home.router.power is Power.RUNNING:
        home.upgrade(image(43, FIRMWARE_BYTES - 5000), "2.0")
        run(home)
    if home.router.power is Power.RUNNING:
        home.world.run_until(lambda: home.held_good == [2, 1] or home.router.power is Power.OFF)


SCENARIOS = {
    "restore": Scenario(before=all_damaged, act=run, ends=frozenset({1})),
    "restore-of-all": Scenario(before=all_lost, act=run, ends=frozenset({1})),
    "fall-back": Scenario(before=does_not_come_up, act=run, ends=frozenset({1})),
    "backup": Scenario(before=backed_up, act=change_config_and_back_up, ends=frozenset({1, 2})),
    "upgrade": Scenario(before=backed_up, act=upgrade_and_back_up, ends=frozenset({1, 2})),
}


def cut(before: Household, act: Callable[[Household], None], *, at: int, phase: Phase, seed: int) -> Household | None:
    """The household after that cut, switched off; None if it is over before it."""
    home = before.copy(chip_seed=seed)
    home.router.chip.cut_power(at=home.router.chip.operations + at, phase=phase)
    try:
        act(home)
    except PowerCut:
        home.router.lose_power()
    if home.router.power is not Power.OFF:
        return None
    return home


def cuts(before: Household, scenario: Scenario) -> Iterator[tuple[Household, str]]:
    for phase in Phase:
        for seed in TORN_SEEDS if phase is Phase.TORN else (0,):
            for at in range(MAX_OPERATIONS):
                home = cut(before, scenario.act, at=at, phase=phase, seed=seed)
                if home is None:
                    break
                yield home, f"{at} {phase.value} {seed}"
            else:
                pytest.fail("the scenario never ends")


def check(home: Household, scenario: Scenario) -> int:
    """Power on again; the number of the generation it ended with."""
    loaded = home.router.software.device.record.load()
    run(home)
    assert home.router.power is Power.RUNNING
    home.assert_whole()
    assert home.recorded in scenario.ends
    if loaded is not None and len(scenario.ends) > 1:
        assert home.recorded == loaded.record.sealed.generation.number, "what the record named is what is mended"
    ended = home.recorded
    home.back_up()
    return ended


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_power_cut_at_any_flash_operation_ends_running_the_old_or_the_new_generation(name: str) -> None:
    scenario = SCENARIOS[name]
    before = scenario.before()
    ended: Counter[int] = Counter()
    for home, which in cuts(before, scenario):
        print(f"replay: python tests/sim/test_power_cut_restore.py {name} {which}")
        ended[check(home, scenario)] += 1
    assert set(ended) == scenario.ends, "each outcome was seen"
    print(f"{name}: {sum(ended.values())} power cuts, by generation in the end: {dict(ended)}")


@pytest.mark.parametrize("name", SCENARIOS)
def test_power_cut_again_in_the_recovery_after_one_ends_the_same(name: str) -> None:
    scenario = SCENARIOS[name]
    before = scenario.before()
    count = 0
    for first in range(3, 200, 37):
        home = cut(before, scenario.act, at=first, phase=Phase.TORN, seed=first)
        if home is None:
            break
        for second in range(0, 200, 17):
            print(f"{name}: cut at {first}, then at {second} of what follows")
            again = cut(home, run, at=second, phase=Phase.TORN, seed=second)
            if again is None:
                break
            count += 1
            check(again, scenario)
    print(f"{name}: {count} pairs of power cuts")
    assert count


if __name__ == "__main__":
    chosen, at_, phase_, seed_ = sys.argv[1:]
    found = cut(SCENARIOS[chosen].before(), SCENARIOS[chosen].act, at=int(at_), phase=Phase(phase_), seed=int(seed_))
    assert found is not None, "the scenario ends before that"
    found.router.log.clear()
    try:
        check(found, SCENARIOS[chosen])
    finally:
        for at_s, event in found.router.log:
            print(f"{at_s:10.3f} {type(event).__name__:20} {event!s:.160}")
