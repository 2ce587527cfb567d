# SPDX-License-Identifier: Apache-2.0
"""The layout file of a device: where its components lie and how it behaves, from TOML (docs/layout.md).

One format for the virtual gateway, whose partitions lie on a simulated chip, and for real devices, whose places are MTD
partitions, files and commands. Reads no file itself; raises only ConfigError, with line and key.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from unbrickd.errors import ConfigError
from unbrickd.model.geometry import EraseRun, Geometry
from unbrickd.model.manifest import MAX_COMPONENTS, MAX_MODEL_BYTES, MAX_NAME_BYTES, ComponentKind
from unbrickd.model.policy import BackupPolicy, BootPolicy
from unbrickd.model.toml_table import TomlTable, parse_size, parse_toml

MAX_PARTITIONS = 32
DEFAULT_ERASE_BLOCK_BYTES = 64 << 10


class PlaceKind(Enum):
    """What holds the bytes of a component, of the identity or of the boot record."""

    PARTITION = "partition"
    MTD = "mtd"
    FILE = "file"
    COMMAND = "command"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where something lies.

    PARTITION: `target` is the name of a partition of the simulated chip. MTD: the character device. FILE: the path,
    with `geometry` as its size. COMMAND: `command` prints the contents, `restore` takes them on its standard input;
    `geometry` bounds and divides them.
    """

    kind: PlaceKind
    target: str = ""
    geometry: Geometry | None = None
    command: tuple[str, ...] = ()
    restore: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionLayout:
    """A partition of the simulated chip; `protected` ones are locked in hardware."""

    name: str
    offset_bytes: int
    size_bytes: int
    protected: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentLayout:
    """One component. On real devices, files tell of what is installed: version_file and length_file in their first
    line its version and its length in bytes, signature_file with the maker's signature all of it."""

    component_id: int
    name: str
    kind: ComponentKind
    sealed: bool
    place: Place
    version_file: str = ""
    length_file: str = ""
    signature_file: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkLayout:
    """How the device reaches a server.

    servers: host, host:port, or "discover" for broadcast and multicast. borrow_address: the interface that may take an
    address of the server's network if it has none; "" for none.
    """

    transport: str = "udp"
    servers: tuple[str, ...] = ("discover",)
    max_message_bytes: int = 1452
    ring_frames: int = 0
    probe_tries: int = 7
    borrow_address: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """All of the layout file. `flash` and `partitions` are the simulated chip's; None and empty on a real device."""

    model: str
    flash: Geometry | None
    partitions: tuple[PartitionLayout, ...]
    identity: Place
    record: Place
    components: tuple[ComponentLayout, ...]
    link: LinkLayout
    backup: BackupPolicy
    boot: BootPolicy
    good_after_s: float

    def partition(self, name: str) -> PartitionLayout | None:
        return next((p for p in self.partitions if p.name == name), None)

    def component(self, name: str) -> ComponentLayout | None:
        return next((c for c in self.components if c.name == name), None)


def parse_layout(text: str, *, source: str) -> Layout:
    """Read a layout file's text; `source` names it in errors."""
    top = parse_toml(text, source=source)
    model = top.string("model")
    if not 0 < len(model.encode()) <= MAX_MODEL_BYTES:
        top.fail("model", f"must be 1 to {MAX_MODEL_BYTES} bytes")
    flash = _flash(top.table("flash")) if "flash" in top else None
    partitions = _partitions(top, flash)
    layout = Layout(
        model=model,
        flash=flash,
        partitions=partitions,
        identity=_lone_place(top, "identity", partitions),
        record=_lone_place(top, "record", partitions),
        components=_components(top, partitions),
        link=_link(top.table("link")),
        backup=_backup(top.table("backup")),
        boot=_boot(top.table("recovery")),
        good_after_s=top.seconds("good_after_s", 300.0) or 0.0,
    )
    top.done()
    return layout


