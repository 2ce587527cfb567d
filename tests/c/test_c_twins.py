# SPDX-License-Identifier: Apache-2.0
"""Thousands of random stories told to both bootloaders, Python's and C's: damage, loss, reordering, duplicates, spoilt
messages, servers that come and go, power cuts (c/ports/sim/twins.py).

Compared: every event in order, every message sent but for BlockRequests, and every byte of flash. What is asked for
when is the receiver's own business (spec/protocol.md §4.10), and there floating point and integers round differently;
a story in which that parts the two must end alike all the same.
"""

from __future__ import annotations

import pytest
import twins
from unbrickd_c import CBootloader

from unbrickd.recovery.bootloader import Bootloader

CHUNK = 100
CHUNKS = 20
MAY_PART = 0.01
"""Part of the stories with loss or mischief; measured: none of 1153."""


def compare(seeds: range) -> None:
    parted = stormy = 0
    for seed in seeds:
        story = twins.make_story(seed)
        a, b = twins.tell(story, Bootloader), twins.tell(story, CBootloader)
        difference = twins.difference(story, a, b)
        stormy += not story.is_calm
        replay = f"replay: python c/ports/sim/twins.py {seed}"
        if difference:
            print(f"{replay}: {difference}")
            parted += 1
            assert not story.is_calm, replay
            assert twins.outcome(a) == twins.outcome(b), replay
    print(f"{len(seeds)} stories, {stormy} stormy, {parted} parted")
    assert parted <= 2 + MAY_PART * stormy


def test_twins_random_stories_are_the_same_to_the_byte() -> None:
    compare(range(40))


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(1, CHUNKS + 1))
def test_twins_many_random_stories_are_the_same_to_the_byte(chunk: int) -> None:
    compare(range(chunk * CHUNK, (chunk + 1) * CHUNK))


def test_twins_stories_are_of_all_kinds() -> None:
    """So that what the others compare is no idle talk."""
    stories = [twins.make_story(seed) for seed in range(40)]
    assert {story.before for story in stories} == set(twins.PASTS)
    told = [event for story in stories for event in twins.tell(story, CBootloader).events]
    kinds = {type(event).__name__ for event in told}
    assert kinds == {
        "Checked", "LightChanged", "ServerFound", "ServerGivenUp", "OfferTaken", "EraseBlockRestored", "Restored",
        "Booting",
    }  # fmt: skip
    assert any(story.cuts for story in stories) and any(story.loss and story.mischief for story in stories)
