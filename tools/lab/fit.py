# SPDX-License-Identifier: Apache-2.0
"""Firmware as U-Boot boots it: kernel and root file system in one FIT image, with hashes that U-Boot checks."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tools.lab import debian
from tools.lab.steps import run

PACKAGES = ("u-boot-tools", "device-tree-compiler")
CONFIGURATION = "gateway"
KERNEL_ADDRESS = 0x4100_0000
"""Where the compressed kernel runs from: above where it unpacks itself to."""
RAMDISK_ADDRESS = 0x4800_0000
"""The kernel takes a root file system from RAM only, so U-Boot copies it out of flash."""

_SOURCE = """\
/dts-v1/;
/ {{
    description = "firmware of the laboratory's gateway";
    #address-cells = <1>;
    images {{
        kernel {{
            data = /incbin/("{kernel}");
            type = "kernel";
            arch = "{architecture}";
            os = "linux";
            compression = "none";
            load = <{kernel_address:#x}>;
            entry = <{kernel_address:#x}>;
            hash {{ algo = "sha256"; }};
        }};
        root {{
            data = /incbin/("{initramfs}");
            type = "ramdisk";
            arch = "{architecture}";
            os = "linux";
            compression = "none";
            load = <{ramdisk_address:#x}>;
            hash {{ algo = "sha256"; }};
        }};
    }};
    configurations {{
        default = "{configuration}";
        {configuration} {{ kernel = "kernel"; ramdisk = "root"; }};
    }};
}};
"""


def boot_command(address: int) -> str:
    """U-Boot's command that verifies and starts the image at that address, with the device tree that QEMU left in RAM.

    It names the configuration, since this U-Boot looks for one that fits its own device tree otherwise.
    """
    image = f"{address:#x}#{CONFIGURATION}"
    return f"bootm {image} {image} ${{fdt_addr}}"


def firmware(kernel: Path, initramfs: Path, *, architecture: str = "arm") -> bytes:
    """The FIT image. architecture: of the kernel, as U-Boot names it."""
    debian.need(*PACKAGES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "firmware.its").write_text(
            _SOURCE.format(
                configuration=CONFIGURATION,
                architecture=architecture,
                kernel=kernel,
                initramfs=initramfs,
                kernel_address=KERNEL_ADDRESS,
                ramdisk_address=RAMDISK_ADDRESS,
            )
        )
        epoch = {"SOURCE_DATE_EPOCH": "0"}  # the same inputs, the same bytes
        run(["mkimage", "-f", "firmware.its", "firmware.itb"], folder=folder, env=epoch)
        return (folder / "firmware.itb").read_bytes()
