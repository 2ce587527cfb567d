# SPDX-License-Identifier: Apache-2.0
"""What the server reports, as a line for its owner and as an object for programs; and where log lines go.

Knows events and the names of devices; knows no sockets and no store.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from enum import Enum

from unbrickd.cli.settings import LogFormat, LogLevel
from unbrickd.cli.text import JsonValue, size_text
from unbrickd.model.peer import Peer
from unbrickd.server import events as e
from unbrickd.wire.messages import ErrorCode, Purpose

log = logging.getLogger("unbrickd.serve")

Label = Callable[[bytes], str]
"""Device id → what the owner calls the device."""

_QUIET = {ErrorCode.COOKIE, ErrorCode.NO_SESSION, ErrorCode.BUSY}
"""Refusals that are part of a day's work: a restart, a device that waits its turn."""


def level_of(event: e.Event) -> int:
    """logging's level of an event."""
    match event:
        case e.Rotten():
            return logging.ERROR
        case e.Refused(code=code, device_id=device_id):
            return logging.DEBUG if code in _QUIET or not device_id else logging.WARNING
        case e.SessionEnded(reason=reason):
            return logging.WARNING if reason is e.SessionEnd.SILENT else logging.INFO
        case e.UploadProgress() | e.SessionOpened():
            return logging.DEBUG
        case _:
            return logging.INFO


def sentence(event: e.Event, label: Label) -> str:
    """One line that a router's owner understands."""
    who = label(event.device_id) if event.device_id else str(event.peer)
    return f"{who} {_what(event)}"


def _what(event: e.Event) -> str:
    match event:
        case e.SessionOpened(purpose=purpose):
            return f"asks for a {'backup' if purpose is Purpose.BACKUP else 'restore'} from {event.peer}"
        case e.SessionEnded(reason=reason):
            reasons = {
                e.SessionEnd.SILENT: "it fell silent",
                e.SessionEnd.SUPERSEDED: "it began again",
                e.SessionEnd.CLOSED: "the server or the connection was closed",
            }
            return f"did not finish its backup: {reasons[reason]}; what came is kept and need not come again"
        case e.BackupUnchanged(number=number, became_good=became_good):
            return f"is backed up already: generation {number}" + (", now known to work" if became_good else "")
        case e.UploadStarted(component=name, length_bytes=length, resumed_bytes=resumed):
            known = f", {size_text(resumed)} of it known already" if resumed else ""
            return f"sends its {name}: {size_text(length)}{known}"
        case e.UploadProgress(component=name, held_bytes=held, length_bytes=length):
            return f"sends its {name}: {size_text(held)} of {size_text(length)}"
        case e.GenerationCommitted():
            changed = f"{' and '.join(event.components)} changed" if event.components else "nothing new in it"
            return (
                f"backed up generation {event.number}: {changed}, "
                f"{size_text(event.moved_bytes)} moved in {event.duration_s:.1f} s"
            )
        case e.RestoreOffered(number=0):
            return "asks for a restore, but nothing that is held may be offered"
        case e.RestoreOffered(number=number, good=good):
            return f"asks for a restore and is offered generation {number}" + (
                "" if good else ", not yet known to work"
            )
        case e.RestoreServed(component=name, number=number, moved_bytes=moved):
            what = name or "the list of what it must hold"
            return f"fetched {what} of generation {number}: {size_text(moved)} in {event.duration_s:.1f} s"
        case e.Rotten(component=name, number=number):
            return f"needs {name} of generation {number}, which is rotten on this disk; an older one is offered instead"
        case e.Refused(code=code, reason=reason):
            return f"was refused ({code.name.lower().replace('_', '-')}): {reason}"
        case _:
            return type(event).__name__


def record(event: e.Event) -> dict[str, JsonValue]:
    """The event as an object: its name and its fields."""
    members: dict[str, JsonValue] = {"event": type(event).__name__}
    for field in fields(event):
        members[field.name] = _plain(getattr(event, field.name))
    return members


def _plain(value: object) -> JsonValue:
    match value:
        case bytes():
            return value.hex()
        case Peer():
            return str(value)
        case Enum():
            return value.name.lower().replace("_", "-")
        case tuple():
            return [_plain(v) for v in value]
        case bool() | int() | float() | str() | None:
            return value
        case _:
            return str(value)


class _JsonLines(logging.Formatter):
    def format(self, line: logging.LogRecord) -> str:
        members: dict[str, JsonValue] = {
            "time": datetime.fromtimestamp(line.created, UTC).isoformat(timespec="milliseconds"),
            "level": line.levelname.lower(),
            "message": line.getMessage(),
        }
        event = getattr(line, "event", None)
        if isinstance(event, e.Event):
            members |= record(event)
        if line.exc_info:
            members["traceback"] = self.formatException(line.exc_info)
        return json.dumps(members)


def start_logging(level: LogLevel, form: LogFormat) -> None:
    """Send every log line of the program to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    plain = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S")
    handler.setFormatter(_JsonLines() if form is LogFormat.JSON else plain)
    logging.basicConfig(level=level.value.upper(), handlers=[handler], force=True)


def log_event(event: e.Event, label: Label) -> None:
    level = level_of(event)
    if log.isEnabledFor(level):
        log.log(level, "%s", sentence(event, label), extra={"event": event})
