# SPDX-License-Identifier: Apache-2.0
"""unbrickd: a router that un-bricks itself from its owner's PC.

The map of the packages, and which may import which, stands in ARCHITECTURE.md.
"""

__version__ = "0.1.0"
