# SPDX-License-Identifier: Apache-2.0
"""Writing an erase block in steps: how much at once."""

from __future__ import annotations

import pytest

from unbrickd.flash.device import ComponentSlot
from unbrickd.recovery.check import check_flash, decide
from unbrickd.recovery.fetch import AHEAD_BYTES, AMPLE_AHEAD_BYTES
from unbrickd.recovery.install import Installation
from unbrickd.sim.device import Layout, SimDevice, image

KIB = 1024


@pytest.mark.parametrize(
    ("ahead_bytes", "steps"),
    [
        (AHEAD_BYTES, [4 * KIB] * 16),
        (AHEAD_BYTES + 4 * 255, [4 * KIB] * 16),
        (100 * KIB, [25 * KIB, 25 * KIB, 14 * KIB]),
        (AMPLE_AHEAD_BYTES, [64 * KIB]),
        (0, [256] * 256),
    ],
)
def test_installation_writes_at_once_a_quarter_of_what_is_taken_ahead(ahead_bytes: int, steps: list[int]) -> None:
    router = SimDevice("router", layout=Layout(erase_block_bytes=64 * KIB, firmware_blocks=4))
    firmware = image(1, 4 * 64 * KIB)
    router.provision(firmware, image(2, 100))
    router.damage("firmware", 2)
    findings = check_flash(router.flash)
    assert findings.loaded is not None
    record = findings.loaded.record
    installation = Installation(
        router.flash,
        record.sealed,
        before=record,
        decision=decide(findings, button=False, boot_limit=0),
        ahead_bytes=ahead_bytes,
    )
    octets = firmware[2 * 64 * KIB : 3 * 64 * KIB]
    assert installation.step(2, octets) == 0, "erased"
    written = []
    while installation.erase_block_done(2) is None:
        written.append(installation.step(2, octets))
    assert written == steps
    assert router.contents("firmware") == firmware


def test_installation_of_what_flash_was_compared_with_does_not_read_all_of_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    router = SimDevice("router", layout=Layout(erase_block_bytes=64 * KIB, firmware_blocks=4))
    router.provision(image(1, 4 * 64 * KIB), image(2, 100))
    router.damage("firmware", 2)
    findings = check_flash(router.flash)
    assert findings.loaded is not None
    record = findings.loaded.record
    decision = decide(findings, button=False, boot_limit=0)
    again = Installation(router.flash, record.sealed, before=record, decision=decision)
    monkeypatch.setattr(ComponentSlot, "damaged", lambda *_: pytest.fail("compared again"))
    known = Installation(router.flash, record.sealed, before=record, found=findings, decision=decision)
    assert known.next == again.next is not None
    assert known.summary == again.summary