def _erase_runs(table: TomlTable, total_bytes: int) -> Geometry:
    """`erase_block` for a uniform division of `total_bytes`, or `erase_blocks = [[count, size], …]`."""
    if "erase_blocks" in table:
        key = "erase_blocks"
        runs = [_run(table, entry) for entry in table.list(key)]
    else:
        key = "erase_block"
        size = table.size(key, DEFAULT_ERASE_BLOCK_BYTES)
        if size == 0 or total_bytes % size:
            table.fail(key, f"{total_bytes} bytes are not a whole number of erase blocks of {size}")
        runs = [EraseRun(count=total_bytes // size, size_bytes=size)]
    try:
        geometry = Geometry(tuple(runs))
    except ConfigError as error:
        table.fail(key, str(error))
    if geometry.total_bytes != total_bytes:
        table.fail(key, f"they are {geometry.total_bytes} bytes, the size is {total_bytes}")
    return geometry


def _run(table: TomlTable, entry: object) -> EraseRun:
    match entry:
        case [int(count), int(size)]:
            return EraseRun(count=count, size_bytes=size)
        case [int(count), str(size)]:
            return EraseRun(count=count, size_bytes=parse_size(size))
    table.fail("erase_blocks", 'must be a list of [count, size], like [[8, "8KiB"], [255, "64KiB"]]')


def _flash(table: TomlTable) -> Geometry:
    geometry = _erase_runs(table, table.size("size"))
    table.done()
    return geometry


def _partitions(top: TomlTable, flash: Geometry | None) -> tuple[PartitionLayout, ...]:
    partitions: list[PartitionLayout] = []
    next_offset = 0
    for table in top.tables("partition"):
        if flash is None:
            table.fail(None, "partitions need a [flash] table")
        name = table.string("name")
        offset, size = table.size("offset", next_offset), table.size("size")
        try:
            covered = flash.cut(offset_bytes=offset, length_bytes=size)
        except ConfigError as error:
            table.fail("size", str(error))
        if covered.total_bytes != size:
            table.fail("size", f"{size} bytes at {offset:#x} do not end with an erase block")
        if offset < next_offset:
            table.fail("offset", f"begins within the partition before it, which ends at {next_offset:#x}")
        if any(p.name == name for p in partitions):
            table.fail("name", f"there are two partitions {name!r}")
        partitions.append(
            PartitionLayout(
                name=name, offset_bytes=offset, size_bytes=size, protected=table.boolean("protected", False)
            )
        )
        next_offset = offset + size
        table.done()
    if len(partitions) > MAX_PARTITIONS:
        top.fail("partition", f"at most {MAX_PARTITIONS} partitions")
    return tuple(partitions)


def _place(table: TomlTable, partitions: tuple[PartitionLayout, ...], fallback: str) -> Place:
    """One of partition, mtd, file or command; none at all means the partition named like what is to be placed."""
    kinds = [kind for kind in PlaceKind if kind.value in table]
    if len(kinds) > 1:
        table.fail(kinds[1].value, f"there is {kinds[0].value!r} already; only one of them can be")
    kind = kinds[0] if kinds else PlaceKind.PARTITION
    if kind is PlaceKind.PARTITION:
        target = table.string("partition", fallback)
        if not any(p.name == target for p in partitions):
            table.fail(
                "partition", f"there is no partition {target!r}", hint="name a [[partition]], mtd, file or command"
            )
        place = Place(kind=kind, target=target)
    elif kind is PlaceKind.MTD:
        place = Place(kind=kind, target=table.string("mtd"))
    elif kind is PlaceKind.FILE:
        place = Place(kind=kind, target=table.string("file"), geometry=_erase_runs(table, table.size("size")))
    else:
        place = Place(
            kind=kind,
            command=table.strings("command"),
            restore=table.strings("restore", ()),
            geometry=_erase_runs(table, table.size("size")),
        )
        if not place.command:
            table.fail("command", "must name a program")
    return place


def _lone_place(top: TomlTable, name: str, partitions: tuple[PartitionLayout, ...]) -> Place:
    table = top.table(name)
    place = _place(table, partitions, name)
    table.done()
    return place


def _components(top: TomlTable, partitions: tuple[PartitionLayout, ...]) -> tuple[ComponentLayout, ...]:
    kinds = {kind.name.lower(): kind for kind in ComponentKind}
    components: list[ComponentLayout] = []
    for table in top.tables("component"):
        name = table.string("name")
        if not 0 < len(name.encode()) <= MAX_NAME_BYTES:
            table.fail("name", f"must be 1 to {MAX_NAME_BYTES} bytes")
        kind = table.choice("kind", kinds, name if name in kinds else None)
        component = ComponentLayout(
            component_id=table.integer("id", len(components) + 1, lowest=1, highest=255),
            name=name,
            kind=kind,
            sealed=table.boolean("sealed", kind is ComponentKind.CONFIG),
            place=_place(table, partitions, name),
            version_file=table.string("version_file", ""),
            length_file=table.string("length_file", ""),
            signature_file=table.string("signature_file", ""),
        )
        if any(c.component_id >= component.component_id for c in components):
            table.fail("id", "ids must grow from component to component")
        if any(c.name == name for c in components):
            table.fail("name", f"there are two components {name!r}")
        components.append(component)
        table.done()
    if not 1 <= len(components) <= MAX_COMPONENTS:
        top.fail("component", f"1 to {MAX_COMPONENTS} components are needed")
    if not any(c.kind is ComponentKind.FIRMWARE for c in components):
        top.fail("component", "one of them must be of kind firmware")
    return tuple(components)


def _link(table: TomlTable) -> LinkLayout:
    transport = table.string("transport", "udp")
    if transport not in ("udp", "tcp"):
        table.fail("transport", f"{transport!r} is not one of udp, tcp")
    link = LinkLayout(
        transport=transport,
        servers=table.strings("servers", ("discover",)),
        max_message_bytes=table.integer("max_message", 1452, lowest=1232, highest=65535),
        ring_frames=table.integer("ring_frames", 0, highest=65535),
        probe_tries=table.integer("probe_tries", 7, lowest=1, highest=1000),
        borrow_address=table.string("borrow_address", ""),
    )
    if link.borrow_address and (transport != "udp" or "discover" not in link.servers):
        table.fail("borrow_address", 'needs transport "udp" and "discover" among the servers')
    table.done()
    return link


def _backup(table: TomlTable) -> BackupPolicy:
    default = BackupPolicy()
    jitter = table.integer("jitter_percent", 10, highest=50)
    policy = BackupPolicy(
        after_start_s=table.seconds("after_start_s", default.after_start_s, off=True),
        period_s=table.seconds("period_s", default.period_s, off=True),
        jitter=jitter / 100,
        after_upgrade=table.boolean("after_upgrade", default.after_upgrade),
        after_config_change=table.boolean("after_config_change", default.after_config_change),
        debounce_s=table.seconds("debounce_s", default.debounce_s) or 0.0,
    )
    table.done()
    return policy


def _boot(table: TomlTable) -> BootPolicy:
    default = BootPolicy()
    policy = BootPolicy(
        boot_limit=table.integer("boot_limit", default.boot_limit, lowest=1, highest=1000),
        wait_s=table.seconds("wait_s", default.wait_s) or 0.0,
    )
    table.done()
    return policy
