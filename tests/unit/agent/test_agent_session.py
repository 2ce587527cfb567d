# SPDX-License-Identifier: Apache-2.0
"""How a backup ends with servers that are busy, refuse, vanish or never have enough; what the agent makes of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from unbrickd.agent.agent import AgentOptions, BackupEnded, BackupStarted, Memory, Trouble
from unbrickd.agent.policy import RETRY_FIRST_S
from unbrickd.agent.session import MAX_SESSION_S, Ending, Outcome
from unbrickd.model.policy import BackupPolicy
from unbrickd.server.limits import ServerLimits
from unbrickd.sim.household import Household, backed_up
from unbrickd.sim.liar import Liar, again, honest, on
from unbrickd.sim.world import SimServer
from unbrickd.wire import messages as m
from unbrickd.wire.packet import Packet


def ended(home: Household) -> Outcome:
    """How the first backup ends."""
    home.boot()
    home.world.run_until(lambda: bool(home.router.events(BackupEnded)), limit_s=2 * MAX_SESSION_S)
    return home.router.events(BackupEnded)[0].outcome


def with_servers(*servers: SimServer | Liar) -> Household:
    home = Household()
    home.world.endpoints = {"router": home.router, **{s.name: s for s in servers}}
    return home


def errors(code: m.ErrorCode, wait_s: int = 0) -> Liar:
    """A server that answers each Backup with this Error."""
    error = m.Error(code=code, retry_after_s=wait_s, text="not now")
    return Liar(SimServer("liar"), on(m.BackupAck, lambda packet: [again(packet, error)]))


def test_backup_no_server_ends_after_the_set_number_of_probes() -> None:
    home = with_servers()
    outcome = ended(home)
    assert outcome.ending is Ending.NO_SERVER
    assert len(home.world.sent) == 7
    assert home.router.memory.server_missing and home.router.memory.pending


def test_backup_everything_is_committed_and_counted() -> None:
    home = Household()
    outcome = ended(home)
    document = len(home.router.software.loaded().record.sealed.document)
    assert (outcome.ending, outcome.uploaded) == (Ending.COMMITTED, ("firmware", "config"))
    assert outcome.payload_bytes == len(home.firmware) + len(home.config) + document
    assert outcome.bytes_sent > outcome.payload_bytes > outcome.bytes_received
    assert home.router.memory == Memory(
        last_success_wall_s=home.router.memory.last_success_wall_s, acknowledged=1, acknowledged_good=True
    )


def test_backup_busy_server_is_no_missing_server() -> None:
    limits = ServerLimits(max_backups=0, retry_after_s=77)
    home = with_servers(SimServer("busy", limits=limits))
    outcome = ended(home)
    assert (outcome.ending, outcome.retry_after_s) == (Ending.BUSY, 77)
    assert not home.router.memory.server_missing
    retried_s = home.router.log[-1][0] + 77
    home.world.run_until(lambda: len(home.router.events(BackupStarted)) == 2)
    assert home.now_s == pytest.approx(retried_s, abs=0.1)


@pytest.mark.parametrize("code", [m.ErrorCode.NO_SPACE, m.ErrorCode.STORAGE, m.ErrorCode.BUSY])
def test_backup_server_in_trouble_is_asked_again_when_it_says(code: m.ErrorCode) -> None:
    outcome = ended(with_servers(errors(code, wait_s=99)))
    ending = Ending.BUSY if code == m.ErrorCode.BUSY else Ending.FAILED
    assert (outcome.ending, outcome.why, outcome.retry_after_s) == (ending, "not now", 99)


@pytest.mark.parametrize("code", [m.ErrorCode.NOT_ACCEPTED, m.ErrorCode.NOT_AUTHENTIC, m.ErrorCode.VERSION])
def test_backup_refused_by_the_only_server_says_so(code: m.ErrorCode) -> None:
    outcome = ended(with_servers(errors(code)))
    assert (outcome.ending, outcome.why) == (Ending.REFUSED, "not now")


def test_backup_refused_by_one_server_goes_to_another() -> None:
    pc = SimServer("pc")
    home = with_servers(errors(m.ErrorCode.NOT_ACCEPTED), pc)
    assert ended(home).ending is Ending.COMMITTED
    assert pc.generations(home.router.device_id) == [1]


@pytest.mark.parametrize("code", [m.ErrorCode.COOKIE, m.ErrorCode.NO_SESSION])
def test_backup_server_that_begins_again_for_ever_is_left_to_the_policy(code: m.ErrorCode) -> None:
    home = with_servers(errors(code))
    assert ended(home).ending is Ending.FAILED
    assert len(home.world.sent) < 40
    first_s = home.now_s
    home.world.run_until(lambda: len(home.router.events(BackupStarted)) == 2)
    assert home.now_s - first_s == pytest.approx(RETRY_FIRST_S, abs=0.1)


def test_backup_server_that_never_has_enough_is_ended_after_an_hour() -> None:
    asked_s = [0.0]

    def lie(packet: Packet) -> Iterable[bytes]:
        if not isinstance(packet.message, m.BlockRequest | m.DataEndAck | m.Error):
            return honest(packet)
        if home.now_s < asked_s[-1] + 8.0:
            return []
        asked_s.append(home.now_s)
        return [again(packet, m.BlockRequest(request=len(asked_s), last=True, ranges=((0, 100),)))]

    home = with_servers(Liar(SimServer("liar"), lie))
    outcome = ended(home)
    assert (outcome.ending, outcome.why) == (Ending.FAILED, "it took too long")
    assert home.now_s == pytest.approx(MAX_SESSION_S + 5.0, abs=2.5)


def test_backup_flash_that_changed_under_it_fails_and_is_tried_again() -> None:
    home = Household()
    home.boot()
    home.router.damage("firmware", 7)
    home.world.run_until(lambda: bool(home.router.events(BackupEnded)))
    outcome = home.router.events(BackupEnded)[0].outcome
    assert outcome.ending is Ending.FAILED and "not what the boot record names" in outcome.why
    home.world.run_until(lambda: len(home.router.events(BackupEnded)) == 3)


def test_agent_with_a_lost_record_says_so_and_goes_on() -> None:
    home = Household()
    home.boot()
    home.router.damage("record", 0, 1)
    home.world.run_for(200.0)
    assert len(home.router.events(Trouble)) >= 3
    assert home.router.memory.pending


def test_agent_change_whose_trigger_is_off_is_not_owed() -> None:
    policy = BackupPolicy(after_start_s=None, period_s=None, after_config_change=False)
    home = backed_up()
    home.router.options = AgentOptions(policy=policy, good_after_s=30.0)
    home.boot()
    home.set_config(b"x")
    home.world.run_for(100.0)
    assert not home.router.memory.pending
    home.upgrade(bytes(5000), "2.0")
    assert home.router.memory.pending is False, "the agent was not told"
    home.boot()
    assert home.router.agent is not None
    home.router.agent.upgraded(home.now_s)
    assert home.router.agent.memory.pending


def test_agent_goodness_proved_while_the_backup_runs_is_told_after_it() -> None:
    home = backed_up()
    home.boot()
    home.world.run_for(100.0)
    home.pc.kill()
    home.set_config(b"x" * 5000)
    home.world.run_for(29.0)
    home.pc.start()
    home.back_up()
    assert home.held_good == [2, 1]
    assert home.router.memory.acknowledged_good


def test_agent_power_cut_between_proof_and_word_is_made_up_for_at_the_next_start() -> None:
    home = backed_up()
    home.router.options = AgentOptions(
        policy=BackupPolicy(after_start_s=None, period_s=None, debounce_s=1.0), good_after_s=30.0
    )
    home.boot()
    home.set_config(b"x" * 5000)
    home.world.run_until(lambda: home.router.memory.acknowledged == 2)
    home.pc.kill()
    home.world.run_until(lambda: home.router.software.loaded().is_good)
    home.router.memory = replace(home.router.memory, pending=False)
    home.router.agent = None
    home.router.switch_off()
    home.pc.start()
    home.boot()
    home.world.run_until(lambda: home.held_good == [2, 1], limit_s=40.0)
