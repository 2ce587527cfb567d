# SPDX-License-Identifier: Apache-2.0
"""What the tests of unbrickd.seal share: a maker, a device of each policy, a generation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from unbrickd.model.geometry import EraseRun, Geometry
from unbrickd.model.manifest import ComponentKind, Generation, Manifest
from unbrickd.seal.identity import FirmwarePolicy, Identity
from unbrickd.seal.keys import DeviceKeys
from unbrickd.seal.maker import generate_maker_key, public_key_der, sign_firmware
from unbrickd.seal.manifest import build_manifest

MODEL = "acme-rx1"


def fixed_entropy(seed: str) -> Callable[[int], bytes]:
    """The same bytes at every call of one length; tests need no randomness here, only two different devices."""
    return lambda count: hashlib.shake_256(f"{seed} {count}".encode()).digest(count)


@pytest.fixture(scope="session")
def maker_pem() -> bytes:
    return generate_maker_key(2048)


@pytest.fixture(scope="session")
def maker_der(maker_pem: bytes) -> bytes:
    return public_key_der(maker_pem)


@pytest.fixture(scope="session")
def maker_device(maker_der: bytes) -> DeviceKeys:
    """A device that runs only what its maker signed; rollback floor 3."""
    return DeviceKeys.of(
        Identity.generate(
            model=MODEL,
            policy=FirmwarePolicy.MAKER,
            maker_key_der=maker_der,
            rollback_floor=3,
            entropy=fixed_entropy("maker device"),
        )
    )


@pytest.fixture(scope="session")
def owner_device() -> DeviceKeys:
    """A device that runs what it sealed itself; rollback floor 3."""
    return DeviceKeys.of(
        Identity.generate(
            model=MODEL, policy=FirmwarePolicy.OWNER, rollback_floor=3, entropy=fixed_entropy("owner device")
        )
    )


@pytest.fixture(scope="session")
def unsigned_firmware() -> Manifest:
    """Three erase blocks of two sizes, the last partly filled; rollback index 7."""
    octets = bytes(i % 251 for i in range(700))
    return build_manifest(
        component_id=1,
        kind=ComponentKind.FIRMWARE,
        name="firmware",
        version="2.4.1",
        geometry=Geometry((EraseRun(count=2, size_bytes=256), EraseRun(count=4, size_bytes=512))),
        image=lambda offset, length: octets[offset : offset + length],
        length_bytes=len(octets),
        content_keys=None,
        rollback_index=7,
    )


@pytest.fixture(scope="session")
def firmware(unsigned_firmware: Manifest, maker_pem: bytes) -> Manifest:
    """The same, signed by the maker."""
    return replace(
        unsigned_firmware,
        signature=sign_firmware(
            maker_pem,
            None,
            model=MODEL,
            version=unsigned_firmware.version,
            rollback_index=unsigned_firmware.rollback_index,
            image_digest=unsigned_firmware.image_digest,
        ),
    )


@pytest.fixture(scope="session")
def config(maker_device: DeviceKeys) -> Manifest:
    """A sealed configuration of 300 bytes in two erase blocks."""
    octets = b"ssid=test\n" * 30
    return build_manifest(
        component_id=2,
        kind=ComponentKind.CONFIG,
        name="config",
        version="",
        geometry=Geometry.uniform(total_bytes=1024, erase_block_bytes=256),
        image=lambda offset, length: octets[offset : offset + length],
        length_bytes=len(octets),
        content_keys=maker_device.content,
    )


@pytest.fixture(scope="session")
def generation(maker_device: DeviceKeys, firmware: Manifest, config: Manifest) -> Generation:
    return Generation(device_id=maker_device.identity.device_id, model=MODEL, number=5, components=(firmware, config))
