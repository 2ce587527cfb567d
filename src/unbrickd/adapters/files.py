# SPDX-License-Identifier: Apache-2.0
"""Small files that the user names: read with a bound, written once and whole. Knows nothing of what they hold."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from unbrickd.errors import ConfigError

_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""What file systems without hard links answer, as those of USB sticks."""


def read_file(path: Path, *, limit_bytes: int) -> bytes:
    """The whole file. Raises ConfigError if it cannot be read or is longer than that."""
    try:
        with path.open("rb") as file:
            octets = file.read(limit_bytes + 1)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}", code="not-readable", hint="check the name and its permissions"
        ) from error
    if len(octets) > limit_bytes:
        raise ConfigError(f"{path} is longer than {limit_bytes} bytes", code="too-big", hint="is it the right file?")
    return octets


def read_text(path: Path, *, limit_bytes: int) -> str:
    """The whole file as UTF-8. Raises ConfigError as `read_file`, and if it is not text."""
    try:
        return read_file(path, limit_bytes=limit_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text in UTF-8", code="not-text", hint="is it the right file?") from error


def first_line(path: Path, *, limit_bytes: int) -> str:
    """The first line, without white space around it. Raises ConfigError as `read_text`."""
    return next(iter(read_text(path, limit_bytes=limit_bytes).splitlines()), "").strip()


def write_new(path: Path, octets: bytes, *, secret: bool = False) -> None:
    """Make a new file, whole and durable when it returns. secret: only its owner may read it, from its first byte on.

    Raises ConfigError: `exists` if there is one already, which stays as it is; `not-writable`.
    A power cut leaves no file of that name, or all of it.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(temporary, flags, 0o600 if secret else 0o644), "wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        _rename_to_new(temporary, path)
    except FileExistsError as error:
        raise ConfigError(
            f"{path} is there already", code="exists", hint="remove it first if it is of no use, or choose another name"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}", code="not-writable", hint="check its folder's permissions"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _rename_to_new(temporary: Path, path: Path) -> None:
    """Raises FileExistsError, where a plain rename would replace what is there."""
    if os.name == "nt":
        temporary.rename(path)
        return
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if path.exists():
            raise FileExistsError from error
        temporary.rename(path)
