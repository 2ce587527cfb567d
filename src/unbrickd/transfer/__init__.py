# SPDX-License-Identifier: Apache-2.0
"""Moving blocks, either way: receiver, sender, window, round-trip time. Pure: the time comes in as an argument.

Knows no sockets and no meaning of what it moves. Spec: spec/protocol.md §4.10 to §4.13 and §6.
"""
