# SPDX-License-Identifier: Apache-2.0
"""The few errors of the project: who erred, and whether trying again helps.

Adapters translate the errors of the operating system into these, once, at the edge. What a peer sends may only ever
raise `RemoteProtocolError`. What the user sees is `str(error)`, then the hint.
"""

from __future__ import annotations


class UnbrickdError(Exception):
    """Base of all errors that a caller is expected to handle.

    code: a short stable word for scripts and logs; retry: whether the same call may succeed later, unchanged;
    hint: what the user can do next ("" where there is nothing to do).
    """

    exit_code = 1

    def __init__(self, message: str, *, code: str, retry: bool = False, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.retry = retry
        self.hint = hint


class ProtocolError(UnbrickdError):
    """A message or its order breaks spec/protocol.md; raised as one of the two below, which say who erred."""

    exit_code = 6


class LocalProtocolError(ProtocolError):
    """Our own code asked for something the protocol does not allow: a mistake of ours."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something the protocol does not allow. `wire_code` is the code to answer with (spec §4.14)."""

    def __init__(
        self, message: str, *, code: str = "malformed", wire_code: int = 2, retry: bool = False, hint: str = ""
    ) -> None:
        super().__init__(message, code=code, retry=retry, hint=hint)
        self.wire_code = wire_code


class IntegrityError(UnbrickdError):
    """Bytes are not what their digest, seal or signature says."""

    exit_code = 5


class StorageError(UnbrickdError):
    """The store of the server failed: disk full, not writable, corrupt catalogue, rotten blob."""

    exit_code = 4


class FlashError(UnbrickdError):
    """The flash refused: protected sector, not erased, worn out, read back wrong."""

    exit_code = 7


class ConfigError(UnbrickdError):
    """What the user gave is wrong: a flag, a layout file, a file that does not fit."""

    exit_code = 2
