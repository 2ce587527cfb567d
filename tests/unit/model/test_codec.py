# SPDX-License-Identifier: Apache-2.0
"""Generation documents: what is encoded decodes to the same, and bytes of any origin raise IntegrityError at worst."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbrickd.errors import IntegrityError
from unbrickd.model.codec import MAC_BYTES, decode_generation, encode_generation
from unbrickd.model.geometry import EraseRun, Geometry
from unbrickd.model.manifest import ComponentKind, Generation, Manifest

digest = st.binary(min_size=32, max_size=32)


@st.composite
def manifests(draw: st.DrawFn, component_id: int) -> Manifest:
    runs = draw(st.lists(st.tuples(st.integers(1, 3), st.sampled_from([256, 4096])), min_size=1, max_size=3))
    geometry = Geometry(tuple(EraseRun(count=c, size_bytes=s) for c, s in runs))
    last = geometry.erase_block(geometry.count - 1)
    table = tuple(draw(digest) for _ in range(geometry.count))
    sealed = draw(st.booleans())
    return Manifest(
        component_id=component_id,
        kind=draw(st.sampled_from(ComponentKind)),
        name=f"c-{component_id}",
        version=draw(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=16)),
        length_bytes=draw(st.integers(last.offset_bytes + 1, geometry.total_bytes)),
        geometry=geometry,
        sealed=sealed,
        digests=table,
        transfer_digests=tuple(draw(digest) for _ in table) if sealed else table,
        rollback_index=draw(st.integers(0, (1 << 32) - 1)),
        signature=draw(st.binary(max_size=512)),
    )


@st.composite
def generations(draw: st.DrawFn) -> Generation:
    ids = sorted(draw(st.sets(st.integers(1, 255), min_size=1, max_size=3)))
    return Generation(
        device_id=draw(st.binary(min_size=16, max_size=16)),
        model=draw(st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=32)),
        number=draw(st.integers(1, (1 << 32) - 1)),
        components=tuple(draw(manifests(i)) for i in ids),
    )


@given(generations())
def test_codec_round_trip_gives_the_same_generation(generation: Generation) -> None:
    document = encode_generation(generation) + bytes(MAC_BYTES)
    decoded = decode_generation(document)
    assert decoded.generation == generation
    assert decoded.document == document


@given(generations(), st.data())
def test_codec_any_truncation_is_refused(generation: Generation, data: st.DataObject) -> None:
    document = encode_generation(generation) + bytes(MAC_BYTES)
    length = data.draw(st.integers(0, len(document) - 1))
    with pytest.raises(IntegrityError):
        decode_generation(document[:length])
    with pytest.raises(IntegrityError):
        decode_generation(document + b"x")


@given(generations(), st.data())
def test_codec_any_changed_byte_is_refused_or_shows(generation: Generation, data: st.DataObject) -> None:
    """Either IntegrityError, or a value that encodes back to the very bytes: no byte is silently dropped.

    Reserved fields are the exception: they are ignored, so that they can be used one day.
    """
    document = bytearray(encode_generation(generation) + bytes(MAC_BYTES))
    at = data.draw(st.integers(0, len(document) - MAC_BYTES - 1))
    document[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(IntegrityError):
        decoded = decode_generation(bytes(document))
        again = encode_generation(decoded.generation)
        different = [i for i, (a, b) in enumerate(zip(again, document, strict=False)) if a != b]
        assert len(again) == len(document) - MAC_BYTES
        assert different in ([], [at])


@given(st.binary(max_size=400))
def test_codec_garbage_raises_nothing_but_integrity_error(octets: bytes) -> None:
    for document in (octets, b"UBGN\x01\x01\0\0" + len(octets).to_bytes(4, "big") + octets):
        with contextlib.suppress(IntegrityError):
            decode_generation(document)
