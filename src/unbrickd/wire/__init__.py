# SPDX-License-Identifier: Apache-2.0
"""Messages ↔ bytes, to spec/protocol.md. Knows no sockets, no time and no order of messages."""
