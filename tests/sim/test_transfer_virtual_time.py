# SPDX-License-Identifier: Apache-2.0
"""Receiver and sender over a hostile network in virtual time, through the real bytes of the wire.

Replay a seed and see its figures: `python tests/sim/test_transfer_virtual_time.py SEED…` (small) or `… --large SEED…`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import pytest

from unbrickd.errors import RemoteProtocolError
from unbrickd.sim.network import Network
from unbrickd.transfer.receiver import Receiver
from unbrickd.transfer.segments import Segment, document_segments
from unbrickd.transfer.sender import Sender
from unbrickd.wire import messages as m
from unbrickd.wire.packet import decode, encode

SMALL_SEEDS = 3000
LARGE_SEEDS = 24
LONGEST_TRANSFER_S = 900.0
SESSION, TRANSFER = 0x5EED5EED, 7


@dataclass(kw_only=True)
class Scenario:
    """One transfer, and the network it goes over."""

    image: bytes
    block_bytes: int
    segments: tuple[Segment, ...]
    ahead_bytes: int
    max_window_blocks: int
    network: Network
    loss: float = 0.0
    """Per datagram, corruption included."""
    sender_restarts_at_s: list[float] = field(default_factory=list)
    on_block: Callable[[m.DataBlock], list[m.DataBlock]] = lambda block: [block]
    """What a hostile sender makes of a block."""
    verify: Callable[[Segment, bytes | memoryview], bool] = lambda segment, octets: True

    @classmethod
    def of(cls, seed: int, *, large: bool = False) -> Scenario:
        """Everything from the seed."""
        r = random.Random(seed)
        image = r.randbytes(r.randrange(200_000, 1_500_000) if large else r.randrange(1, 40_000))
        loss, corrupt = r.choice([0, 0, 0.01, 0.05, 0.1, 0.2, 0.3]), r.choice([0, 0, 0, 0.01, 0.05])
        rate = r.choice([None, None, 20_000, 100_000, 1_000_000, 12_500_000])
        return cls(
            image=image,
            block_bytes=r.choice([256, 1024, 1208, 1428]),
            segments=tuple(document_segments(len(image), r.choice([4096, 8192, 65536]))),
            ahead_bytes=r.choice([0, 4096, 16_384, 1 << 20]),
            max_window_blocks=r.choice([1, 2, 4, 8, 32, 256, 1024]),
            network=Network(
                seed=seed,
                loss=loss,
                duplicate=r.choice([0, 0, 0.02, 0.1]),
                reorder=r.choice([0, 0, 0.02, 0.1, 0.3]),
                corrupt=corrupt,
                delay_s=r.choice([0.0001, 0.001, 0.005, 0.05]),
                jitter_s=r.choice([0, 0, 0.001, 0.02]),
                rate_bytes_per_s=rate,
                queue_bytes=None if rate is None else r.choice([8_000, 64_000, None]),
            ),
            loss=loss + corrupt,
        )


@dataclass(kw_only=True)
class Outcome:
    received: bytearray
    receiver: Receiver
    took_s: float
    blocks_sent: int = 0
    request_bytes: int = 0
    ends: list[int] = field(default_factory=list)
    last_requests: list[int] = field(default_factory=list)
    longest_silence_s: float = 0.0


def transfer(s: Scenario) -> Outcome:
    """Run until every segment is accepted. The sender answers at once; the network does the queueing."""
    now_s = 0.0
    receiver = Receiver(
        segments=s.segments,
        block_bytes=s.block_bytes,
        ahead_bytes=s.ahead_bytes,
        max_window_blocks=s.max_window_blocks,
        now_s=now_s,
    )
    sender = Sender(length_bytes=len(s.image), block_bytes=s.block_bytes)
    out = Outcome(received=bytearray(len(s.image)), receiver=receiver, took_s=0.0)
    restarts = sorted(s.sender_restarts_at_s)

    def put(source: str, destination: str, octets: bytes) -> None:
        s.network.send(source, destination, octets, now_s)

    def ask() -> None:
        for request in receiver.requests(now_s):
            assert 1 <= len(request.ranges) <= m.MAX_RANGES
            if request.last:
                out.last_requests.append(request.request)
            octets = encode(request, session=SESSION, transfer=TRANSFER)
            out.request_bytes += len(octets)
            put("receiver", "sender", octets)

    def serve() -> None:
        while (block := sender.next_block()) is not None:
            out.blocks_sent += 1
            payload = s.image[block.offset_bytes : block.offset_bytes + block.length_bytes]
            honest = m.DataBlock(request=block.request, offset_bytes=block.offset_bytes, payload=payload)
            for sent in s.on_block(honest):
                put("sender", "receiver", encode(sent, session=SESSION, transfer=TRANSFER))
        if (end := sender.end_due()) is not None:
            out.ends.append(end)
            message = m.DataEnd(request=end, blocks_sent=sender.blocks_sent)
            put("sender", "receiver", encode(message, session=SESSION, transfer=TRANSFER))

    ask()
    while not receiver.complete:
        due = [t for t in (s.network.next_delivery(), receiver.timer()) if t is not None]
        assert due, "nothing under way, no timer, and not complete: stuck"
        now_s = max(now_s, min(due))
        assert now_s < LONGEST_TRANSFER_S, "too slow"
        out.longest_silence_s = max(out.longest_silence_s, receiver.silent_s(now_s))
        if restarts and now_s >= restarts[0]:
            restarts.pop(0)
            sender = Sender(length_bytes=len(s.image), block_bytes=s.block_bytes)
        for delivery in s.network.deliver(now_s):
            try:
                message = decode(delivery.octets).message
            except RemoteProtocolError as error:
                assert error.code == "frame", error
                continue
            if isinstance(message, m.BlockRequest):
                sender.request(message)
                serve()
            elif isinstance(message, m.DataBlock):
                receiver.receive_block(
                    request=message.request, offset_bytes=message.offset_bytes, payload=message.payload, now_s=now_s
                )
                while receiver.is_whole:
                    whole = receiver.head()
                    if not s.verify(whole.segment, whole.octets):
                        receiver.reject()
                        continue
                    out.received[whole.segment.offset_bytes : whole.segment.end_bytes] = whole.octets
                    receiver.accept()
            else:
                assert isinstance(message, m.DataEnd)
                receiver.receive_end(request=message.request, blocks_sent=message.blocks_sent, now_s=now_s)
        ask()
    out.took_s = now_s
    return out


def check(s: Scenario, out: Outcome) -> None:
    stats = out.receiver.stats
    assert out.received == s.image
    blocks = sum(-(-segment.length_bytes // s.block_bytes) for segment in s.segments)
    assert -(-len(s.image) // s.block_bytes) <= stats.blocks_received <= blocks
    assert stats.bytes_delivered == len(s.image)
    assert stats.blocks_requested >= stats.blocks_received
    assert stats.stray_blocks == 0
    lost = s.loss + s.network.counts["overflowed"] / s.network.counts["sent"]
    bound = blocks * 1.25 / (1 - lost) ** 2 + 24
    assert out.blocks_sent <= bound, f"{out.blocks_sent} blocks sent for {blocks}; bound {bound:.0f}"
    assert set(out.ends) <= set(out.last_requests)
    assert stats.requests_sent in out.last_requests


def run_seeds(first: int, count: int, *, large: bool) -> None:
    for seed in range(first, first + count):
        try:
            scenario = Scenario.of(seed, large=large)
            check(scenario, transfer(scenario))
        except Exception as error:
            flag = "--large " if large else ""
            pytest.fail(f"seed {seed}: {error!r}; replay: python tests/sim/{Path(__file__).name} {flag}{seed}")


@pytest.mark.parametrize("first", range(0, SMALL_SEEDS, 500))
def test_transfer_small_over_any_network_arrives_without_waste(first: int) -> None:
    run_seeds(first, 500, large=False)


@pytest.mark.parametrize("first", range(0, LARGE_SEEDS, 8))
def test_transfer_large_over_any_network_arrives_without_waste(first: int) -> None:
    run_seeds(1_000_000 + first, 8, large=True)


def lan(*, seed: int = 1, **faults: float) -> Network:
    """100 Mbit/s, 0.5 ms each way."""
    return Network(
        seed=seed,
        delay_s=0.0005,
        rate_bytes_per_s=12_500_000,
        queue_bytes=300_000,
        loss=faults.get("loss", 0.0),
        reorder=faults.get("reorder", 0.0),
    )


def scenario(network: Network, *, image_bytes: int = 300_000, window: int = 64, ahead_bytes: int = 196_608) -> Scenario:
    image = random.Random(image_bytes).randbytes(image_bytes)
    return Scenario(
        image=image,
        block_bytes=1024,
        segments=document_segments(len(image), 65536),
        ahead_bytes=ahead_bytes,
        max_window_blocks=window,
        network=network,
    )


def test_transfer_on_a_quiet_lan_sends_each_block_once_and_ends_once() -> None:
    s = scenario(lan())
    out = transfer(s)
    assert out.received == s.image
    assert out.blocks_sent == -(-len(s.image) // s.block_bytes)
    assert out.ends == out.last_requests == [out.receiver.stats.requests_sent]
    assert out.receiver.stats.timeouts == 0


@pytest.mark.parametrize(("loss", "at_most"), [(0.0, 1.15), (0.05, 1.25), (0.3, 1.6)])
def test_transfer_with_random_loss_keeps_the_link_busy(loss: float, at_most: float) -> None:
    """Virtual seconds over what the link's rate alone takes at this loss."""
    took_s = []
    for seed in (1, 2, 3):
        s = scenario(lan(seed=seed, loss=loss), image_bytes=3_000_000, window=256, ahead_bytes=458_752)
        out = transfer(s)
        assert out.received == s.image
        took_s.append(out.took_s)
    assert median(took_s) < at_most * 3_000_000 / 12_500_000 / (1 - loss)


