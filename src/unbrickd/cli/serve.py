# SPDX-License-Identifier: Apache-2.0
"""`unbrickd serve`: the server on its owner's PC. Joins settings, store, core and sockets; needs no configuration."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import secrets
import signal
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path

from unbrickd.adapters.net.binding import Bound
from unbrickd.adapters.net.second import First, Second, fork
from unbrickd.adapters.net.serve import serve, serve_share
from unbrickd.adapters.store.fileops import FileOps, translated, write_whole
from unbrickd.adapters.store.open import open_vault
from unbrickd.cli.main import Subparsers
from unbrickd.cli.server_log import log, log_event, start_logging
from unbrickd.cli.settings import LogFormat, LogLevel, Settings, default_config, default_store, load_settings
from unbrickd.cli.store_options import device_label
from unbrickd.server.events import BackupUnchanged, Event, GenerationCommitted, RestoreServed, SessionEnded
from unbrickd.server.limits import ServerLimits
from unbrickd.server.server import Server
from unbrickd.store.retention import RetentionPolicy
from unbrickd.store.vault import Vault
from unbrickd.wire.messages import SERVER_ID_BYTES

SERVER_ID_FILE = "server-id"

EPILOG = """\
examples:
  unbrickd serve
      keep the backups of every router that finds this computer, until Ctrl-C
  unbrickd serve --store /mnt/disk/routers --keep 10 --no-new-devices
      elsewhere, with more history, and only for routers that are known already
  unbrickd serve --udp 0.0.0.0:21530 --tcp 0.0.0.0:21530
      over TCP as well; --tcp alone serves TCP only

Once it is ready, one line for each address is written to stdout: "ready udp 0.0.0.0:21530".
Every flag can also stand in the settings file (keep = 10) or in the environment (UNBRICKD_KEEP=10).
"""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "serve",
        help="keep backups of routers on this computer, and heal routers with them",
        description="Serve backups and restores until Ctrl-C. It needs no configuration.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--udp", action="append", metavar="ADDR:PORT", help="listen here (default: all, port 21530)")
    parser.add_argument("--tcp", action="append", metavar="ADDR:PORT", help="listen here over TCP (default: nowhere)")
    parser.add_argument("--store", metavar="DIR", help=f"where backups are kept (default: {default_store()})")
    parser.add_argument("--keep", metavar="N", help="good generations kept of each device (default: 5)")
    parser.add_argument("--max-devices", metavar="N", help="most devices backed up here (default: 10000)")
    parser.add_argument(
        "--new-devices",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="take devices that are not known yet (default: yes)",
    )
    parser.add_argument(
        "--announce",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="say once a second that a server is here, for devices behind its firewall (default: yes)",
    )
    parser.add_argument(
        "--processes", metavar="N", help="2: restores are served by two, where the platform can (default: 2)"
    )
    parser.add_argument("--log-level", metavar="LEVEL", help=_choices(LogLevel))
    parser.add_argument("--log-format", metavar="FORMAT", help=_choices(LogFormat))
    parser.add_argument("--config", metavar="FILE", help=f"settings (default: {default_config()}, if it is there)")
    return parser


def _choices(kind: type[LogLevel] | type[LogFormat]) -> str:
    return ", ".join(str(value.value) for value in kind)


def run(args: argparse.Namespace) -> int:
    flags = dict(vars(args))
    for several in ("udp", "tcp"):
        flags[several] = tuple(flags[several]) if flags[several] else None
    settings = load_settings(flags, os.environ)
    start_logging(settings.log_level, settings.log_format)
    policy = RetentionPolicy(keep_good=settings.keep)
    secret = secrets.token_bytes(32)
    _freeze()
    second = fork(lambda first: _serve_share(settings, secret, first)) if settings.processes > 1 else None
    with open_vault(settings.store, exclusive=True, policy=policy) as vault:
        _run(_Session(settings, vault, secret, second).run())
    return 0


def _run(session: Coroutine[None, None, None]) -> None:
    # Windows' default loop cannot watch raw datagram sockets (asyncio, "Platform Support"); selectors can.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(session)


def _freeze() -> None:
    """What there is now stays, and need not be searched for garbage again."""
    gc.collect()
    gc.freeze()


def _server(settings: Settings, vault: Vault, secret: bytes) -> Server:
    limits = ServerLimits(max_devices=settings.max_devices, accept_new=settings.new_devices)
    return Server(vault, server_id=_server_id(settings.store), cookie_secret=secret, limits=limits)


def _serve_share(settings: Settings, secret: bytes, first: First) -> None:
    """The second process."""
    if sockets := first.sockets():
        with open_vault(settings.store, exclusive=False) as vault:
            _freeze()
            _run(serve_share(_server(settings, vault, secret), first, sockets))


class _Session:
    """One run of the server, from ready to stopped."""

    def __init__(self, settings: Settings, vault: Vault, secret: bytes, second: Second | None) -> None:
        self._settings = settings
        self._vault = vault
        self._second = second
        self._done: Counter[str] = Counter()
        self._server = _server(settings, vault, secret)

    async def run(self) -> None:
        stop = asyncio.Event()
        _on_signals(asyncio.get_running_loop(), stop.set)
        await serve(
            self._server,
            udp_addresses=self._settings.udp_addresses(),
            tcp_addresses=self._settings.tcp_addresses(),
            announce=self._settings.announce,
            second=self._second,
            on_event=self._event,
            on_ready=self._ready,
            stop=stop,
        )
        log.info(
            "stopped: %d backups, %d components restored, %d transfers left to resume",
            self._done["backups"],
            self._done["restored"],
            self._done["unfinished"],
        )

    def _ready(self, bound: tuple[Bound, ...]) -> None:
        for where in bound:
            name = where.transport.value
            if self._settings.log_format is LogFormat.JSON:
                print(json.dumps({"event": "ready", "transport": name, "address": where.address}), flush=True)
            else:
                print(f"ready {name} {where.address}", flush=True)
        addresses = ", ".join(f"{where.transport.value} {where.address}" for where in bound)
        devices = len(self._vault.devices())
        log.info("listening on %s; backups of %d devices in %s", addresses, devices, self._settings.store)
        _freeze()

    def _event(self, event: Event) -> None:
        match event:
            case GenerationCommitted() | BackupUnchanged():
                self._done["backups"] += 1
            case RestoreServed(component=name) if name:
                self._done["restored"] += 1
            case SessionEnded():
                self._done["unfinished"] += 1
        log_event(event, lambda device_id: device_label(self._vault, device_id))


def _server_id(store: Path) -> bytes:
    """The id by which devices know this server again: made once, kept in the store. Raises StorageError."""
    path = store / SERVER_ID_FILE
    with translated(f"cannot use {path}"):
        with suppress(FileNotFoundError, ValueError):
            known = bytes.fromhex(path.read_text(encoding="ascii"))
            if len(known) == SERVER_ID_BYTES:
                return known
        fresh = secrets.token_bytes(SERVER_ID_BYTES)
        write_whole(FileOps(), path, fresh.hex().encode())
    return fresh


def _on_signals(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """Ctrl-C and SIGTERM (on Windows Ctrl-C and Ctrl-Break) end the server in good order."""
    for name in ("SIGINT", "SIGTERM", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is None:
            continue
        try:
            loop.add_signal_handler(number, stop)
        except NotImplementedError:
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))
