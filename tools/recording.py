# SPDX-License-Identifier: Apache-2.0
"""Draws what was seen on a screen as a picture that browsers show (SVG)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.text import Text


def draw(lines: Iterable[Text], target: Path, *, title: str, columns: int) -> None:
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        console = Console(record=True, width=columns, file=nowhere, color_system="truecolor")
        for line in lines:
            console.print(line)
    # The fonts that it names would be fetched from a web site.
    picture = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title=title), flags=re.DOTALL)
    target.write_text(picture, encoding="utf-8")
    print(f"wrote {target.name}")
