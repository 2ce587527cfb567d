# SPDX-License-Identifier: Apache-2.0
"""How a device is set to behave: when its agent backs up, what its bootloader tries (R4 to R8, R13, R17)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupPolicy:
    """Any of them together; None or False switches one off. Seconds.

    jitter: part of the period (0 to 1) by which each turn is moved at random: a street does not back up in step.
    """

    after_start_s: float | None = 60.0
    period_s: float | None = 86400.0
    jitter: float = 0.1
    after_upgrade: bool = True
    after_config_change: bool = True
    debounce_s: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BootPolicy:
    """boot_limit: failed boots before going back a generation; wait_s: how long to look for a server if what is in
    flash may boot as it is (a damaged configuration, a held button); else it looks for ever."""

    boot_limit: int = 3
    wait_s: float = 60.0