def test_transfer_with_overflowing_switch_keeps_waste_bounded() -> None:
    """A queue of 16 blocks never shows as delay; only loss above the usual does."""
    s = scenario(
        Network(seed=1, delay_s=0.0005, rate_bytes_per_s=12_500_000, queue_bytes=16_000), image_bytes=3_000_000
    )
    s.max_window_blocks = 1024
    out = transfer(s)
    assert out.received == s.image
    assert out.blocks_sent < 1.8 * len(s.image) / s.block_bytes


@pytest.mark.parametrize("loss", [0.0, 0.1, 0.3])
def test_transfer_to_a_bootloader_of_one_buffer_and_eight_frames_arrives(loss: float) -> None:
    s = scenario(lan(loss=loss), window=8, ahead_bytes=0)
    most = 0

    class Watched(Network):
        def send(self, source: str, destination: str, octets: bytes, now_s: float) -> None:
            super().send(source, destination, octets, now_s)
            nonlocal most
            waiting = sum(d.destination == "receiver" for d in self._deliveries)
            most = max(most, waiting)

    s.network = Watched(seed=1, delay_s=0.0005, loss=loss)
    out = transfer(s)
    assert out.received == s.image
    assert out.receiver.buffer_bytes == 65536
    assert most <= 8 + 1, "more frames under way than the ring takes, DataEnd aside"


