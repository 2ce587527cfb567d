# SPDX-License-Identifier: Apache-2.0
"""A server in memory and two devices that know it."""

from __future__ import annotations

import pytest

from unbrickd.sim.trace import TracedDevice, TracedServer


@pytest.fixture
def lab() -> TracedServer:
    return TracedServer()


@pytest.fixture
def device(lab: TracedServer) -> TracedDevice:
    return TracedDevice(lab, "a")


@pytest.fixture
def other(lab: TracedServer) -> TracedDevice:
    return TracedDevice(lab, "bb")
