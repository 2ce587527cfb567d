# SPDX-License-Identifier: Apache-2.0
"""What the server keeps, and in which order it is made durable: interfaces, vault, retention, verification. No I/O."""