def test_transfer_through_a_black_out_of_five_seconds_goes_on_without_flooding() -> None:
    network = Network(seed=1, delay_s=0.005, rate_bytes_per_s=500_000)
    network.black_out(from_s=0.2, until_s=5.2)
    s = scenario(network)
    out = transfer(s)
    blocks = -(-len(s.image) // s.block_bytes)
    assert out.received == s.image
    assert 4.5 < out.longest_silence_s < 8
    assert out.took_s < 8.5
    assert out.blocks_sent <= blocks + 2 * s.max_window_blocks
    assert out.receiver.stats.requests_sent < blocks


def test_transfer_with_a_sender_that_forgets_its_requests_goes_on() -> None:
    s = scenario(Network(seed=1, delay_s=0.005, rate_bytes_per_s=500_000))
    s.sender_restarts_at_s = [0.05, 0.1, 0.3, 0.31]
    assert transfer(s).received == s.image


def test_transfer_with_a_rotten_segment_fetches_it_again() -> None:
    s = scenario(lan(reorder=0.1))
    spoilt = iter([True, True])

    def spoil(block: m.DataBlock) -> list[m.DataBlock]:
        if block.offset_bytes == 65536 and next(spoilt, False):
            block = m.DataBlock(request=block.request, offset_bytes=65536, payload=bytes(len(block.payload)))
        return [block]

    s.on_block = spoil
    s.verify = lambda segment, octets: octets == s.image[segment.offset_bytes : segment.end_bytes]
    out = transfer(s)
    assert out.received == s.image
    assert out.receiver.stats.rejected_segments == 2
    assert out.last_requests, "the last request of all says so, after a rejection too"


@pytest.mark.parametrize("seed", range(20))
def test_transfer_with_a_hostile_sender_ignores_what_was_not_asked_for(seed: int) -> None:
    s = scenario(lan(), image_bytes=100_000, ahead_bytes=0)
    r = random.Random(seed)

    def hostile(block: m.DataBlock) -> list[m.DataBlock]:
        number, offset, payload = block.request, block.offset_bytes, bytes(block.payload)
        lies = [
            m.DataBlock(request=number, offset_bytes=offset + 1, payload=payload),
            m.DataBlock(request=number, offset_bytes=offset, payload=payload + b"!"),
            m.DataBlock(request=number, offset_bytes=offset, payload=payload[:-1] or b"!!"),
            m.DataBlock(request=0, offset_bytes=offset, payload=bytes(len(payload))),
            m.DataBlock(request=2**32 - 1, offset_bytes=offset, payload=bytes(len(payload))),
            m.DataBlock(request=number, offset_bytes=2**32 - 1, payload=b"x"),
            m.DataBlock(request=number, offset_bytes=98_304 if offset < 65_536 else 2**31, payload=bytes(1024)),
        ]
        return [*r.sample(lies, 3), block]

    s.on_block = hostile
    out = transfer(s)
    assert out.received == s.image, f"seed {seed}"
    assert out.receiver.stats.stray_blocks + out.receiver.stats.duplicate_blocks >= 2 * out.blocks_sent


def test_transfer_with_data_ends_out_of_place_still_arrives_whole() -> None:
    """A hostile or late DataEnd costs requests, never bytes."""
    receiver = Receiver(
        segments=document_segments(8192), block_bytes=1024, ahead_bytes=4096, max_window_blocks=8, now_s=0.0
    )
    sender = Sender(length_bytes=8192, block_bytes=1024)
    now_s = 0.0
    for _ in range(100):
        for request in receiver.requests(now_s):
            sender.request(request)
        receiver.receive_end(request=1, blocks_sent=0, now_s=now_s)
        receiver.receive_end(request=2**32 - 1, blocks_sent=2**32 - 1, now_s=now_s)
        now_s += 0.01
        while (block := sender.next_block()) is not None:
            receiver.receive_block(
                request=block.request, offset_bytes=block.offset_bytes, payload=bytes(block.length_bytes), now_s=now_s
            )
            while receiver.is_whole:
                receiver.accept()
        if receiver.complete:
            break
    assert receiver.complete
    assert receiver.stats.sender_blocks_sent == 0


def main(arguments: list[str]) -> None:
    for seed in (int(a) for a in arguments if a != "--large"):
        scenario = Scenario.of(seed, large="--large" in arguments)
        out = transfer(scenario)
        print(f"seed {seed}: {len(scenario.image)} bytes in {out.took_s:.3f} s, {out.blocks_sent} blocks sent")
        print(f"  {dict(scenario.network.counts)}")
        print(f"  {out.receiver.stats}")
        check(scenario, out)


if __name__ == "__main__":
    main(sys.argv[1:])
