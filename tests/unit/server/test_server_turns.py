# SPDX-License-Identifier: Apache-2.0
"""Who sends next, and how much."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from unbrickd.model.peer import Peer, Transport
from unbrickd.server.limits import BATCH_MESSAGES
from unbrickd.server.restore import RestoreSession
from unbrickd.server.turns import Turns


@dataclass(eq=False)
class Session:
    """As much of a RestoreSession as turns know."""

    name: str
    wanted: int
    channel: int = 0
    port: Session = field(init=False)
    peer: Peer = field(init=False)

    def __post_init__(self) -> None:
        self.port = self
        self.peer = Peer(transport=Transport.UDP, host=self.name, port=1, channel=self.channel)

    @property
    def pending(self) -> bool:
        return self.wanted > 0


def queue(turns: Turns, *sessions: Session) -> None:
    for session in sessions:
        turns.add(cast(RestoreSession, session))


def serve(turns: Turns, count: int, *, blocked: frozenset[int] = frozenset()) -> list[tuple[str, int]]:
    """The next turns, each of which sends all that it may: who, and how much."""
    served = []
    for _ in range(count):
        turn = turns.next(blocked)
        if turn is None:
            break
        session, most = cast(Session, turn[0]), turn[1]
        sent = min(most, session.wanted)
        session.wanted -= sent
        turns.sent(turn[0])
        served.append((session.name, sent))
    return served


def test_turns_of_one_session_are_whole_batches() -> None:
    turns, session = Turns(), Session("a", 2 * BATCH_MESSAGES)
    queue(turns, session)
    assert serve(turns, 9) == [("a", BATCH_MESSAGES), ("a", BATCH_MESSAGES)]
    assert not turns


def test_turns_newcomer_gets_one_message_ahead_of_all_and_then_waits_as_they_do() -> None:
    turns = Turns()
    queue(turns, Session("a", 1000), Session("b", 1000))
    whole = BATCH_MESSAGES
    assert serve(turns, 3) == [("a", whole), ("b", 1), ("a", whole)], "a newcomer does not even wait for a turn's end"
    assert serve(turns, 4) == 2 * [("b", whole)] + 2 * [("a", whole)]
    queue(turns, Session("c", 1000))
    assert serve(turns, 5) == [("c", 1)] + 2 * [("b", whole)] + 2 * [("a", whole)]
    assert serve(turns, 2) == 2 * [("c", whole)]


def test_turns_who_was_left_with_nothing_is_ahead_again_with_the_next_request() -> None:
    turns, brief = Turns(), Session("b", 10)
    queue(turns, Session("a", 10_000), brief)
    whole = BATCH_MESSAGES
    assert serve(turns, 4) == [("a", whole), ("b", 1), ("a", whole), ("b", 9)]
    for _ in range(3):
        brief.wanted = 10
        queue(turns, brief)
        assert serve(turns, 4) == [("b", 1), ("a", whole), ("a", whole), ("b", 9)]


def test_turns_who_asks_for_one_block_at_a_time_is_ahead_once_a_round() -> None:
    turns, sipping = Turns(), Session("s", 1)
    queue(turns, Session("a", 10_000), Session("b", 10_000))
    serve(turns, 5)
    served = ""
    for _ in range(15):
        sipping.wanted = 1
        queue(turns, sipping)
        served += serve(turns, 1)[0][0]
    assert served == "saabb" + "ssaabb" + "ssaa", "ahead of all once, then in its turn"


def test_turns_of_a_blocked_channel_are_kept_and_hold_up_nobody() -> None:
    turns = Turns()
    queue(turns, Session("slow", 5, channel=7), Session("a", 5))
    assert serve(turns, 9, blocked=frozenset({7})) == [("a", 5)]
    assert turns
    assert serve(turns, 9) == [("slow", 5)]


def test_turns_of_500_sessions_that_want_the_same_end_within_a_round_of_each_other() -> None:
    turns, each = Turns(), 3 * BATCH_MESSAGES
    sessions = [Session(str(n), each) for n in range(500)]
    queue(turns, *sessions)
    last = {name: turn for turn, (name, _) in enumerate(serve(turns, 10_000))}
    assert max(last.values()) - min(last.values()) <= 2 * len(sessions)
    assert all(session.wanted == 0 for session in sessions)
