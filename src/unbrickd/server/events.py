# SPDX-License-Identifier: Apache-2.0
"""What happened in the server, as values: for logs, progress and the dashboard. Knows no text and no language."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from unbrickd.model.peer import Peer
from unbrickd.wire.messages import ErrorCode, Purpose


class SessionEnd(Enum):
    SILENT = "silent"
    """The device said nothing more; what it uploaded is kept and the next backup resumes it."""
    SUPERSEDED = "superseded"
    """A newer session of the same device took over."""
    CLOSED = "closed"
    """We stop, or the connection went away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """device_id: 16 bytes; peer: where the device is now."""

    device_id: bytes
    peer: Peer


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOpened(Event):
    purpose: Purpose


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded(Event):
    """A session ended before it was done."""

    purpose: Purpose
    reason: SessionEnd


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupUnchanged(Event):
    """Everything was held already. became_good: the device now vouches for this generation."""

    number: int
    became_good: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadStarted(Event):
    """resumed_bytes: of `length_bytes`, what need not be moved: held from an earlier image or an interrupted upload."""

    component: str
    length_bytes: int
    resumed_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadProgress(Event):
    component: str
    held_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationCommitted(Event):
    """components: the names of those that had changed; moved_bytes: what came over the network for it."""

    number: int
    model: str
    good: bool
    components: tuple[str, ...]
    moved_bytes: int
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreOffered(Event):
    """number 0: nothing that is held may be offered."""

    number: int
    good: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreServed(Event):
    """The device has verified a component (or, named "", the generation document) that it fetched."""

    number: int
    component: str
    moved_bytes: int
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotten(Event):
    """What the store holds of this component fails its digest; the generation is not offered again."""

    number: int
    component: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(Event):
    """An Error was sent. device_id is empty where none was proven or named."""

    code: ErrorCode
    reason: str
