# SPDX-License-Identifier: Apache-2.0
"""What a transfer moves, cut into pieces that can be verified one by one: erase blocks, or slices of a document.

Knows no bytes and no time. Spec: spec/protocol.md §4.10, spec/flash-format.md §1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from unbrickd.model.manifest import Manifest

DOCUMENT_SLICE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Segment:
    """One erase block's content of an image, or one slice of a document.

    Its last block goes on into the next segment, if that follows at once and there is room, and is short otherwise.
    """

    index: int
    offset_bytes: int
    length_bytes: int

    @property
    def end_bytes(self) -> int:
        return self.offset_bytes + self.length_bytes


def segments_of(manifest: Manifest, indexes: Iterable[int]) -> tuple[Segment, ...]:
    """The erase blocks of these indexes, in this order, with what the image has in them. Raises IndexError."""
    segments = []
    for index in indexes:
        erase_block = manifest.geometry.erase_block(index)
        segments.append(Segment(index, erase_block.offset_bytes, manifest.content_bytes(index)))
    return tuple(segments)


def document_segments(length_bytes: int, slice_bytes: int = DOCUMENT_SLICE_BYTES) -> tuple[Segment, ...]:
    """A document of `length_bytes` in slices, the last one shorter; of no bytes, no slices."""
    return tuple(
        Segment(index, offset, min(slice_bytes, length_bytes - offset))
        for index, offset in enumerate(range(0, length_bytes, slice_bytes))
    )
