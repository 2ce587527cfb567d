# SPDX-License-Identifier: Apache-2.0
"""The PC's side of the protocol: backup and restore sessions, pure, over transfer and store. No sockets, no clock."""
