# SPDX-License-Identifier: Apache-2.0
"""Keeps the agent's Memory in a small JSON file, replaced whole: a power cut leaves the old one or the new one.

Losing it is no harm (the next backup finds that nothing differs), so a file that cannot be read counts as none.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from unbrickd.agent.agent import Memory
from unbrickd.errors import ConfigError


def load_memory(path: Path) -> Memory:
    """What was kept, or the Memory of a new device."""
    try:
        return Memory(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Memory()


def save_memory(path: Path, memory: Memory) -> None:
    """Durable when it returns. Raises ConfigError if the folder cannot be written."""
    write_whole(path, json.dumps(asdict(memory)).encode())


def write_whole(path: Path, octets: bytes) -> None:
    """Replace a file so that a reader, or a power cut, sees the old one or the new one whole. Raises ConfigError."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        with temporary.open("wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}", code="not-writable", hint="check its folder's permissions"
        ) from error
