# SPDX-License-Identifier: Apache-2.0
"""U-Boot's environment as it lies in flash: CRC-32 of all behind it, then texts that end with a zero (env/common.c)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

_CRC_BYTES = 4


def encode_environment(variables: Mapping[str, str], size_bytes: int) -> bytes:
    """As long as the region it fills; for one copy, not for two that take turns."""
    texts = b"".join(f"{name}={value}".encode() + b"\0" for name, value in sorted(variables.items())) + b"\0"
    assert _CRC_BYTES + len(texts) <= size_bytes, "too many variables"
    body = texts.ljust(size_bytes - _CRC_BYTES, b"\0")
    return zlib.crc32(body).to_bytes(_CRC_BYTES, "little") + body


def decode_environment(octets: bytes) -> dict[str, str] | None:
    """The variables, or None if the CRC is wrong."""
    body = octets[_CRC_BYTES:]
    if zlib.crc32(body) != int.from_bytes(octets[:_CRC_BYTES], "little"):
        return None
    texts = body[: body.index(b"\0\0")].decode().split("\0")
    return dict(text.partition("=")[::2] for text in texts)
