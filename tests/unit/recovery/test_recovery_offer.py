# SPDX-License-Identifier: Apache-2.0
"""The gate between a server and the flash: which offers are taken, why a component is fetched, what is recorded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unbrickd.errors import IntegrityError
from unbrickd.model.manifest import ComponentKind, Manifest, SealedGeneration
from unbrickd.recovery.check import Decision, Reason
from unbrickd.recovery.offer import Choice, check_offer, choose, next_record, open_document
from unbrickd.seal.generation import good_seal
from unbrickd.sim.device import image
from unbrickd.sim.household import Household
from unbrickd.wire.messages import RestoreAck

NAMED_1 = Decision(reason=Reason.DAMAGED, named=1)
ANY = Decision(reason=Reason.BUTTON)


@pytest.fixture
def home() -> Household:
    return Household()


@pytest.fixture
def sealed(home: Household) -> SealedGeneration:
    return home.router.software.loaded().record.sealed


def offer_of(home: Household, sealed: SealedGeneration, *, seal: bool) -> RestoreAck:
    return RestoreAck(
        generation=sealed.generation.number,
        document_length_bytes=len(sealed.document),
        document_digest=sealed.digest,
        good_seal=good_seal(home.router.flash.keys, sealed) if seal else None,
    )


def test_offer_of_the_very_document_that_is_recorded_and_asked_for_needs_no_seal(
    home: Household, sealed: SealedGeneration
) -> None:
    check_offer(home.router.flash, offer_of(home, sealed, seal=False), held=sealed, decision=NAMED_1)


@pytest.mark.parametrize("decision", [ANY, NAMED_1])
def test_offer_with_the_good_seal_is_taken(home: Household, sealed: SealedGeneration, decision: Decision) -> None:
    check_offer(home.router.flash, offer_of(home, sealed, seal=True), held=None, decision=decision)


def test_offer_that_must_not_be_taken_is_refused(home: Household, sealed: SealedGeneration) -> None:
    whole = offer_of(home, sealed, seal=True)
    cases: list[tuple[RestoreAck, SealedGeneration | None, Decision, str]] = [
        (offer_of(home, sealed, seal=False), None, NAMED_1, "good-seal"),
        (offer_of(home, sealed, seal=False), sealed, ANY, "good-seal"),
        (replace(whole, good_seal=bytes(32)), None, ANY, "good-seal"),
        (replace(whole, generation=2), None, ANY, "good-seal"),
        (replace(whole, document_digest=bytes(32)), sealed, NAMED_1, "good-seal"),
        (replace(whole, document_length_bytes=0), None, ANY, "generation"),
        (replace(whole, document_length_bytes=4097), None, ANY, "layout"),
        (whole, sealed, Decision(reason=Reason.BOOT_FAILED, rejected=(1, 1)), "rejected"),
        (whole, sealed, Decision(reason=Reason.DAMAGED, named=1, rejected=(1, 3)), "rejected"),
    ]
    for offer, held, decision, code in cases:
        with pytest.raises(IntegrityError) as refused:
            check_offer(home.router.flash, offer, held=held, decision=decision)
        assert refused.value.code == code, (offer, decision)


def test_open_document_other_than_offered_is_refused(home: Household, sealed: SealedGeneration) -> None:
    keys, offer = home.router.flash.keys, offer_of(home, sealed, seal=True)
    assert open_document(keys, offer, sealed.document) == sealed
    with pytest.raises(IntegrityError, match="not the one it offered"):
        open_document(keys, offer, sealed.document[:-1] + b"\0")
    with pytest.raises(IntegrityError, match="another number"):
        open_document(keys, replace(offer, generation=2), sealed.document)
    other = Household(1).router
    other_keys = type(other)("other").flash.keys
    with pytest.raises(IntegrityError, match="not sealed by this device"):
        open_document(other_keys, offer, sealed.document)


def test_choose_of_a_component_says_why(sealed: SealedGeneration) -> None:
    firmware, config = sealed.generation.components
    newer = replace(firmware, version="2.0", digests=(bytes(32),) * 8, transfer_digests=(bytes(32),) * 8)
    rebuilt = replace(newer, version=firmware.version)
    changed = replace(config, version="generation 2", transfer_digests=(bytes(32),) * 2)
    table: list[tuple[Manifest | None, Manifest, bool, Choice]] = [
        (firmware, firmware, False, Choice.KEEP),
        (newer, firmware, False, Choice.KEEP),
        (firmware, firmware, True, Choice.DAMAGED),
        (None, firmware, True, Choice.DAMAGED),
        (newer, firmware, True, Choice.VERSION),
        (rebuilt, firmware, True, Choice.CONTENT),
        (config, config, True, Choice.DAMAGED),
        (changed, config, True, Choice.CONTENT),
    ]
    assert [choose(recorded, wanted, differs=differs) for recorded, wanted, differs, _ in table] == [
        c for *_, c in table
    ]
    assert config.kind is ComponentKind.CONFIG


def test_next_record_keeps_counter_and_floor_and_never_lowers_them(home: Household, sealed: SealedGeneration) -> None:
    home.router.install_firmware(image(9, 5000), "2.0")
    before = replace(home.router.software.loaded().record, counter=7, rollback_floor=3)
    record = next_record(before, sealed, rejected=(2, 2))
    assert (record.counter, record.rollback_floor, record.good) == (7, 3, True)
    assert (record.rejected_from, record.rejected_to, record.sealed) == (2, 2, sealed)
    first = next_record(None, sealed, rejected=(0, 0))
    assert (first.counter, first.rollback_floor) == (1, 0)


def test_next_record_raises_the_floor_to_the_firmware_that_is_good(sealed: SealedGeneration) -> None:
    firmware, config = sealed.generation.components
    generation = replace(sealed.generation, components=(replace(firmware, rollback_index=5), config))
    record = next_record(None, replace(sealed, generation=generation), rejected=(0, 0))
    assert record.rollback_floor == 5
