# SPDX-License-Identifier: Apache-2.0
"""What the laboratory says when it cannot go on."""

from __future__ import annotations


class LabError(Exception):
    """What is missing, and what to do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message}\nhint: {hint}" if hint else message)
