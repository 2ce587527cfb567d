# SPDX-License-Identifier: Apache-2.0
"""unbrickd.seal.content: sealing of erase blocks."""

from __future__ import annotations

import pytest

from unbrickd.errors import IntegrityError
from unbrickd.seal.content import keyed_digest, open_erase_block, seal_erase_block
from unbrickd.seal.keys import ContentKeys

KEYS = ContentKeys(siv=b"s" * 32, enc=b"e" * 32)
OTHER = ContentKeys(siv=b"t" * 32, enc=b"f" * 32)
PLAINTEXT = b"wpa-psk=correct horse\n" * 20


@pytest.mark.parametrize("length", [1, 15, 16, 17, 256, 65536])
def test_sealed_erase_block_opens_to_its_plaintext_and_keeps_its_length(length: int) -> None:
    plaintext = bytes(i % 253 for i in range(length))
    digest, ciphertext = seal_erase_block(KEYS, component_id=2, index=9, plaintext=plaintext)
    assert len(ciphertext) == length
    assert open_erase_block(KEYS, component_id=2, index=9, digest=digest, ciphertext=ciphertext) == plaintext


def test_sealed_erase_block_does_not_show_its_plaintext() -> None:
    _, ciphertext = seal_erase_block(KEYS, component_id=2, index=0, plaintext=PLAINTEXT)
    assert b"wpa" not in ciphertext


def test_seal_erase_block_takes_any_buffer() -> None:
    sealed = seal_erase_block(KEYS, component_id=2, index=0, plaintext=PLAINTEXT)
    for buffer in (bytearray(PLAINTEXT), memoryview(PLAINTEXT)):
        assert seal_erase_block(KEYS, component_id=2, index=0, plaintext=buffer) == sealed
        assert keyed_digest(KEYS, component_id=2, index=0, plaintext=buffer) == sealed[0]
    digest, ciphertext = sealed
    for held in (bytearray(ciphertext), memoryview(ciphertext)):
        assert open_erase_block(KEYS, component_id=2, index=0, digest=digest, ciphertext=held) == PLAINTEXT


def test_seal_erase_block_is_deterministic_and_bound_to_place_and_key() -> None:
    def seal(keys: ContentKeys, component_id: int, index: int) -> tuple[bytes, bytes]:
        return seal_erase_block(keys, component_id=component_id, index=index, plaintext=PLAINTEXT)

    assert seal(KEYS, 2, 0) == seal(KEYS, 2, 0)
    places = [seal(KEYS, 2, 0), seal(KEYS, 2, 1), seal(KEYS, 3, 0), seal(OTHER, 2, 0)]
    assert len({digest for digest, _ in places}) == len({ciphertext for _, ciphertext in places}) == 4


def test_open_erase_block_altered_anywhere_is_refused() -> None:
    digest, ciphertext = seal_erase_block(KEYS, component_id=2, index=0, plaintext=PLAINTEXT)

    def refused(d: bytes, c: bytes) -> None:
        with pytest.raises(IntegrityError):
            open_erase_block(KEYS, component_id=2, index=0, digest=d, ciphertext=c)

    for at in range(len(ciphertext)):
        refused(digest, ciphertext[:at] + bytes([ciphertext[at] ^ 1]) + ciphertext[at + 1 :])
    for at in range(len(digest)):
        refused(digest[:at] + bytes([digest[at] ^ 1]) + digest[at + 1 :], ciphertext)
    refused(digest, ciphertext[:-1])
    refused(digest, ciphertext + b"\0")
    refused(digest[:31], ciphertext)


@pytest.mark.parametrize(
    ("keys", "component_id", "index"),
    [
        (OTHER, 2, 0),
        (ContentKeys(siv=KEYS.siv, enc=OTHER.enc), 2, 0),
        (ContentKeys(siv=OTHER.siv, enc=KEYS.enc), 2, 0),
        (KEYS, 3, 0),
        (KEYS, 2, 1),
    ],
)
def test_open_erase_block_with_other_keys_or_at_another_place_is_refused(
    keys: ContentKeys, component_id: int, index: int
) -> None:
    digest, ciphertext = seal_erase_block(KEYS, component_id=2, index=0, plaintext=PLAINTEXT)
    with pytest.raises(IntegrityError):
        open_erase_block(keys, component_id=component_id, index=index, digest=digest, ciphertext=ciphertext)
