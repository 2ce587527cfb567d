# SPDX-License-Identifier: Apache-2.0
"""A restore to the recovery core in C, one device of bench/street_client.c with all of its flash erased."""

from __future__ import annotations

import sys

from bench.compiled import compiled
from bench.crowd import at_once
from bench.processes import Figures, Where, here
from bench.street_cargo import Street
from unbrickd.recovery.fetch import AMPLE_AHEAD_BYTES

PATIENCE_S = 60.0
_FIGURES = ("cpu_s", "block_bytes_sent", "sent_bytes", "received_bytes", "payload_bytes")


def restore(street: Street, address: str, port: int, *, ring_frames: int = 0, where: Where = here) -> Figures:
    """From the first packet to the boot record, every byte compared. Ends the benchmark if it fails."""
    says = street.client_arguments(range(1), PATIENCE_S, ahead_bytes=AMPLE_AHEAD_BYTES, ring_frames=ring_frames)
    client = compiled("street_client", street.folder, core=True)
    [seconds], told = at_once(where(client, address, str(port), *says))
    if seconds is None:
        sys.exit(f"the device in C is not done after {PATIENCE_S:g} s")
    return {key: told[key] for key in _FIGURES} | {"seconds": seconds}
