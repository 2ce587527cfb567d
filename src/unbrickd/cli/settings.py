# SPDX-License-Identifier: Apache-2.0
"""Settings of the server: built-in, then the file, then the environment, then the flags; the last that speaks wins.

Whatever is wrong is a ConfigError that says which key it is and where it came from. Knows no command and opens nothing
but the settings file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import TypeVar, cast

import platformdirs

from unbrickd.adapters.net.device import split_address
from unbrickd.errors import ConfigError
from unbrickd.model.toml_table import TomlTable, parse_toml
from unbrickd.wire.framing import DEFAULT_PORT

PREFIX = "UNBRICKD_"
CONFIG_VARIABLE = "UNBRICKD_CONFIG"
FILE_NAME = "server.toml"
DEFAULT_UDP = (f"0.0.0.0:{DEFAULT_PORT}", f"[::]:{DEFAULT_PORT}")
MAX_PROCESSES = 2
_MANY = 1_000_000

_Closed = TypeVar("_Closed", bound=Enum)


class LogFormat(Enum):
    TEXT = "text"
    JSON = "json"


class LogLevel(Enum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def default_store() -> Path:
    """Where this platform keeps a user's data."""
    return Path(platformdirs.user_data_dir("unbrickd", appauthor=False)) / "store"


def default_config() -> Path:
    return Path(platformdirs.user_config_dir("unbrickd", appauthor=False)) / FILE_NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """udp, tcp: addresses as written, "host:port"; with neither given, UDP on all addresses (R1).

    keep: good generations of each device; max_devices: devices that are backed up here.
    """

    store: Path
    udp: tuple[str, ...] = ()
    tcp: tuple[str, ...] = ()
    keep: int = 5
    max_devices: int = 10_000
    new_devices: bool = True
    announce: bool = True
    processes: int = MAX_PROCESSES
    log_level: LogLevel = LogLevel.INFO
    log_format: LogFormat = LogFormat.TEXT

    def udp_addresses(self) -> tuple[tuple[str, int], ...]:
        """Raises ConfigError."""
        texts = self.udp or (() if self.tcp else DEFAULT_UDP)
        return tuple(split_address(text, default_port=DEFAULT_PORT) for text in texts)

    def tcp_addresses(self) -> tuple[tuple[str, int], ...]:
        """Raises ConfigError."""
        return tuple(split_address(text, default_port=DEFAULT_PORT) for text in self.tcp)


Layer = dict[str, object]
"""Settings that one source gives, by field of `Settings`, each of the field's type."""
KEYS = frozenset(field.name for field in fields(Settings))


def load_settings(flags: Mapping[str, object], environment: Mapping[str, str]) -> Settings:
    """Join the layers. flags: by field; None where a flag was not given; "config" names the file.

    Raises ConfigError: a file that was named but is not there, an unknown key, a value out of range.
    """
    named = flags.get("config") or environment.get(CONFIG_VARIABLE)
    path = Path(str(named)) if named else default_config()
    layer: Layer = {"store": default_store()}
    layer |= _from_file(path, required=bool(named))
    layer |= _from_environment(environment)
    layer |= _from_flags(flags)
    settings = Settings(**layer)  # type: ignore[arg-type]
    settings.udp_addresses()
    settings.tcp_addresses()
    return settings


def _from_file(path: Path, *, required: bool) -> Layer:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if not required:
            return {}
        raise ConfigError(f"there is no settings file {path}", code="settings", hint="check --config") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the settings file {path}: {error}", code="settings") from error
    table = parse_toml(text, source=str(path))
    readers: dict[str, Callable[[TomlTable, str], object]] = {
        "store": lambda t, key: Path(t.string(key)).expanduser(),
        "udp": lambda t, key: t.strings(key),
        "tcp": lambda t, key: t.strings(key),
        "keep": lambda t, key: t.integer(key, lowest=1, highest=_MANY),
        "max_devices": lambda t, key: t.integer(key, highest=_MANY),
        "new_devices": lambda t, key: t.boolean(key),
        "announce": lambda t, key: t.boolean(key),
        "processes": lambda t, key: t.integer(key, lowest=1, highest=MAX_PROCESSES),
        "log_level": lambda t, key: t.choice(key, {v.value: v for v in LogLevel}),
        "log_format": lambda t, key: t.choice(key, {v.value: v for v in LogFormat}),
    }
    layer = {key: read(table, key) for key, read in readers.items() if key in table}
    table.done()
    return layer


def _from_flags(flags: Mapping[str, object]) -> Layer:
    """Text is read as that of the environment; what is no text has its type already."""
    given = {key: value for key, value in flags.items() if key in KEYS and value is not None}
    return {
        key: _READERS[key](f"--{key.replace('_', '-')}", value) if isinstance(value, str) else value
        for key, value in given.items()
    }


def _from_environment(environment: Mapping[str, str]) -> Layer:
    layer: Layer = {}
    for key in KEYS:
        variable = PREFIX + key.upper()
        text = environment.get(variable, "")
        if text:
            layer[key] = _READERS[key](f"environment: {variable}", text)
    return layer


def _path(source: str, text: str) -> Path:
    if not text:
        raise _wrong(source, text, "a folder")
    return Path(text).expanduser()


def _addresses(_: str, text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _number(lowest: int, highest: int = _MANY) -> Callable[[str, str], int]:
    def read(source: str, text: str) -> int:
        if not text.isdecimal() or not lowest <= int(text) <= highest:
            raise _wrong(source, text, f"a whole number from {lowest} to {highest}")
        return int(text)

    return read


def _boolean(source: str, text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if text.lower() not in words:
        raise _wrong(source, text, "true or false")
    return words[text.lower()]


def _choice(kind: type[_Closed]) -> Callable[[str, str], _Closed]:
    def read(source: str, text: str) -> _Closed:
        known = {cast(str, value.value): value for value in kind}
        if text.lower() not in known:
            raise _wrong(source, text, f"one of {', '.join(known)}")
        return known[text.lower()]

    return read


def _wrong(source: str, text: str, wanted: str) -> ConfigError:
    return ConfigError(f"{source}={text!r} is not {wanted}", code="settings")


_READERS: dict[str, Callable[[str, str], object]] = {
    "store": _path,
    "udp": _addresses,
    "tcp": _addresses,
    "keep": _number(1),
    "max_devices": _number(0),
    "new_devices": _boolean,
    "announce": _boolean,
    "processes": _number(1, MAX_PROCESSES),
    "log_level": _choice(LogLevel),
    "log_format": _choice(LogFormat),
}
