# SPDX-License-Identifier: Apache-2.0
"""The only code that touches the outside: network, disk, flash, lights and buttons."""
