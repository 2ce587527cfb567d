# SPDX-License-Identifier: Apache-2.0
"""Real flash: a plain file, or a Linux MTD device. Operating-system errors become FlashError here, once."""
