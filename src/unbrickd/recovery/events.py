# SPDX-License-Identifier: Apache-2.0
"""What recovery tells the world as it goes: for the light, the console and the demo. Values only."""

from __future__ import annotations

from dataclasses import dataclass

from unbrickd.recovery.check import Decision, Findings
from unbrickd.recovery.light import Light
from unbrickd.recovery.offer import Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class LightChanged:
    light: Light


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """The flash was checked and this was decided."""

    findings: Findings
    decision: Decision
    record_repaired: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFound:
    server: str
    holds_device: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerGivenUp:
    """This server did not help; why, in words; whether it offered something that must not run."""

    server: str
    why: str
    refused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferTaken:
    """What will be restored: per component (name, erase blocks to fetch, erase blocks in all, bytes to fetch).

    is_named: whether it is the generation that the boot record asked for; choices: per component, why (R21).
    """

    generation: int
    is_named: bool
    components: tuple[tuple[str, int, int, int], ...]
    choices: tuple[Choice, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EraseBlockRestored:
    """One erase block verified, programmed and read back; `done` of `wanted` of this component."""

    component: str
    index: int
    done: int
    wanted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """All of it is in flash and the boot record names it. Bytes are those of messages, both ways."""

    generation: int
    bytes_received: int
    bytes_sent: int
    payload_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Booting:
    """The end: this generation is started.

    config_default: the configuration is damaged and left out; went_back_from: the generation that failed to boot too
    often and was left for this one, or 0.
    """

    generation: int
    firmware_version: str
    config_default: bool
    went_back_from: int


Event = LightChanged | Checked | ServerFound | ServerGivenUp | OfferTaken | EraseBlockRestored | Restored | Booting
