# SPDX-License-Identifier: Apache-2.0
"""Erase blocks that were read and verified, kept for a while: a street of equal routers restores from one reading.

Knows no devices: images are named by their digest, so equal devices share. Bounded in bytes.
"""

from __future__ import annotations

from collections import OrderedDict

from unbrickd.store.vault import StoredGeneration, Vault


class EraseBlockCache:
    """Least recently used first out; holds at most `limit_bytes`, or one erase block if that is more."""

    def __init__(self, vault: Vault, limit_bytes: int) -> None:
        self._vault = vault
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._octets: OrderedDict[tuple[bytes, int], bytes] = OrderedDict()

    def read(self, stored: StoredGeneration, component_id: int, image_digest: bytes, index: int) -> bytes:
        """The verified bytes of one erase block. Raises StorageError, "rotten" among others."""
        key = image_digest, index
        if key in self._octets:
            self._octets.move_to_end(key)
            return self._octets[key]
        octets = self._vault.read_erase_block(stored, component_id, index)
        self._octets[key] = octets
        self._held_bytes += len(octets)
        while self._held_bytes > self._limit_bytes and len(self._octets) > 1:
            _, oldest = self._octets.popitem(last=False)
            self._held_bytes -= len(oldest)
        return octets
