# SPDX-License-Identifier: Apache-2.0
"""The receiver driven at random by a peer that lies: it never raises, never stalls, never asks for too much.

Replay a seed: `python tests/property/test_transfer_receiver_random.py SEED…`.
"""

from __future__ import annotations

import random
import sys

import pytest

from unbrickd.transfer.receiver import Receiver
from unbrickd.transfer.segments import document_segments
from unbrickd.transfer.sender import MAX_PENDING_RANGES, Sender
from unbrickd.wire.messages import MAX_RANGES

SEEDS = 400


def drive(seed: int) -> None:
    r = random.Random(seed)
    length, block_bytes = r.randrange(1, 400_000), r.choice([100, 512, 1428])
    window = r.choice([1, 3, 8, 64, 2048])
    receiver = Receiver(
        segments=document_segments(length, r.choice([1000, 65_536, 262_144])),
        block_bytes=block_bytes,
        ahead_bytes=r.choice([0, 1000, 16_384, 1_000_000]),
        max_window_blocks=window,
        now_s=0.0,
    )
    sender = Sender(length_bytes=length, block_bytes=block_bytes)
    numbers: list[int] = []
    now_s, honest_from = 0.0, r.randrange(1, 200)
    for step in range(20_000):
        honest = step >= honest_from
        for request in receiver.requests(now_s):
            if request.request not in numbers[-1:]:
                numbers.append(request.request)
            assert 1 <= len(request.ranges) <= min(MAX_RANGES, MAX_PENDING_RANGES)
            assert all(size > 0 and at + size <= length for at, size in request.ranges)
            if honest or r.random() < 0.8:
                sender.request(request)
        assert len(receiver._flights) <= window
        assert receiver.complete or receiver.is_whole or receiver.timer() is not None, "stalled"
        if receiver.complete:
            break
        now_s += r.choice([0.0001, 0.01])
        came = False
        for _ in range(r.randrange(1, 300)):
            block = sender.next_block()
            if block is None:
                break
            if not honest and r.random() < 0.5:
                continue
            came = True
            receiver.receive_block(
                request=block.request, offset_bytes=block.offset_bytes, payload=bytes(block.length_bytes), now_s=now_s
            )
        if not honest:
            for _ in range(3):
                receiver.receive_block(
                    request=r.choice([0, 1, receiver._request, 2**32 - 1]),
                    offset_bytes=r.choice([r.randrange(length), 2**32 - 1, 0]),
                    payload=bytes(r.choice([1, block_bytes, block_bytes - 1, 60_000])),
                    now_s=now_s,
                )
            if r.random() < 0.3:
                receiver.receive_end(
                    request=r.choice([0, 1, receiver._request, 2**32 - 1]), blocks_sent=r.randrange(2**32), now_s=now_s
                )
        while receiver.is_whole and (honest or r.random() < 0.5):
            receiver.release(r.randrange(receiver.head().segment.length_bytes + 1))
            if honest or r.random() < 0.8:
                receiver.accept()
            else:
                receiver.reject()
        due_s = receiver.timer()
        if not came and due_s is not None and r.random() < 0.5:
            now_s = max(now_s, due_s)
    assert receiver.complete, "did not finish with an honest sender"
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("first", range(0, SEEDS, 100))
def test_receiver_with_a_peer_that_lies_never_raises_nor_stalls(first: int) -> None:
    for seed in range(first, first + 100):
        try:
            drive(seed)
        except Exception as error:
            pytest.fail(f"{error!r}; replay: python tests/property/test_transfer_receiver_random.py {seed}")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        drive(int(argument))
