# SPDX-License-Identifier: Apache-2.0
"""What equal devices share."""

from __future__ import annotations

import gc
import random

from unbrickd.server.cache import EraseBlockCache
from unbrickd.sim.trace import ERASE_BLOCK_BYTES, FIRMWARE, TracedDevice, TracedServer
from unbrickd.store.vault import StoredGeneration

FIRMWARE_1 = random.Random(1).randbytes(5 * ERASE_BLOCK_BYTES)


def stored(lab: TracedServer, name: str, config: bytes) -> StoredGeneration:
    device = TracedDevice(lab, name)
    device.make(1, FIRMWARE_1, config)
    device.back_up()
    newest = lab.vault.newest(device.device_id)
    assert newest is not None
    return newest


def test_cache_gives_equal_devices_one_manifest_of_their_firmware(lab: TracedServer) -> None:
    cache = EraseBlockCache(lab.vault, 0)
    one, other = stored(lab, "a", b"its own"), stored(lab, "bb", b"another")
    assert one.generation.component(FIRMWARE) is not other.generation.component(FIRMWARE)
    shared = [cache.share(each) for each in (one, other)]
    assert shared == [one, other], "it is what it was"
    assert shared[0].generation.component(FIRMWARE) is shared[1].generation.component(FIRMWARE)
    del one, other, shared
    gc.collect()
    assert not cache._manifests, "and nothing is kept when nobody uses it"


def test_cache_holds_no_more_erase_blocks_than_it_may(lab: TracedServer) -> None:
    cache, held = EraseBlockCache(lab.vault, 2 * ERASE_BLOCK_BYTES), stored(lab, "a", b"c")
    manifest = held.generation.component(FIRMWARE)
    assert manifest is not None
    for index in (0, 1, 2, 1, 3):
        octets = cache.read(held, FIRMWARE, manifest.image_digest, index)
        assert octets == FIRMWARE_1[index * ERASE_BLOCK_BYTES :][:ERASE_BLOCK_BYTES]
    assert [index for _, index in cache._octets] == [1, 3]
