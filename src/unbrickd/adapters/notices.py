# SPDX-License-Identifier: Apache-2.0
"""The agent's letter box: one empty file for each thing that happened on the device, left there by hooks.

It works whether or not the agent runs, on every platform and without a port. Knows nothing of what the agent does.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from unbrickd.errors import ConfigError

MAX_NOTICES = 1000
"""Looked at in one go; hooks that run wild do not fill the agent's memory."""


class What(Enum):
    """What happened; the value is the word that hooks use."""

    UPGRADED = "upgraded"
    CONFIG_CHANGED = "config-changed"
    BACK_UP = "back-up"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    what: What
    path: Path


class LetterBox:
    """The folder `notify` of the agent's state folder; made with the first notice."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "notify"

    def leave(self, what: What) -> Notice:
        """A notice for the agent. Raises ConfigError. A power cut leaves it there, or not."""
        path = self._folder / f"{what.value}.{time.time_ns()}.{os.getpid()}"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(exist_ok=False)
        except OSError as error:
            raise ConfigError(
                f"{path} cannot be made: {error.strerror}",
                code="not-writable",
                hint="run it as the user of the agent, and name the agent's --layout or --state",
            ) from error
        return Notice(what=what, path=path)

    def waiting(self) -> list[Notice]:
        """What has not been taken out yet; files of other names are left alone."""
        words = {what.value: what for what in What}
        try:
            names = sorted(os.listdir(self._folder))[:MAX_NOTICES]  # noqa: PTH208 a Path per name would be waste
        except OSError:
            return []
        return [
            Notice(what=words[word], path=self._folder / name)
            for name in names
            if (word := name.partition(".")[0]) in words
        ]

    def take_out(self, notices: list[Notice]) -> None:
        """They have been seen to. Raises ConfigError."""
        try:
            for notice in notices:
                notice.path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(
                f"{self._folder} cannot be written: {error.strerror}", code="not-writable", hint="check its permissions"
            ) from error
