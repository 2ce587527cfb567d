# SPDX-License-Identifier: Apache-2.0
"""The layout file of a virtual gateway made without one: a chip of equal erase blocks, divided for its user.

Text only; `model.layout` reads it. docs/layout.md explains every key.
"""

from __future__ import annotations

from unbrickd.errors import ConfigError

_LAYOUT = """\
# Layout of a virtual gateway; docs/layout.md explains every key.
model = "{model}"
good_after_s = {good_after_s}   # how long software must run until it counts as good

[flash]
size = "{size}"
{erase_blocks}

[[partition]]
name = "bootloader"
size = "{bootloader}"
protected = true

[[partition]]
name = "identity"     # device key and the maker's public key
size = "{identity}"
protected = true

[[partition]]
name = "record"       # the boot record, two copies
size = "{record}"

[[partition]]
name = "config"
size = "{config}"

[[partition]]
name = "firmware"
size = "{firmware}"

[[component]]
name = "firmware"

[[component]]
name = "config"

[link]
transport = "{transport}"
servers = [{servers}]

[backup]
after_start_s = {after_start_s}
debounce_s = {debounce_s}

[recovery]
wait_s = {wait_s}
"""


def default_layout(
    *,
    model: str,
    size_bytes: int,
    erase_block_bytes: int,
    servers: tuple[str, ...],
    transport: str = "udp",
    config_bytes: int = 128 << 10,
    good_after_s: float = 30.0,
    after_start_s: float = 5.0,
    debounce_s: float = 2.0,
    wait_s: float = 60.0,
) -> str:
    """A layout file's text for a chip of equal erase blocks; the firmware gets what the rest does not need.

    Raises ConfigError if the chip is too small.
    """
    block = erase_block_bytes
    if block < 1 or size_bytes % block:
        raise ConfigError(f"{size_bytes} bytes are not a whole number of erase blocks of {block}", code="geometry")

    def whole(count: int) -> int:
        return -(-count // block) * block

    # 4 KiB of heads, signature and journal, and 32 bytes a digest, two tables for the sealed configuration.
    digests = size_bytes // block + 2 * -(-config_bytes // block)
    sizes = {
        "bootloader": whole(256 << 10),
        "identity": whole(2048),
        "record": 2 * whole(4096 + 32 * digests),
        "config": whole(config_bytes),
    }
    firmware = size_bytes - sum(sizes.values())
    if firmware < block:
        raise ConfigError(
            f"{size_bytes} bytes of flash leave no room for firmware",
            code="geometry",
            hint="give a larger --flash-size or a smaller --erase-block",
        )
    kib = {name: f"{count >> 10}KiB" if count % 1024 == 0 else str(count) for name, count in sizes.items()}
    return _LAYOUT.format(
        model=model,
        size=f"{size_bytes >> 10}KiB" if size_bytes % 1024 == 0 else size_bytes,
        erase_blocks=f"erase_block = {block}",
        firmware=firmware,
        transport=transport,
        servers=", ".join(f'"{s}"' for s in servers),
        good_after_s=good_after_s,
        after_start_s=after_start_s,
        debounce_s=debounce_s,
        wait_s=wait_s,
        **kib,
    )
