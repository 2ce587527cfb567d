# SPDX-License-Identifier: Apache-2.0
"""The C core is compiled here with gcc and make; where they are missing, these tests are skipped."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = [tool for tool in ("gcc", "make") if shutil.which(tool) is None]
    if missing:
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=f"compiles C: {' and '.join(missing)} not found"))
