# SPDX-License-Identifier: Apache-2.0
"""Side by side with peers, over loopback: `python -m bench` (bench/README.md). Never a timed test."""
