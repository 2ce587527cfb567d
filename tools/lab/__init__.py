# SPDX-License-Identifier: Apache-2.0
"""The laboratory: a gateway in QEMU with real NOR flash, a real U-Boot and a real kernel, made from Debian packages.

Standard library only. Knows nothing of unbrickd; tests/qemu brings it in. What is built is kept outside the repository.
See tools/lab/README.md.
"""
