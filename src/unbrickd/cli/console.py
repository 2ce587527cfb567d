# SPDX-License-Identifier: Apache-2.0
"""Shows what agent and recovery report: sentences and a progress bar for people, JSON lines for programs.

The bar's library is imported when the first bar is drawn: a gateway without a terminal need not have it.
"""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from unbrickd.agent.session import Uploading
from unbrickd.cli.narrate import Event, record, sentence
from unbrickd.cli.text import JsonValue
from unbrickd.recovery.events import EraseBlockRestored

if TYPE_CHECKING:
    from rich.progress import Progress


class Narrator:
    """Writes events to stdout as they come. Use as a context manager, so that a bar is taken down."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._draws_bars = not as_json and sys.stdout.isatty()
        self._progress: Progress | None = None
        self._started_s = time.monotonic()

    def __enter__(self) -> Narrator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_bar()

    def __call__(self, event: Event) -> None:
        if self._as_json:
            self._write_json(record(event))
            return
        match event:
            case EraseBlockRestored(component=name, done=done, wanted=wanted):
                self._bar(f"restoring {name}", done, wanted)
            case Uploading(component=name, sent_bytes=sent, length_bytes=length):
                self._bar(f"sending {name}", sent, length)
            case _:
                text = sentence(event)
                if text:
                    self._end_bar()
                    self._line(text)

    def say(self, what: str, **details: JsonValue) -> None:
        """Something that no core reports: the virtual gateway's own life."""
        if self._as_json:
            self._write_json({"event": what, **details})
        else:
            self._end_bar()
            self._line(str(details.get("text", what)))

    def _line(self, text: str) -> None:
        print(f"{time.monotonic() - self._started_s:8.2f}  {text}", flush=True)

    @staticmethod
    def _write_json(members: dict[str, JsonValue]) -> None:
        print(json.dumps(members), flush=True)

    def _bar(self, name: str, done: int, total: int) -> None:
        if not self._draws_bars:
            return
        if self._progress is None or self._progress.tasks[0].description != name:
            self._end_bar()
            self._progress = _new_bar()
            self._progress.add_task(name, total=total)
            self._progress.start()
        self._progress.update(self._progress.tasks[0].id, completed=done, total=total)

    def _end_bar(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _new_bar() -> Progress:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    return Progress(TextColumn("          {task.description}"), BarColumn(), TaskProgressColumn(), transient=True)
