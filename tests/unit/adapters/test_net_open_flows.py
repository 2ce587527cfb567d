# SPDX-License-Identifier: Apache-2.0
"""Whom the server greets alone, so that a strict firewall on its host lets the answer in (adapters.net.neighbours)."""

from __future__ import annotations

from unbrickd.adapters.net.neighbours import MAX_NEIGHBOURS, REPEAT_S, Neighbour, OpenFlows

ROUTER = Neighbour(host="192.168.1.1", interface=2)
PRINTER = Neighbour(host="192.168.1.40", interface=2)


def test_open_flows_new_neighbour_is_greeted_at_once_and_others_in_their_turn() -> None:
    flows = OpenFlows()
    assert flows.due([ROUTER], 0.0) == [ROUTER]
    assert flows.due([ROUTER], 1.0) == []
    assert flows.due([ROUTER, PRINTER], 2.0) == [PRINTER]
    assert flows.due([ROUTER, PRINTER], REPEAT_S) == [ROUTER]
    assert flows.due([ROUTER, PRINTER], REPEAT_S + 2.0) == [PRINTER]


def test_open_flows_neighbour_that_was_away_is_greeted_at_once() -> None:
    flows = OpenFlows()
    flows.due([ROUTER], 0.0)
    assert flows.due([], 1.0) == []
    assert flows.due([ROUTER], 2.0) == [ROUTER]


def test_open_flows_large_network_is_not_flooded() -> None:
    many = [Neighbour(host=f"10.0.{n // 250}.{n % 250}", interface=2) for n in range(1000)]
    assert len(OpenFlows().due([ROUTER, *many], 0.0)) == MAX_NEIGHBOURS
    assert ROUTER in OpenFlows().due([ROUTER, *many], 0.0)
