# SPDX-License-Identifier: Apache-2.0
"""Simulated hardware and networks: seeded and deterministic. Imported by no other package than cli, and by tests."""
