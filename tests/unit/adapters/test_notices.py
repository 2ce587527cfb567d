# SPDX-License-Identifier: Apache-2.0
"""The agent's letter box."""

from __future__ import annotations

from pathlib import Path

import pytest

from unbrickd.adapters.notices import LetterBox, What
from unbrickd.errors import ConfigError


def test_leave_many_are_waiting_until_taken_out(tmp_path: Path) -> None:
    box = LetterBox(tmp_path / "state")
    assert box.waiting() == []
    left = [box.leave(what) for what in (What.UPGRADED, What.CONFIG_CHANGED, What.CONFIG_CHANGED, What.BACK_UP)]
    assert sorted(n.path for n in box.waiting()) == sorted(n.path for n in left)
    assert {n.what for n in box.waiting()} == set(What)
    box.take_out(left[:2])
    box.take_out(left[:2])
    assert sorted(n.path for n in box.waiting()) == sorted(n.path for n in left[2:])


def test_waiting_files_of_other_names_are_left_alone(tmp_path: Path) -> None:
    box = LetterBox(tmp_path)
    box.leave(What.UPGRADED)
    stranger = tmp_path / "notify" / "README"
    stranger.touch()
    assert [n.what for n in box.waiting()] == [What.UPGRADED]
    assert stranger.exists()


def test_leave_folder_cannot_be_made_raises(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as caught:
        LetterBox(tmp_path / "file").leave(What.UPGRADED)
    assert caught.value.hint
