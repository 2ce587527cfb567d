# SPDX-License-Identifier: Apache-2.0
"""A device and its generations, for the tests of the boot record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest

from unbrickd.model.geometry import Geometry
from unbrickd.model.manifest import ComponentKind, Generation, Manifest, SealedGeneration
from unbrickd.seal.generation import seal_generation
from unbrickd.seal.identity import FirmwarePolicy, Identity
from unbrickd.seal.keys import DeviceKeys

MakeSealed = Callable[..., SealedGeneration]


def make_keys(label: bytes) -> DeviceKeys:
    return DeviceKeys.of(
        Identity.generate(
            model="acme-rx1",
            policy=FirmwarePolicy.OWNER,
            maker_key_der=b"",
            rollback_floor=0,
            entropy=lambda count: hashlib.shake_128(label).digest(count),
        )
    )


@pytest.fixture(scope="session")
def keys() -> DeviceKeys:
    return make_keys(b"device")


@pytest.fixture(scope="session")
def other_keys() -> DeviceKeys:
    return make_keys(b"another device")


@pytest.fixture(scope="session")
def make_sealed(keys: DeviceKeys) -> MakeSealed:
    """make_sealed(number, erase_blocks=1): a generation with one component of so many erase blocks."""

    def make(number: int, *, erase_blocks: int = 1) -> SealedGeneration:
        digests = tuple(hashlib.sha256(f"{number}:{i}".encode()).digest() for i in range(erase_blocks))
        manifest = Manifest(
            component_id=1,
            kind=ComponentKind.FIRMWARE,
            name="firmware",
            version=f"1.{number}",
            length_bytes=erase_blocks * 4096,
            geometry=Geometry.uniform(total_bytes=erase_blocks * 4096, erase_block_bytes=4096),
            sealed=False,
            digests=digests,
            transfer_digests=digests,
        )
        identity = keys.identity
        return seal_generation(
            keys,
            Generation(device_id=identity.device_id, model=identity.model, number=number, components=(manifest,)),
        )

    return make
