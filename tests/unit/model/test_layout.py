# SPDX-License-Identifier: Apache-2.0
"""The layout file: what it gives, and that every mistake is named with file, line and key."""

from __future__ import annotations

import pytest

from unbrickd.errors import ConfigError
from unbrickd.model.layout import PlaceKind, parse_layout
from unbrickd.model.manifest import ComponentKind
from unbrickd.model.toml_table import parse_size

GOOD = """\
model = "r1"
good_after_s = 2

[flash]
size = "1MiB"
erase_blocks = [[8, "8KiB"], [15, "64KiB"]]

[[partition]]
name = "identity"
size = "64KiB"
protected = true

[[partition]]
name = "record"
size = "128KiB"

[[partition]]
name = "config"
size = "64KiB"

[[partition]]
name = "firmware"
offset = 0x40000
size = "768KiB"

[[component]]
name = "firmware"

[[component]]
name = "config"

[backup]
after_start_s = 5
period_s = false

[link]
transport = "tcp"
servers = ["192.168.1.10"]
"""


def test_layout_good_gives_all_of_it() -> None:
    layout = parse_layout(GOOD, source="r1.toml")
    assert layout.flash is not None
    assert layout.flash.count == 23
    assert [(p.name, p.offset_bytes, p.protected) for p in layout.partitions] == [
        ("identity", 0, True),
        ("record", 0x10000, False),
        ("config", 0x30000, False),
        ("firmware", 0x40000, False),
    ]
    firmware, config = layout.components
    assert (firmware.component_id, firmware.kind, firmware.sealed) == (1, ComponentKind.FIRMWARE, False)
    assert (config.component_id, config.kind, config.sealed) == (2, ComponentKind.CONFIG, True)
    assert layout.record.kind is PlaceKind.PARTITION
    assert layout.backup.after_start_s == 5
    assert layout.backup.period_s is None
    assert layout.link.transport == "tcp"
    assert layout.good_after_s == 2


@pytest.mark.parametrize(
    ("old", "new", "line", "key"),
    [
        ('model = "r1"', "model = 5", 1, "model"),
        ('size = "1MiB"', 'size = "1 apple"', 5, "flash.size"),
        ('[15, "64KiB"]', '[15, "60KiB"]', 6, "flash.erase_blocks"),
        ('[15, "64KiB"]', '["15", "64KiB"]', 6, "flash.erase_blocks"),
        ('size = "128KiB"', 'size = "100KiB"', 15, "partition.size"),
        ('name = "config"\nsize', 'name = "record"\nsize', 18, "partition.name"),
        ("offset = 0x40000", "offset = 0x30000", 23, "partition.offset"),
        ("offset = 0x40000", "ofset = 0x40000", 23, "partition.ofset"),
        ('size = "768KiB"', 'size = "2MiB"', 24, "partition.size"),
        ('[[component]]\nname = "config"', '[[component]]\nname = "conf"', 29, "component"),
        ('[[component]]\nname = "firmware"', '[[component]]\nname = "firmware"\nid = 0', 28, "component.id"),
        ("after_start_s = 5", "after_start_s = -5", 33, "backup.after_start_s"),
        ("period_s = false", "period_s = true", 34, "backup.period_s"),
        ('transport = "tcp"', 'transport = "ip"', 37, "link.transport"),
        ('servers = ["192.168.1.10"]', "servers = [1]", 38, "link.servers"),
        ('servers = ["192.168.1.10"]', 'borrow_address = "eth0"', 38, "link.borrow_address"),
    ],
)
def test_layout_mistake_is_named_with_line_and_key(old: str, new: str, line: int, key: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        parse_layout(GOOD.replace(old, new, 1), source="r1.toml")
    assert str(caught.value).startswith(f"r1.toml:{line}: {key}")


def test_layout_syntax_error_names_its_line() -> None:
    with pytest.raises(ConfigError, match=r"r1\.toml: .*line 2"):
        parse_layout('model = "r1"\nflash = [1,, 2]', source="r1.toml")


@pytest.mark.parametrize(
    "text",
    [
        'model = "r1"',
        'model = "r1"\n[[component]]\nname = "config"\nfile = "c"\nsize = "64KiB"',
        'model = "r1"\n[[component]]\nname = "firmware"\nmtd = "/dev/mtd1"\nfile = "f"\nsize = 1',
        'model = "r1"\n[[partition]]\nname = "x"\nsize = 1',
        'model = ""',
    ],
)
def test_layout_incomplete_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^r1\.toml"):
        parse_layout(text, source="r1.toml")


@pytest.mark.parametrize(
    ("text", "count"), [("65536", 65536), ("64KiB", 65536), ("0x10000", 65536), ("16 MiB", 16 << 20)]
)
def test_parse_size_reads_units(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "KiB", "-1", "1.5MiB", "64KB", "1TiB"])
def test_parse_size_of_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        parse_size(text)
