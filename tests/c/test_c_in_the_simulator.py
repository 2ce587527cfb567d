# SPDX-License-Identifier: Apache-2.0
"""The stories of tests/sim, told again with the C core in the bootloader's place: loops, hostile servers, power cuts.

The tests are those files' own; here they run with `CBootloader`, on the same chip, network and servers. Power is cut
at every flash operation of the C code, before, torn and after.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path

import pytest
from unbrickd_c import CBootloader

SIM = Path(__file__).resolve().parents[1] / "sim"
SUITES = (
    "test_hostile_server",
    "test_loop_last_word",
    "test_loop_virtual_time",
    "test_overlap_virtual_time",
    "test_power_cut_restore",
    "test_what_moves",
)
WORDS = {"rollback": "rollback index", "rejected": "which failed here before"}
"""The C core's, for those of test_hostile_server."""


@pytest.fixture(autouse=True)
def _c_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unbrickd.sim.device.Bootloader", CBootloader)


def _tests_of(suite: str) -> dict[str, object]:
    spec = importlib.util.spec_from_file_location(f"c_{suite}", SIM / f"{suite}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    names = vars(module)
    if "WORDS" in names:
        assert names["WORDS"].keys() == WORDS.keys()
        names["WORDS"] = WORDS
    found = {name: member for name, member in inspect.getmembers(module) if name.startswith("test_")}
    assert found, f"{suite} has no tests"
    return found


for _suite in SUITES:
    globals().update(_tests_of(_suite))
