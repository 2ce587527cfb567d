# SPDX-License-Identifier: Apache-2.0
"""Typed, checked reading of a TOML text; whatever is wrong is a ConfigError that names file, line and key.

Every key must be asked for: `done` refuses the ones nobody knows, so that a misspelt key is not silently ignored.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from enum import Enum
from typing import NoReturn, TypeVar, cast

from unbrickd.errors import ConfigError

_UNITS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SIZE = re.compile(r"\s*(0x[0-9a-fA-F]+|[0-9]+)\s*([A-Za-z]*)\s*")
_E = TypeVar("_E", bound=Enum)


def parse_size(text: str) -> int:
    """Bytes in "65536", "0x10000", "64KiB" or "16 MiB". Raises ConfigError."""
    match = _SIZE.fullmatch(text)
    if match is None or match[2].upper() not in _UNITS:
        raise ConfigError(f"{text!r} is not a size", code="size", hint='write it like "64KiB", "16MiB" or 65536')
    return int(match[1], 0) * _UNITS[match[2].upper()]


def parse_toml(text: str, *, source: str) -> TomlTable:
    """The whole document. Raises ConfigError with the line where the syntax is wrong."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source}: {error}", code="toml", hint="mend the line named above") from error
    return TomlTable(values, source=source, text=text, path=())


class TomlTable:
    """One table of the document. `path` leads to it: names, and indexes within arrays of tables."""

    def __init__(self, values: dict[str, object], *, source: str, text: str, path: tuple[str | int, ...]) -> None:
        self._values = values
        self._source = source
        self._text = text
        self._path = path
        self._asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        self._asked.add(key)
        return key in self._values

    def fail(self, key: str | None, what: str, *, hint: str = "") -> NoReturn:
        """Raise the ConfigError for this key, or for the table itself."""
        path = self._path if key is None else (*self._path, key)
        name = ".".join(str(p) for p in path if isinstance(p, str)) or "the file"
        line = _line_of(self._text, path) or _line_of(self._text, self._path)
        where = f"{self._source}:{line}" if line else self._source
        raise ConfigError(f"{where}: {name}: {what}", code="layout", hint=hint)

    def string(self, key: str, default: str | None = None) -> str:
        return self._get(key, str, "a text", default)

    def boolean(self, key: str, default: bool | None = None) -> bool:
        return self._get(key, bool, "true or false", default)

    def integer(self, key: str, default: int | None = None, *, lowest: int = 0, highest: int = (1 << 32) - 1) -> int:
        value = self._get(key, int, "a whole number", default)
        if not lowest <= value <= highest:
            self.fail(key, f"{value} is not within {lowest} to {highest}")
        return value

    def seconds(self, key: str, default: float | None = None, *, off: bool = False) -> float | None:
        """A number of seconds of at least 0; `false` gives None where `off` allows to switch it off."""
        self._asked.add(key)
        value = self._values.get(key, default)
        if off and value is False:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            self.fail(key, "must be a number of seconds" + (", or false" if off else ""))
        return float(value)

    def size(self, key: str, default: int | None = None) -> int:
        self._asked.add(key)
        value = self._values.get(key, default)
        if isinstance(value, str):
            try:
                return parse_size(value)
            except ConfigError as error:
                self.fail(key, str(error), hint=error.hint)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            self.fail(key, "must be a size", hint='write it like "64KiB", "16MiB" or 65536')
        return value

    def choice(self, key: str, choices: dict[str, _E], default: str | None = None) -> _E:
        value = self.string(key, default)
        if value not in choices:
            self.fail(key, f"{value!r} is not one of {', '.join(choices)}")
        return choices[value]

    def strings(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        values = self._get(key, list, "a list of texts", list(default) if default is not None else None)
        if not all(isinstance(v, str) for v in values):
            self.fail(key, "must be a list of texts")
        return tuple(cast(list[str], values))

    def list(self, key: str) -> list[object]:
        return cast("list[object]", self._get(key, list, "a list", None))

    def table(self, key: str) -> TomlTable:
        """The table of that name; an empty one where there is none."""
        return self._sub(self._get(key, dict, "a table", {}), key)

    def tables(self, key: str) -> Iterator[TomlTable]:
        """The tables of `[[key]]`, in order."""
        for index, value in enumerate(self._get(key, list, "a list of tables", [])):
            if not isinstance(value, dict):
                self.fail(key, f"must be written as [[{key}]]")
            yield self._sub(value, key, index)

    def done(self) -> None:
        """Raises ConfigError for the first key that was never asked for."""
        for key in self._values:
            if key not in self._asked:
                known = ", ".join(sorted(self._asked))
                self.fail(key, "no such key", hint=f"known here: {known}")

    def _sub(self, values: dict[str, object], *path: str | int) -> TomlTable:
        return TomlTable(values, source=self._source, text=self._text, path=(*self._path, *path))

    _T = TypeVar("_T")

    def _get(self, key: str, kind: type[_T], what: str, default: _T | None) -> _T:
        self._asked.add(key)
        value = self._values.get(key, default)
        if value is None:
            self.fail(key, "is missing")
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.fail(key, f"must be {what}, not {value!r}")
        return value


_HEADER = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(#.*)?")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=")


def _line_of(text: str, path: tuple[str | int, ...]) -> int | None:
    """The line (from 1) on which this key, or the header of this table, stands; None if it is written otherwise."""
    here: tuple[str | int, ...] = ()
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.fullmatch(line)
        if header is not None:
            name = header[2]
            if header[1] == "[[":
                counts[name] = counts.get(name, -1) + 1
                here = (name, counts[name])
            else:
                here = tuple(name.split("."))
            if here == path:
                return number
        else:
            key = _KEY.match(line)
            if key is not None and (*here, key[1]) == path:
                return number
    return None
