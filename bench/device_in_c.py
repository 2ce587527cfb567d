# SPDX-License-Identifier: Apache-2.0
"""A restore to the recovery core in C, one device of bench/street_client.c with all of its flash erased."""

from __future__ import annotations

import json
import subprocess
import sys

from bench.compiled import compiled
from bench.processes import Figures, Where, here
from bench.street_cargo import Street
from unbrickd.recovery.fetch import AMPLE_AHEAD_BYTES

PATIENCE_S = 60.0
_FIGURES = ("cpu_s", "block_bytes_sent", "sent_bytes", "received_bytes", "payload_bytes")


def restore(street: Street, address: str, port: int, *, ring_frames: int = 0, where: Where = here) -> Figures:
    """From the first packet to the boot record, every byte compared. Ends the benchmark if it fails."""
    says = street.client_arguments(1, PATIENCE_S, ahead_bytes=AMPLE_AHEAD_BYTES, ring_frames=ring_frames)
    client = compiled("street_client", street.folder, core=True)
    done = subprocess.run(where(client, address, str(port), *says), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the device in C failed: {done.stderr.strip()}")
    told = json.loads(done.stdout)
    if None in told["seconds"]:
        sys.exit(f"the device in C is not done after {PATIENCE_S:g} s")
    return {key: float(told[key]) for key in _FIGURES} | {"seconds": float(told["seconds"][0])}
