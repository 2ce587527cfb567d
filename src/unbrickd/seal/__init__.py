# SPDX-License-Identifier: Apache-2.0
"""Device keys, sealing, seals and signatures (spec/flash-format.md §2–§6). Knows no policy of backup, no network."""
