# SPDX-License-Identifier: Apache-2.0
"""What agent and recovery report, as a sentence for people and as an object for programs. Knows no terminal."""

from __future__ import annotations

from dataclasses import fields
from enum import Enum

from unbrickd.agent import agent as a
from unbrickd.agent import session as s
from unbrickd.cli.text import JsonValue, size_text
from unbrickd.recovery import events as r
from unbrickd.recovery.light import Light

Event = r.Event | a.Event


def sentence(event: Event) -> str:
    """One line for people; "" for what only a progress bar shows."""
    match event:
        case r.LightChanged(light=light):
            return f"light: {light_text(light)}"
        case r.Checked():
            return _checked(event)
        case r.ServerFound():
            return f"found a server at {event.server}" + ("" if event.holds_device else ", which has no backup of this")
        case r.ServerGivenUp():
            return f"{event.server or 'this device'}: {event.why}"
        case r.OfferTaken():
            wanted = [f"{d} of {n} erase blocks of {name} ({size_text(b)})" for name, d, n, b in event.components if d]
            return f"restoring generation {event.generation}: " + (", ".join(wanted) or "nothing differs")
        case r.Restored():
            return (
                f"restored generation {event.generation}: "
                f"{size_text(event.payload_bytes)} fetched, verified and read back"
            )
        case r.Booting():
            return _booting(event)
        case a.BackupStarted():
            return f"backing up generation {event.generation} ({event.trigger.value})"
        case a.BackupEnded(outcome=outcome):
            return _backup_ended(outcome)
        case a.ProvedGood():
            return f"generation {event.generation} has run long enough: it is good"
        case a.Trouble():
            return f"trouble: {event.what}"
        case s.ServerFound():
            return f"found a server at {event.server}"
        case s.UploadWanted():
            return f"the server asks for: {', '.join(event.components) or 'the list of digests only'}"
    return ""


def light_text(light: Light) -> str:
    """A light's state with its pattern drawn: on and off times in words."""
    if light is Light.OFF:
        return "off, checking"
    if light is Light.BOOTED:
        return "on, running"
    pattern = " ".join(f"{on}/{off} ms" for on, off in light.value.flashes_ms)
    return f"blinking {pattern}: {light.value.meaning}"


def _checked(event: r.Checked) -> str:
    findings = event.findings
    if findings.loaded is None:
        return "the boot record is lost: asking for the newest good generation"
    repaired = "; one copy of the boot record was repaired" if event.record_repaired else ""
    damaged = [
        f"{len(c.damaged)} of {c.erase_blocks} erase blocks of {c.name}" for c in findings.components if c.damaged
    ]
    if damaged:
        return f"damaged: {', '.join(damaged)}{repaired}"
    if findings.refused:
        return f"this firmware may not run here: {findings.refused}{repaired}"
    return f"{event.decision.reason.value}{repaired}"


def _booting(event: r.Booting) -> str:
    text = f"booting generation {event.generation}, firmware {event.firmware_version or 'of unknown version'}"
    if event.went_back_from:
        text += f"; generation {event.went_back_from} failed to boot too often and was left"
    if event.config_default:
        text += "; the configuration is damaged and no server has it: starting with default settings"
    return text


def _backup_ended(outcome: s.Outcome) -> str:
    if outcome.ending is not s.Ending.COMMITTED:
        return f"no backup: {outcome.why or outcome.ending.value}; it is tried again"
    if not outcome.payload_bytes:
        return f"generation {outcome.generation} is on the server already; nothing was moved"
    names = ", ".join(outcome.uploaded) or "its list of digests"
    return f"backed up generation {outcome.generation}: {names}, {size_text(outcome.payload_bytes)} moved"


def record(event: Event) -> dict[str, JsonValue]:
    """An object for programs: "event" names it, the rest are its fields; findings are shortened to what is wrong."""
    kind = type(event).__name__
    if isinstance(event, r.Checked):
        findings = event.findings
        return {
            "event": kind,
            "reason": event.decision.reason.name.lower().replace("_", "-"),
            "restore": event.decision.restore,
            "record_repaired": event.record_repaired,
            "refused": findings.refused,
            "components": [
                {"name": c.name, "version": c.version, "erase_blocks": c.erase_blocks, "damaged": list(c.damaged)}
                for c in findings.components
            ],
        }
    return {"event": kind, **_fields(event)}


def _fields(value: object) -> dict[str, JsonValue]:
    return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}  # type: ignore[arg-type]


def _plain(value: object) -> JsonValue:
    if isinstance(value, Enum):
        return value.name.lower().replace("_", "-")
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return _fields(value)
