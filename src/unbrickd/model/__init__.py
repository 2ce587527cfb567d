# SPDX-License-Identifier: Apache-2.0
"""Frozen values that every other package speaks of: geometry, manifest, generation, layout. No I/O."""
