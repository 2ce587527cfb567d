# SPDX-License-Identifier: Apache-2.0
"""What equal routers share: erase blocks that were read and verified, kept for a while, and manifests while in use.

Knows no devices: images are named by their digest. Bounded in bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from weakref import WeakValueDictionary

from unbrickd.model.manifest import Manifest
from unbrickd.store.vault import StoredGeneration, Vault


class EraseBlockCache:
    """Least recently used first out; holds at most `limit_bytes`, or one erase block if that is more."""

    def __init__(self, vault: Vault, limit_bytes: int) -> None:
        self._vault = vault
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._octets: OrderedDict[tuple[bytes, int], bytes] = OrderedDict()
        self._manifests: WeakValueDictionary[bytes, Manifest] = WeakValueDictionary()

    def share(self, stored: StoredGeneration) -> StoredGeneration:
        """The same, with the tables of digests that others in use have already: most of what a session keeps."""
        generation = stored.generation
        components = tuple(self._shared(manifest) for manifest in generation.components)
        return replace(stored, sealed=replace(stored.sealed, generation=replace(generation, components=components)))

    def _shared(self, manifest: Manifest) -> Manifest:
        known = self._manifests.setdefault(manifest.image_digest, manifest)
        return known if known == manifest else manifest

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
