# SPDX-License-Identifier: Apache-2.0
"""What the server's log says: every event has its sentence and its object."""

from __future__ import annotations

import json
import logging

import pytest

from unbrickd.cli.server_log import level_of, log, log_event, record, sentence, start_logging
from unbrickd.cli.settings import LogFormat, LogLevel
from unbrickd.model.peer import Peer, Transport
from unbrickd.server import events as e
from unbrickd.wire.messages import ErrorCode, Purpose

DEVICE = bytes(16)
PEER = Peer(transport=Transport.UDP, host="192.168.1.1", port=21531)
COMMITTED = e.GenerationCommitted(
    device_id=DEVICE,
    peer=PEER,
    number=7,
    model="R1",
    good=True,
    components=("config",),
    moved_bytes=65536,
    duration_s=0.21,
)
EVENTS: list[e.Event] = [
    e.SessionOpened(device_id=DEVICE, peer=PEER, purpose=Purpose.BACKUP),
    e.SessionEnded(device_id=DEVICE, peer=PEER, purpose=Purpose.BACKUP, reason=e.SessionEnd.SILENT),
    e.BackupUnchanged(device_id=DEVICE, peer=PEER, number=7, became_good=True),
    e.UploadStarted(device_id=DEVICE, peer=PEER, component="config", length_bytes=8192, resumed_bytes=4096),
    e.UploadProgress(device_id=DEVICE, peer=PEER, component="config", length_bytes=8192, held_bytes=4096),
    COMMITTED,
    e.RestoreOffered(device_id=DEVICE, peer=PEER, number=7, good=True),
    e.RestoreOffered(device_id=DEVICE, peer=PEER, number=0, good=False),
    e.RestoreServed(device_id=DEVICE, peer=PEER, number=7, component="", moved_bytes=100, duration_s=1),
    e.Rotten(device_id=DEVICE, peer=PEER, number=7, component="firmware"),
    e.Refused(device_id=b"", peer=PEER, code=ErrorCode.COOKIE, reason="too old"),
]


def test_log_events_here_are_all_there_are() -> None:
    # By name, because slots=True makes each class twice.
    assert {type(event).__name__ for event in EVENTS} == {kind.__name__ for kind in e.Event.__subclasses__()}


def test_sentence_of_a_backup_says_who_what_and_how_much() -> None:
    said = sentence(COMMITTED, lambda _: "R1-1234")
    assert said == "R1-1234 backed up generation 7: config changed, 64 KiB moved in 0.2 s"


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_log_of_every_event_is_a_sentence_and_a_json_object(event: e.Event, capsys: pytest.CaptureFixture[str]) -> None:
    said = sentence(event, lambda _: "R1-1234")
    assert type(event).__name__ not in said and len(said.split()) > 3
    try:
        start_logging(LogLevel.DEBUG, LogFormat.JSON)
        log_event(event, lambda _: "R1-1234")
    finally:
        logging.basicConfig(level=logging.WARNING, handlers=[logging.NullHandler()], force=True)
    line = json.loads(capsys.readouterr().err)
    assert line["message"] == said and line["peer"] == "udp:192.168.1.1:21531"
    assert record(event).items() <= line.items()


def test_log_level_keeps_daily_refusals_from_the_owner(caplog: pytest.LogCaptureFixture) -> None:
    assert level_of(EVENTS[-1]) == logging.DEBUG
    refused = e.Refused(device_id=DEVICE, peer=PEER, code=ErrorCode.NO_SPACE, reason="full")
    assert level_of(refused) == logging.WARNING
    assert level_of(EVENTS[-2]) == logging.ERROR
    with caplog.at_level(logging.INFO, logger=log.name):
        log_event(EVENTS[-1], lambda _: "R1-1234")
        log_event(refused, lambda _: "R1-1234")
    assert caplog.messages == ["R1-1234 was refused (no-space): full"]
