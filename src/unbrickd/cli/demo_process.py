# SPDX-License-Identifier: Apache-2.0
"""The programs of the demo as child processes: the same commands a user types, with their JSON read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from unbrickd.cli.text import JsonValue
from unbrickd.errors import ConfigError

END_PATIENCE_S = 10.0


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "unbrickd", *arguments]


def run_command(*arguments: str) -> str:
    """Run a command to its end; returns its stdout. Raises ConfigError with its words if it fails."""
    result = subprocess.run(_command(*arguments), capture_output=True, text=True, check=False)
    if result.returncode:
        raise ConfigError(
            f"`unbrickd {arguments[0]} {arguments[1]}` failed: {result.stderr.strip()}",
            code=f"exit-{result.returncode}",
        )
    return result.stdout


class _Child:
    """A child process that does not outlive us. Ctrl-C reaches it as well, since it shares our terminal."""

    process: subprocess.Popen[str] | None = None

    def _start(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            _command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    def wait(self) -> int:
        """The exit code, once it has ended."""
        assert self.process is not None
        return self.process.wait()

    def stop(self) -> None:
        """Ask it to end; end it if it does not."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.communicate(timeout=END_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        self.process = None

    def _failed(self, what: str) -> ConfigError:
        assert self.process is not None
        _, errors = self.process.communicate(timeout=END_PATIENCE_S)
        return ConfigError(f"{what}: {errors.strip() or 'no reason given'}", code="demo")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class ServerProcess(_Child):
    """`unbrickd serve` on loopback; the port it got the first time is kept when it is started again."""

    def __init__(self, store: Path, transport: str) -> None:
        self._store = store
        self._transport = transport
        self.address = "127.0.0.1:0"

    def __enter__(self) -> ServerProcess:
        self.start()
        return self

    def start(self) -> None:
        """Returns once it is ready. Raises ConfigError with its words if it does not come up."""
        self._start("serve", f"--{self._transport}", self.address, "--store", str(self._store), "--log-level", "error")
        assert self.process is not None and self.process.stdout is not None
        ready = self.process.stdout.readline().split()
        if len(ready) != 3 or ready[0] != "ready":
            raise self._failed("the server did not start")
        self.address = ready[2]


class GatewayProcess(_Child):
    """`unbrickd gateway power-on`, as a stream of its events."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._arguments = ("gateway", "power-on", str(directory), "--json", *options)

    def __enter__(self) -> GatewayProcess:
        self._start(*self._arguments)
        return self

    def events(self) -> Iterator[dict[str, JsonValue]]:
        """Until the process ends. Raises ConfigError if it ends without having switched off."""
        assert self.process is not None and self.process.stdout is not None
        event: dict[str, JsonValue] = {}
        for line in self.process.stdout:
            event = json.loads(line)
            yield event
        if event.get("event") != "PowerOff":
            raise self._failed("the gateway ended early")
