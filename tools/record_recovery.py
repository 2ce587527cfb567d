# SPDX-License-Identifier: Apache-2.0
"""Runs the whole story in QEMU and draws the console of its last power-on, the damaged gateway's, as docs/recovery.svg.

    .venv/bin/python -m tools.record_recovery

Like `make e2e`, it needs Debian 12 and, the first time, root. The lines and their times are as they came; what U-Boot
and Linux say while the firmware starts is left out, and the colours are put on.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.text import Text
from tools.recording import draw

REPOSITORY = Path(__file__).parent.parent
TARGET = REPOSITORY / "docs" / "recovery.svg"
STORY = REPOSITORY / "tests/qemu/test_whole_story.py"
COLUMNS = 76
_STAMPED = re.compile(r" *(\d+\.\d+)  (.*)")
_BEGIN, _OTHERS_BEGIN, _END = "U-Boot 20", "## Loading kernel", "gateway "
_STYLES = {
    r"unbrickd: .*damaged|.*: [1-9]\d* of \d+ erase blocks differ": "bold red",
    r"unbrickd: light: .*": "yellow",
    r"unbrickd: (server|booting|restored|generation|the flash is sound).*|gateway .*": "bold green",
    r"unbrickd: .*": "cyan",
}


def session(log: str) -> Iterator[tuple[str, str]]:
    """Seconds and text of each line, from the banner until the system is up."""
    lines = (found.groups() for line in log.splitlines() if (found := _STAMPED.fullmatch(line.rstrip())))
    for at_s, text in itertools.dropwhile(lambda line: not line[1].startswith(_BEGIN), lines):
        yield at_s, text
        if text.startswith(_END):
            return


def shown(lines: Iterator[tuple[str, str]]) -> Iterator[Text]:
    others = 0
    for at_s, text in lines:
        if text.startswith(_OTHERS_BEGIN) or (others and not text.startswith(_END)):
            others += 1
            continue
        if others:
            yield Text(f"{'':10}({others} lines: U-Boot verifies the FIT image, Linux starts)", style="dim italic")
            others = 0
        if text:
            style = next((style for pattern, style in _STYLES.items() if re.match(pattern, text)), "")
            yield Text.assemble((f"{at_s:>8}  ", "dim"), (text, style))


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "pytest", "-m", "qemu", "-q", f"--basetemp={folder}/story", str(STORY)]
        code = subprocess.run(words, cwd=REPOSITORY, check=False).returncode
        if code:
            return code
        log = max(Path(folder).glob("story/*0/console-*.log"))
        draw(shown(session(log.read_text())), TARGET, title="the gateway's serial console", columns=COLUMNS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
