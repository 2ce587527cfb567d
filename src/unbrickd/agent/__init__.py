# SPDX-License-Identifier: Apache-2.0
"""The device in normal operation: when to back up, and the backup session. Knows no sockets; time is an argument."""
