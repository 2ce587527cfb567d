# SPDX-License-Identifier: Apache-2.0
"""Devices that the catalogue is to note as seen: all that came within a second, by one durable write."""

from __future__ import annotations

from contextlib import suppress

from unbrickd.errors import StorageError
from unbrickd.store.vault import Vault

NOTE_AFTER_S = 1.0


class Sightings:
    """due_s: when they are to be noted."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._seen: set[bytes] = set()
        self.due_s = float("inf")

    def add(self, device_id: bytes, now_s: float) -> None:
        self._seen.add(device_id)
        self.due_s = min(self.due_s, now_s + NOTE_AFTER_S)

    def note(self) -> None:
        """For the list of devices only: a full or broken disk must not keep a device from its restore."""
        seen, self._seen, self.due_s = self._seen, set(), float("inf")
        if seen:
            with suppress(StorageError):
                self._vault.saw(seen)
