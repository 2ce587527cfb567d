# SPDX-License-Identifier: Apache-2.0
"""Cookies: proof that a device receives at the address it writes from, kept by the device alone (spec §4.2).

Knows no sessions. Holds nothing per device, so a flood of Probes costs no memory.
"""

from __future__ import annotations

import hmac
import struct

from unbrickd.model.peer import Peer
from unbrickd.wire.messages import COOKIE_BYTES

SLOT_S = 60.0


class Cookies:
    """Makes and checks cookies under one secret (at least 16 bytes; a new one at every start does no harm)."""

    def __init__(self, secret: bytes) -> None:
        assert len(secret) >= 16
        self._secret = secret

    def make(self, peer: Peer, device_id: bytes, now_s: float) -> bytes:
        return self._of_slot(peer, device_id, int(now_s // SLOT_S))

    def check(self, cookie: bytes, peer: Peer, device_id: bytes, now_s: float) -> bool:
        """Whether this device got this cookie at this address in this slot of time or the one before."""
        slot = int(now_s // SLOT_S)
        # Both are always computed, so that the time taken does not tell which slot matched.
        fresh = hmac.compare_digest(cookie, self._of_slot(peer, device_id, slot))
        recent = hmac.compare_digest(cookie, self._of_slot(peer, device_id, slot - 1))
        return fresh or recent

    def _of_slot(self, peer: Peer, device_id: bytes, slot: int) -> bytes:
        text = struct.pack(">q", slot) + device_id + peer.encode()
        return hmac.digest(self._secret, text, "sha256")[:COOKIE_BYTES]
