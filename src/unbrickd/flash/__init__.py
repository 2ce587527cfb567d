# SPDX-License-Identifier: Apache-2.0
"""The flash as the product sees it: the interface, partitions, the boot record. Knows nothing of the network."""
