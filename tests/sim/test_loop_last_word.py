# SPDX-License-Identifier: Apache-2.0
"""The server hears of every component that it was fetched whole, of the last one too, which is followed by the boot."""

from __future__ import annotations

from unbrickd.server.events import RestoreServed
from unbrickd.sim.household import backed_up


def test_bootloader_restored_all_the_server_hears_of_the_last_component_too() -> None:
    home = backed_up()
    home.router.damage("firmware", 2)
    home.router.damage("config", 0)
    home.boot()
    home.world.run_for(1.0)
    served = [event.component for event in home.pc.log if isinstance(event, RestoreServed)]
    assert sorted(served) == ["config", "firmware"]
