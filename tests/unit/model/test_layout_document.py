# SPDX-License-Identifier: Apache-2.0
"""docs/layout.md is kept true: its examples are read by the product, and its tables name every key with its default."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from unbrickd.errors import ConfigError
from unbrickd.model.layout import Layout, LinkLayout, PlaceKind, parse_layout
from unbrickd.model.policy import BackupPolicy, BootPolicy

TEXT = (Path(__file__).parents[3] / "docs" / "layout.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
VIRTUAL, OPENWRT = EXAMPLES
MINIMAL = """\
model = "m"
identity = { mtd = "/dev/mtd0" }
record = { mtd = "/dev/mtd1" }
[[component]]
name = "firmware"
mtd = "/dev/mtd2"
"""


def parsed(text: str) -> Layout:
    return parse_layout(text, source="docs/layout.md")


def section(heading: str) -> str:
    """From the heading that begins so to the next."""
    return TEXT.split(f"\n## {heading}", 1)[1].split("\n## ", 1)[0]


def table(heading: str) -> dict[str, str]:
    """key → default, as the section's table has them."""
    return dict(re.findall(r"^\| `(\w+)` \|\s*([^|]*?)\s*\|", section(heading), re.MULTILINE))


def known_keys(text: str) -> set[str]:
    """Which keys the product knows in the table at whose end a stray one was put."""
    with pytest.raises(ConfigError, match="no such key") as caught:
        parsed(text)
    return set(caught.value.hint.removeprefix("known here: ").split(", "))


def test_layout_document_virtual_gateway_lies_on_its_chip_whole() -> None:
    layout = parsed(VIRTUAL)
    assert layout.flash is not None
    last = layout.partitions[-1]
    assert last.offset_bytes + last.size_bytes == layout.flash.total_bytes, "no flash is left over"
    assert {p.name for p in layout.partitions if p.protected} == {"bootloader", "identity"}
    places = (layout.identity, layout.record, *(c.place for c in layout.components))
    assert all(place.kind is PlaceKind.PARTITION for place in places)


def test_layout_document_openwrt_device_has_real_places_only() -> None:
    layout = parsed(OPENWRT)
    firmware, config = layout.components
    assert (layout.flash, layout.partitions) == (None, ())
    assert {layout.identity.kind, layout.record.kind, firmware.place.kind} == {PlaceKind.MTD}
    assert config.place.kind is PlaceKind.COMMAND and config.sealed
    assert firmware.length_file and firmware.length_file in TEXT.split("```sh", 1)[1], "the service writes it"


@pytest.mark.parametrize(
    ("heading", "text"),
    [
        ("At the top", "stray = 1\n" + MINIMAL),
        ("`[link]`", MINIMAL + "[link]\nstray = 1\n"),
        ("`[backup]`", MINIMAL + "[backup]\nstray = 1\n"),
        ("`[recovery]`", MINIMAL + "[recovery]\nstray = 1\n"),
    ],
)
def test_layout_document_table_names_every_key(heading: str, text: str) -> None:
    assert set(table(heading)) == known_keys(text)


@pytest.mark.parametrize(
    ("headings", "text"),
    [
        (("`[flash]`",), VIRTUAL.replace("[flash]\n", "[flash]\nstray = 1\n")),
        (("`[flash]`",), VIRTUAL.replace("[[partition]]\n", "[[partition]]\nstray = 1\n")),
        (("`[[component]]`", "Places"), MINIMAL + "stray = 1\n"),
        (("`[[component]]`", "Places"), OPENWRT.replace('name = "config"', 'name = "config"\nstray = 1')),
        (("Places",), OPENWRT.replace("[identity]\n", "[identity]\nstray = 1\n")),
    ],
)
def test_layout_document_section_names_every_key(headings: tuple[str, ...], text: str) -> None:
    told = set(re.findall(r"`(\w+)`", "".join(section(heading) for heading in headings)))
    assert known_keys(text) <= told


def test_layout_document_defaults_are_the_codes() -> None:
    def defaults(heading: str) -> dict[str, object]:
        shown = {key: default.strip("`") for key, default in table(heading).items()}
        return tomllib.loads("\n".join(f"{key} = {default}" for key, default in shown.items()))

    link, backup, boot = LinkLayout(), BackupPolicy(), BootPolicy()
    assert defaults("`[link]`") == {
        "transport": link.transport,
        "servers": list(link.servers),
        "max_message": link.max_message_bytes,
        "ring_frames": link.ring_frames,
        "probe_tries": link.probe_tries,
        "borrow_address": link.borrow_address,
    }
    assert defaults("`[backup]`") == {
        "after_start_s": backup.after_start_s,
        "period_s": backup.period_s,
        "jitter_percent": backup.jitter * 100,
        "after_upgrade": backup.after_upgrade,
        "after_config_change": backup.after_config_change,
        "debounce_s": backup.debounce_s,
    }
    assert defaults("`[recovery]`") == {"boot_limit": boot.boot_limit, "wait_s": boot.wait_s}
    layout = parsed(MINIMAL)
    assert (layout.link, layout.backup, layout.boot) == (link, backup, boot)
    assert table("At the top")["good_after_s"] == f"{layout.good_after_s:g}"
