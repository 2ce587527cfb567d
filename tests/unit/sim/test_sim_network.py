# SPDX-License-Identifier: Apache-2.0
"""The simulated network does what its options say, and the same again for the same seed."""

from __future__ import annotations

import pytest

from unbrickd.sim.network import Delivery, Network


def flow(network: Network, count: int = 1000, *, every_s: float = 0.001) -> list[Delivery]:
    """`count` numbered datagrams of 100 bytes from a to b; what arrives, in order."""
    for i in range(count):
        network.send("a", "b", i.to_bytes(4, "big") * 25, i * every_s)
    return network.deliver(1e9)


def numbers(deliveries: list[Delivery]) -> list[int]:
    return [int.from_bytes(d.octets[:4], "big") for d in deliveries]


def test_network_without_faults_delivers_all_in_order_after_the_delay() -> None:
    arrived = flow(Network(seed=1, delay_s=0.5))
    assert numbers(arrived) == list(range(1000))
    assert [d.at_s for d in arrived] == pytest.approx([0.5 + i * 0.001 for i in range(1000)])
    assert {(d.source, d.destination) for d in arrived} == {("a", "b")}


def test_network_of_one_seed_repeats_itself_and_of_another_differs() -> None:
    def run(seed: int) -> list[Delivery]:
        return flow(Network(seed=seed, loss=0.1, duplicate=0.1, reorder=0.1, corrupt=0.1, jitter_s=0.01))

    assert run(5) == run(5) != run(6)


@pytest.mark.parametrize("loss", [0.05, 0.3, 1.0])
def test_network_loss_takes_its_part(loss: float) -> None:
    network = Network(seed=2, loss=loss)
    assert len(flow(network)) == 1000 - network.counts["lost"]
    assert network.counts["lost"] == pytest.approx(1000 * loss, abs=45)


def test_network_duplicate_delivers_some_twice() -> None:
    network = Network(seed=3, duplicate=0.2)
    arrived = numbers(flow(network))
    assert len(arrived) - len(set(arrived)) == network.counts["duplicated"] == pytest.approx(200, abs=45)


def test_network_jitter_alone_keeps_the_order_and_reorder_breaks_it() -> None:
    steady = numbers(flow(Network(seed=4, delay_s=0.01, jitter_s=0.02)))
    assert steady == sorted(steady)
    mixed = numbers(flow(Network(seed=4, delay_s=0.01, reorder=0.1)))
    assert mixed != sorted(mixed) and sorted(mixed) == steady


def test_network_corrupt_flips_one_to_three_bits() -> None:
    network = Network(seed=5, corrupt=1.0)
    network.send("a", "b", bytes(100), 0.0)
    (delivery,) = network.deliver(1.0)
    assert 1 <= int.from_bytes(delivery.octets, "big").bit_count() <= 3


def test_network_rate_spaces_datagrams_and_the_queue_overflows() -> None:
    network = Network(seed=6, delay_s=0.0, rate_bytes_per_s=1000, queue_bytes=500)
    for _ in range(8):
        network.send("a", "b", bytes(100), 0.0)
    assert [d.at_s for d in network.deliver(1e9)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert network.counts["overflowed"] == 3


def test_network_links_of_two_directions_do_not_share_a_rate() -> None:
    network = Network(seed=7, delay_s=0.0, rate_bytes_per_s=1000)
    network.send("a", "b", bytes(100), 0.0)
    network.send("b", "a", bytes(100), 0.0)
    assert network.next_delivery() == pytest.approx(0.1)
    assert len(network.deliver(0.1000001)) == 2
    assert network.next_delivery() is None


def test_network_black_out_loses_what_is_sent_in_it() -> None:
    network = Network(seed=8)
    network.black_out(from_s=0.1, until_s=0.2)
    assert numbers(flow(network)) == [*range(100), *range(200, 1000)]
