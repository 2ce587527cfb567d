# SPDX-License-Identifier: Apache-2.0
"""unbrickd.seal.manifest: from image to manifest, and whether flash matches it."""

from __future__ import annotations

import hashlib

import pytest

from unbrickd.errors import ConfigError, IntegrityError
from unbrickd.model.geometry import EraseRun, Geometry
from unbrickd.model.manifest import ComponentKind, Manifest
from unbrickd.seal.content import open_erase_block, seal_erase_block
from unbrickd.seal.keys import ContentKeys
from unbrickd.seal.manifest import build_manifest, verify_erase_block

KEYS = ContentKeys(siv=b"s" * 32, enc=b"e" * 32)
PARTITION = Geometry((EraseRun(count=2, size_bytes=256), EraseRun(count=2, size_bytes=512)))
IMAGE = bytes(i % 249 for i in range(1536))


def _build(length: int, keys: ContentKeys | None = None, image: bytes = IMAGE) -> Manifest:
    return build_manifest(
        component_id=4,
        kind=ComponentKind.OTHER,
        name="part",
        version="1",
        geometry=PARTITION,
        image=lambda offset, count: image[offset : offset + count],
        length_bytes=length,
        content_keys=keys,
    )


def _pieces(manifest: Manifest) -> list[bytes]:
    return [IMAGE[block.offset_bytes :][:content] for block, content in manifest.erase_blocks()]


@pytest.mark.parametrize(
    ("length", "runs"),
    [
        (1, [(1, 256)]),
        (256, [(1, 256)]),
        (257, [(2, 256)]),
        (512, [(2, 256)]),
        (513, [(2, 256), (1, 512)]),
        (1536, [(2, 256), (2, 512)]),
    ],
)
@pytest.mark.parametrize("keys", [None, KEYS], ids=["open", "sealed"])
def test_build_manifest_of_any_length_covers_just_its_erase_blocks_and_matches_them(
    length: int, runs: list[tuple[int, int]], keys: ContentKeys | None
) -> None:
    manifest = _build(length, keys)
    assert [(run.count, run.size_bytes) for run in manifest.geometry.runs] == runs
    for index, piece in enumerate(_pieces(manifest)):
        assert verify_erase_block(manifest, index, piece, keys)
        assert verify_erase_block(manifest, index, memoryview(bytearray(piece)), keys)


def test_build_manifest_open_has_one_table_of_sha256() -> None:
    manifest = _build(700)
    assert not manifest.sealed
    assert manifest.digests == manifest.transfer_digests
    assert list(manifest.digests) == [hashlib.sha256(piece).digest() for piece in _pieces(manifest)]


def test_build_manifest_sealed_has_keyed_digests_and_those_of_the_ciphertext() -> None:
    manifest = _build(700, KEYS)
    assert manifest.sealed
    for index, piece in enumerate(_pieces(manifest)):
        digest, ciphertext = seal_erase_block(KEYS, component_id=4, index=index, plaintext=piece)
        assert manifest.digests[index] == digest
        assert manifest.transfer_digests[index] == hashlib.sha256(ciphertext).digest()
        assert open_erase_block(KEYS, component_id=4, index=index, digest=digest, ciphertext=ciphertext) == piece


def test_build_manifest_of_an_image_larger_than_its_partition_is_refused() -> None:
    with pytest.raises(ConfigError):
        _build(1537, image=bytes(2000))


@pytest.mark.parametrize("keys", [None, KEYS], ids=["open", "sealed"])
def test_build_manifest_of_an_image_that_ends_too_early_is_refused(keys: ContentKeys | None) -> None:
    with pytest.raises(IntegrityError, match="ends at byte 600 of 700"):
        _build(700, keys, image=IMAGE[:600])


@pytest.mark.parametrize("keys", [None, KEYS], ids=["open", "sealed"])
def test_verify_erase_block_with_any_byte_altered_or_missing_does_not_match(keys: ContentKeys | None) -> None:
    manifest = _build(700, keys)
    for index, piece in enumerate(_pieces(manifest)):
        for at in range(len(piece)):
            assert not verify_erase_block(manifest, index, piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :], keys)
        assert not verify_erase_block(manifest, index, piece[:-1], keys)
        assert not verify_erase_block(manifest, index, piece + b"\xff", keys)
        assert not verify_erase_block(manifest, index, b"", keys)
        assert not verify_erase_block(manifest, index, b"\xff" * len(piece), keys)


def test_verify_erase_block_at_another_index_does_not_match() -> None:
    manifest = _build(512)
    assert not verify_erase_block(manifest, 1, _pieces(manifest)[0], None)


def test_verify_erase_block_sealed_without_its_keys_is_refused_and_with_others_does_not_match() -> None:
    manifest = _build(512, KEYS)
    piece = _pieces(manifest)[0]
    with pytest.raises(ConfigError):
        verify_erase_block(manifest, 0, piece, None)
    assert not verify_erase_block(manifest, 0, piece, ContentKeys(siv=b"x" * 32, enc=KEYS.enc))
