# SPDX-License-Identifier: Apache-2.0
"""Back-ends of the store: plain files with a SQLite catalogue."""
