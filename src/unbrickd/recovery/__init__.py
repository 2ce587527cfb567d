# SPDX-License-Identifier: Apache-2.0
"""What the bootloader does at power-on: check, decide, restore, boot. Knows no sockets; time comes as an argument."""
