# SPDX-License-Identifier: Apache-2.0
"""What one server takes on at most. Every number bounds memory, disk or work that a peer could otherwise ask for."""

from __future__ import annotations

from dataclasses import dataclass

from unbrickd.model.codec import MAX_DOCUMENT_BYTES
from unbrickd.model.peer import Transport
from unbrickd.wire.framing import ETHERNET_MESSAGE_BYTES
from unbrickd.wire.packet import BLOCK_OVERHEAD_BYTES

SESSION_EXPIRY_S = 60.0
"""Without a message (spec/protocol.md §6)."""
SILENCE_S = 10.0
"""A sender that sends none of what was asked for is given up after this (spec/protocol.md §6)."""
REOPEN_S = 2.5
"""If not one block of the first requests came by then, they are taken to be too long for the path (§1)."""
GATHER_PART = 2
"""Blocks of an upload may gather, as a turn for each is most of what it costs: for this part of the time that they wait
in the link's queue, so that it does not run empty while nothing is asked for,"""
GATHER_STEP_S, GATHER_MOST_S = 0.001, 0.002
"""in whole milliseconds, because epoll(7) waits no finer, and less than the window leaves in the queue (window.LEFT_S)
when it lets ask for more;"""
GATHER_BLOCKS = 32
"""while so many are outstanding, else it is the end or the queue is short, and no longer than until so many come."""
TCP_BLOCK_BYTES = 16 << 10
"""Large enough that the header is no cost, small enough that sessions take turns on one link."""

BATCH_MESSAGES, BATCH_BYTES = 64, 65_507
"""Of blocks that one session sends in its turn: what Linux takes in one system call with UDP_SEGMENT (udp(7), and
UDP_MAX_SEGMENTS in linux/udp.h before 6.9), which over IPv4 is the payload of 65 535 − 20 − 8 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """max_backups: sessions that upload at once, each of which may hold `upload_buffer_bytes` and a document;
    max_image_bytes: of one component; retry_after_s, retry_spread_s: what a device is told to wait when we are full, at
    least, and over how many seconds those who are told so are spread;
    max_replies: answers waiting for the network, beyond which they are dropped and the device asks again;
    cache_bytes: verified erase blocks kept for the next of many equal devices;
    max_rejected: erase blocks of one upload that may fail their digest before it is refused.
    """

    max_sessions: int = 1024
    max_backups: int = 16
    max_devices: int = 10_000
    accept_new: bool = True
    max_document_bytes: int = MAX_DOCUMENT_BYTES
    max_image_bytes: int = 1 << 30
    upload_buffer_bytes: int = 1 << 20
    max_window_blocks: int = 512
    max_replies: int = 4096
    cache_bytes: int = 1 << 20
    max_rejected: int = 8
    retry_after_s: int = 5
    retry_spread_s: int = 10
    max_udp_message_bytes: int = ETHERNET_MESSAGE_BYTES

    def max_message_bytes(self, transport: Transport) -> int:
        """The longest message that we send to and take from a peer of this transport."""
        if transport is Transport.TCP:
            return TCP_BLOCK_BYTES + BLOCK_OVERHEAD_BYTES
        return self.max_udp_message_bytes

    def max_block_bytes(self, transport: Transport) -> int:
        return self.max_message_bytes(transport) - BLOCK_OVERHEAD_BYTES
