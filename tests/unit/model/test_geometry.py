# SPDX-License-Identifier: Apache-2.0
"""Geometry: erase blocks of uniform and mixed chips, and partitions cut out of them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbrickd.errors import ConfigError
from unbrickd.model.geometry import MAX_ERASE_BLOCKS, MAX_RUNS, EraseRun, Geometry

runs = st.builds(EraseRun, count=st.integers(1, 40), size_bytes=st.sampled_from([256, 512, 4096, 65536]))
geometries = st.builds(lambda r: Geometry(tuple(r)), st.lists(runs, min_size=1, max_size=MAX_RUNS))

MIXED = Geometry((EraseRun(count=8, size_bytes=8192), EraseRun(count=3, size_bytes=65536)))


@given(geometries)
def test_geometry_erase_blocks_lie_end_to_end(geometry: Geometry) -> None:
    blocks = list(geometry)
    assert [b.index for b in blocks] == list(range(geometry.count))
    assert blocks[0].offset_bytes == 0
    assert all(a.end_bytes == b.offset_bytes for a, b in itertools.pairwise(blocks))
    assert blocks[-1].end_bytes == geometry.total_bytes


@given(geometries, st.data())
def test_geometry_at_any_byte_gives_the_block_that_holds_it(geometry: Geometry, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, geometry.total_bytes - 1))
    block = geometry.at(offset)
    assert block.offset_bytes <= offset < block.end_bytes
    assert geometry.erase_block(block.index) == block


@given(geometries, st.data())
def test_geometry_cut_keeps_the_same_erase_blocks(geometry: Geometry, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, geometry.count - 1))
    last = data.draw(st.integers(first, geometry.count - 1))
    start = geometry.erase_block(first).offset_bytes
    end = geometry.erase_block(last).end_bytes
    shorter_by = data.draw(st.integers(0, geometry.erase_block(last).size_bytes - 1))
    cut = geometry.cut(offset_bytes=start, length_bytes=end - start - shorter_by)
    wanted = [(b.offset_bytes - start, b.size_bytes) for b in list(geometry)[first : last + 1]]
    assert [(b.offset_bytes, b.size_bytes) for b in cut] == wanted


def test_geometry_mixed_finds_blocks_on_both_sides_of_the_seam() -> None:
    assert MIXED.at(65535).index == 7
    assert MIXED.at(65536).index == 8
    assert MIXED.erase_block(9).offset_bytes == 131072


@pytest.mark.parametrize(
    ("offset", "length"), [(-1, 10), (0, 0), (0, MIXED.total_bytes + 1), (MIXED.total_bytes, 1), (4096, 4096)]
)
def test_geometry_cut_out_of_range_or_misaligned_is_refused(offset: int, length: int) -> None:
    with pytest.raises(ConfigError):
        MIXED.cut(offset_bytes=offset, length_bytes=length)


@pytest.mark.parametrize(
    "bad",
    [
        (),
        tuple(EraseRun(count=1, size_bytes=256) for _ in range(MAX_RUNS + 1)),
        (EraseRun(count=0, size_bytes=256),),
        (EraseRun(count=1, size_bytes=255),),
        (EraseRun(count=1, size_bytes=8 << 20),),
        (EraseRun(count=1, size_bytes=1000),),
        (EraseRun(count=MAX_ERASE_BLOCKS + 1, size_bytes=256),),
        (EraseRun(count=2048, size_bytes=4 << 20),),
    ],
)
def test_geometry_out_of_limits_is_refused(bad: tuple[EraseRun, ...]) -> None:
    with pytest.raises(ConfigError):
        Geometry(bad)


def test_geometry_indexes_past_the_end_raise_index_error() -> None:
    for index in (-1, 11):
        with pytest.raises(IndexError):
            MIXED.erase_block(index)
    with pytest.raises(IndexError):
        MIXED.at(MIXED.total_bytes)
