# SPDX-License-Identifier: Apache-2.0
"""Numbers in words, and values as JSON has them. Knows nothing else, so that the server need not load more."""

from __future__ import annotations

JsonValue = str | int | float | bool | None | list["JsonValue"] | dict[str, "JsonValue"]


def size_text(count: float) -> str:
    """Bytes in words: 912 B, 64 KiB, 15.3 MiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024 or unit == "MiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" or count == int(count) else f"{count:.1f} {unit}"
