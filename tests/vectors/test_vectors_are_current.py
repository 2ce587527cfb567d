# SPDX-License-Identifier: Apache-2.0
"""The vector files are just what tools/make_vectors.py writes today: a change of format cannot pass unseen."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_vectors", ROOT / "tools" / "make_vectors.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = _tool()


@pytest.mark.parametrize("name", TOOL.VECTORS)
def test_make_vectors_run_again_reproduces_the_file(name: str) -> None:
    assert TOOL.render(name) == (ROOT / "spec" / "vectors" / f"{name}.json").read_text(encoding="utf-8")


def test_make_vectors_names_every_file_of_the_directory() -> None:
    assert {path.stem for path in (ROOT / "spec" / "vectors").glob("*.json")} == set(TOOL.VECTORS)
