# SPDX-License-Identifier: Apache-2.0
"""`unbrickd gateway`: a virtual gateway to try everything with, before hardware is touched (docs/gateway.md)."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
from pathlib import Path

from unbrickd.adapters.files import read_file
from unbrickd.cli.console import Narrator
from unbrickd.cli.gateway_power import (
    STATUS_FILE,
    PoweredGateway,
    PowerOptions,
    ask_running,
    perform_set_config,
    perform_upgrade,
)
from unbrickd.cli.main import Subparsers
from unbrickd.cli.text import JsonValue, size_text
from unbrickd.errors import ConfigError
from unbrickd.model.geometry import MAX_TOTAL_BYTES
from unbrickd.model.layout import parse_layout
from unbrickd.model.manifest import ComponentKind
from unbrickd.model.toml_table import parse_size
from unbrickd.recovery.check import check_flash
from unbrickd.seal.identity import FirmwarePolicy, encode_recovery_code
from unbrickd.seal.maker import SignatureFile, decode_signature_file, encode_public_key, load_public_key
from unbrickd.sim.default_layout import default_layout
from unbrickd.sim.gateway import BUTTON_FILE, NewFirmware, VirtualGateway, create, new_identity
from unbrickd.sim.nor import Phase

SAMPLE_FILL = 0.75
"""Part of its partition that the made-up firmware fills, if none is given."""

_EPILOG = """\
A whole story, with `unbrickd serve` running in another window:

  unbrickd gateway create gw --firmware firmware.bin --config settings.tar.gz --server 127.0.0.1
  unbrickd gateway power-on gw --until good     boots, backs itself up, proves good
  unbrickd gateway damage gw --random 3         noise in three erase blocks
  unbrickd gateway power-on gw                  finds the damage, fetches three erase blocks, boots
"""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "gateway",
        help="a virtual gateway: create, power-on, damage, upgrade …",
        description=(
            "A virtual gateway: a directory with a simulated NOR flash chip, on which the product's own bootloader "
            "recovery and agent run. The chip refuses what hardware refuses."
        ),
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _add_create(actions)
    _add_power_on(actions)
    _add_damage(actions)
    _add_others(actions)
    return parser


def run(args: argparse.Namespace) -> int:
    return int(args.action(args))


def _action(actions: Subparsers, name: str, help_: str, epilog: str = "") -> argparse.ArgumentParser:
    parser = actions.add_parser(
        name, help=help_, description=help_, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="DIRECTORY", help="the gateway")
    return parser


def _add_create(actions: Subparsers) -> None:
    p = _action(
        actions,
        "create",
        "Make a gateway and provision it: keys, firmware, configuration, boot record.",
        "example:\n  unbrickd gateway create gw --firmware openwrt.bin --config backup.tar.gz --erase-block 64KiB",
    )
    p.add_argument("--firmware", type=Path, metavar="FILE", help="default: made-up bytes")
    p.add_argument("--firmware-version", default="1.0", metavar="TEXT", help="default: %(default)s")
    p.add_argument("--signature", type=Path, metavar="FILE", help="the maker's signature of the firmware")
    p.add_argument("--config", type=Path, metavar="FILE", help="default: made-up settings")
    p.add_argument("--layout", type=Path, metavar="FILE", help="layout file; without it the options below make one")
    p.add_argument("--flash-size", default="16MiB", metavar="SIZE", help="default: %(default)s")
    p.add_argument("--erase-block", default="64KiB", metavar="SIZE", help="default: %(default)s")
    p.add_argument("--model", default="virtual-1", metavar="NAME", help="default: %(default)s")
    p.add_argument(
        "--server", action="append", metavar="ADDRESS", help="where the server is; default: look for it on every link"
    )
    p.add_argument("--transport", choices=("udp", "tcp"), default="udp", help="default: %(default)s")
    p.add_argument("--good-after", type=float, default=30.0, metavar="S", help="default: %(default)s seconds")
    p.add_argument("--backup-after", type=float, default=5.0, metavar="S", help="after start; default: %(default)s s")
    p.add_argument("--maker-key", type=Path, metavar="FILE", help="run only firmware signed with this maker's key")
    p.add_argument("--json", action="store_true", help="print what was made as JSON")
    p.set_defaults(action=_create)


def _add_power_on(actions: Subparsers) -> None:
    p = _action(
        actions,
        "power-on",
        "Switch it on: bootloader, then, if it boots, the system with the agent, until Ctrl-C.",
        "example:\n  unbrickd gateway power-on gw --until good",
    )
    p.add_argument("--until", choices=("booted", "backed-up", "good"), default="", help="stop when this is reached")
    p.add_argument(
        "--cut-at-operation", type=int, metavar="N", help="cut the power at the Nth flash operation from now on"
    )
    p.add_argument("--cut-phase", choices=[x.value for x in Phase], default="torn", help="default: %(default)s")
    p.add_argument("--json", action="store_true", help="one JSON object a line for every event")
    p.set_defaults(action=_power_on)


def _add_damage(actions: Subparsers) -> None:
    p = _action(
        actions,
        "damage",
        "Damage the flash of a gateway that is off.",
        "examples:\n  unbrickd gateway damage gw --random 3\n"
        "  unbrickd gateway damage gw --partition config --erase-blocks 0,1\n"
        "  unbrickd gateway damage gw --torn-upgrade new.bin --after 40\n"
        "  unbrickd gateway damage gw --partition record --erase-blocks 0",
    )
    p.add_argument("--partition", default="firmware", metavar="NAME", help="default: %(default)s")
    how = p.add_mutually_exclusive_group(required=True)
    how.add_argument("--erase-blocks", metavar="LIST", help="indexes from 0, like 3,7,10-12")
    how.add_argument("--random", type=int, metavar="N", help="that many erase blocks of the component's image")
    how.add_argument("--flip-bits", type=int, metavar="N", help="that many bits of the partition")
    how.add_argument(
        "--torn-upgrade", type=Path, metavar="FILE", help="begin to write new firmware, then cut the power"
    )
    p.add_argument("--after", type=int, default=0, metavar="N", help="torn upgrade: after so many erase blocks")
    p.add_argument("--signature", type=Path, metavar="FILE", help="torn upgrade: the maker's signature")
    p.add_argument("--seed", type=int, help="of the random choice; default: another one each time")
    p.set_defaults(action=_damage)


def _add_others(actions: Subparsers) -> None:
    p = _action(actions, "upgrade", "Install new firmware, running or not; if it runs it restarts and backs up.")
    p.add_argument("file", type=Path, metavar="FILE")
    p.add_argument("--version", required=True, metavar="TEXT", help="of the new firmware")
    p.add_argument("--signature", type=Path, metavar="FILE", help="the maker's signature")
    p.add_argument("--hangs", action="store_true", help="this firmware is whole, but it does not come up")
    p.set_defaults(action=_upgrade)
    p = _action(actions, "set-config", "Replace the configuration, as its user does, running or not.")
    p.add_argument("file", type=Path, metavar="FILE")
    p.set_defaults(action=_set_config)
    p = _action(actions, "back-up", "Ask the running gateway for a backup now.")
    p.set_defaults(action=_back_up)
    p = _action(actions, "press-button", "Hold the button at the next power-on: restore whatever the flash holds.")
    p.add_argument("--release", action="store_true", help="do not, after all")
    p.set_defaults(action=_press_button)
    p = _action(actions, "cut-power", "Cut the power of a running gateway, at this very instant.")
    p.set_defaults(action=_cut_power)
    p = _action(actions, "status", "What it is doing, and the state of its flash.")
    p.add_argument("--json", action="store_true")
    p.set_defaults(action=_status)
    p = _action(actions, "extract", "Write what flash holds of a component to a file, to compare it.")
    p.add_argument("component", metavar="COMPONENT")
    p.add_argument("file", type=Path, metavar="FILE")
    p.set_defaults(action=_extract)


def _create(args: argparse.Namespace) -> int:
    if args.layout is not None:
        text = _read(args.layout).decode("utf-8", errors="replace")
    else:
        text = default_layout(
            model=args.model,
            size_bytes=parse_size(args.flash_size),
            erase_block_bytes=parse_size(args.erase_block),
            servers=tuple(args.server or ["discover"]),
            transport=args.transport,
            good_after_s=args.good_after,
            after_start_s=args.backup_after,
        )
    layout = parse_layout(text, source=str(args.layout or "layout"))
    maker_key = encode_public_key(load_public_key(_read(args.maker_key))) if args.maker_key else b""
    policy = FirmwarePolicy.MAKER if maker_key else FirmwarePolicy.OWNER
    identity = new_identity(layout.model, policy, maker_key)
    component = next(c for c in layout.components if c.kind is ComponentKind.FIRMWARE)
    room = layout.partition(component.place.target)
    assert room is not None, "parse_layout made sure of it"
    octets = _read(args.firmware) if args.firmware else random.Random(1).randbytes(int(room.size_bytes * SAMPLE_FILL))
    config = _read(args.config) if args.config else b"# made-up settings of a virtual gateway\n" * 100
    create(
        args.directory,
        text,
        identity=identity,
        firmware=NewFirmware(octets=octets, version=args.firmware_version, signature=_signature(args.signature)),
        config=config,
    )
    code = encode_recovery_code(identity.recovery_secret)
    if args.json:
        return _print_json({"device_id": identity.device_id.hex(), "model": layout.model, "recovery_code": code})
    print(f"Made {layout.model} {identity.device_id.hex()} in {args.directory}.")
    print(f"\nIts recovery code is shown only this once; write it down:\n\n    {code}\n")
    print("With it you can open this gateway's backups without the gateway.")
    return 0


def _power_on(args: argparse.Namespace) -> int:
    options = PowerOptions(until=args.until, cut_at=args.cut_at_operation, cut_phase=Phase(args.cut_phase))
    with VirtualGateway(args.directory) as gateway, Narrator(as_json=args.json) as narrator:
        return PoweredGateway(gateway, narrator, options).run()


def _damage(args: argparse.Namespace) -> int:
    with VirtualGateway(args.directory) as gateway:
        rng = random.Random(args.seed)
        if args.flip_bits is not None:
            gateway.flip_bits(args.partition, args.flip_bits)
            return _say(f"{args.flip_bits} bits of {args.partition} flipped")
        if args.torn_upgrade is not None:
            firmware = NewFirmware(
                octets=_read(args.torn_upgrade), version="torn", signature=_signature(args.signature)
            )
            gateway.tear_upgrade(firmware, erase_blocks=args.after)
            return _say(f"the power was cut in the middle of erase block {args.after} of an upgrade")
        if args.random is not None:
            component = next((c for c in gateway.layout.components if c.place.target == args.partition), None)
            loaded = gateway.device.record.load()
            manifest = None
            if component is not None and loaded is not None:
                manifest = loaded.record.sealed.generation.component(component.component_id)
            size = gateway.layout.partition(args.partition)
            if manifest is None and size is None:
                raise ConfigError(f"there is no partition {args.partition!r}", code="partition")
            count = manifest.geometry.count if manifest is not None else 1
            if not 1 <= args.random <= count:
                raise ConfigError(f"{args.partition} has {count} erase blocks in use", code="damage")
            indexes = sorted(rng.sample(range(count), args.random))
        else:
            indexes = _indexes(args.erase_blocks)
        try:
            gateway.damage(args.partition, indexes, rng=rng)
        except IndexError as error:
            raise ConfigError(f"{args.partition}: {error}", code="damage") from error
    many = "" if len(indexes) == 1 else "s"
    shown = ", ".join(map(str, indexes)) if len(indexes) <= 10 else f"{indexes[0]} … {indexes[-1]} ({len(indexes)})"
    return _say(f"noise is written to erase block{many} {shown} of {args.partition}")


def _indexes(text: str) -> list[int]:
    indexes: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            indexes += range(int(first), int(last or first) + 1)
    except ValueError as error:
        raise ConfigError(f"{text!r} is not a list like 3,7,10-12", code="damage") from error
    return sorted(set(indexes))


def _upgrade(args: argparse.Namespace) -> int:
    request = {"what": "upgrade", "file": str(args.file.absolute()), "version": args.version}
    _read(args.file)
    if args.signature:
        request["signature"] = str(args.signature.absolute())
    if args.hangs:
        request["hangs"] = "yes"
    try:
        with VirtualGateway(args.directory) as gateway:
            return _say(perform_upgrade(gateway, request) + "; it is backed up after the next power-on")
    except ConfigError as error:
        if error.code != "gateway-on":
            raise
    return _say(ask_running(args.directory, request))


def _set_config(args: argparse.Namespace) -> int:
    request = {"what": "set-config", "file": str(args.file.absolute())}
    _read(args.file)
    try:
        with VirtualGateway(args.directory) as gateway:
            return _say(perform_set_config(gateway, request) + "; it is backed up after the next power-on")
    except ConfigError as error:
        if error.code != "gateway-on":
            raise
    return _say(ask_running(args.directory, request))


def _press_button(args: argparse.Namespace) -> int:
    if not (args.directory / "layout.toml").exists():
        raise ConfigError(f"{args.directory} is no virtual gateway", code="gateway")
    path = args.directory / BUTTON_FILE
    if args.release:
        path.unlink(missing_ok=True)
        return _say("the button is let go")
    path.touch()
    return _say("the button is held until the next power-on")


def _back_up(args: argparse.Namespace) -> int:
    _require_running(args.directory)
    return _say(ask_running(args.directory, {"what": "back-up"}))


def _cut_power(args: argparse.Namespace) -> int:
    status = _require_running(args.directory)
    # SIGKILL where there is one: nothing of the process runs any more. Windows' SIGTERM ends it as abruptly.
    os.kill(int(str(status["pid"])), getattr(signal, "SIGKILL", signal.SIGTERM))
    (args.directory / STATUS_FILE).unlink(missing_ok=True)
    return _say("the power is cut")


def _require_running(directory: Path) -> dict[str, JsonValue]:
    status = _running_status(directory)
    if status is None:
        raise ConfigError(
            f"the gateway in {directory} is off", code="off", hint="switch it on with `unbrickd gateway power-on`"
        )
    return status


def _running_status(directory: Path) -> dict[str, JsonValue] | None:
    """What the running process says of itself, or None if the gateway is off."""
    try:
        with VirtualGateway(directory):
            return None
    except ConfigError as error:
        if error.code != "gateway-on":
            raise
    try:
        status = json.loads((directory / STATUS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigError("the gateway is just being switched on or off", code="busy", retry=True) from None
    return dict(status)


def _status(args: argparse.Namespace) -> int:
    running = _running_status(args.directory)
    if running is not None:
        if args.json:
            return _print_json({"power": "on", **running})
        return _say(f"on, process {running['pid']}: {running['state']}; light {running['light']}")
    with VirtualGateway(args.directory) as gateway:
        findings = check_flash(gateway.device)
        loaded = findings.loaded
        summary: dict[str, JsonValue] = {
            "power": "off",
            "device_id": gateway.identity.device_id.hex(),
            "model": gateway.layout.model,
            "generation": loaded.record.sealed.generation.number if loaded else None,
            "good": loaded.is_good if loaded else None,
            "failed_boots": loaded.failed_boots if loaded else None,
            "bootable": findings.bootable,
            "components": [
                {"name": c.name, "version": c.version, "erase_blocks": c.erase_blocks, "damaged": list(c.damaged)}
                for c in findings.components
            ],
        }
        if args.json:
            return _print_json(summary)
        print(f"off; {gateway.layout.model} {gateway.identity.device_id.hex()}")
        if loaded is None:
            return _say("the boot record is lost in both copies")
        state = "good" if loaded.is_good else "on trial"
        print(f"generation {loaded.record.sealed.generation.number}, {state}, {loaded.failed_boots} failed boots")
        for c in findings.components:
            slot = gateway.device.slot(c.component_id)
            assert slot is not None
            print(
                f"  {c.name} {c.version}: {len(c.damaged)} of {c.erase_blocks} erase blocks damaged, "
                f"partition {size_text(slot.flash.geometry.total_bytes)}"
            )
    return 0


def _extract(args: argparse.Namespace) -> int:
    with VirtualGateway(args.directory) as gateway:
        if gateway.layout.component(args.component) is None:
            names = ", ".join(c.name for c in gateway.layout.components)
            raise ConfigError(f"there is no component {args.component!r}", code="component", hint=f"there are: {names}")
        octets = gateway.component_bytes(args.component)
    try:
        args.file.write_bytes(octets)
    except OSError as error:
        raise ConfigError(f"{args.file} cannot be written: {error.strerror}", code="not-writable") from error
    return _say(f"{size_text(len(octets))} written to {args.file}")


def _signature(path: Path | None) -> SignatureFile | None:
    return decode_signature_file(_read(path).decode("utf-8", errors="replace")) if path else None


def _read(path: Path) -> bytes:
    return read_file(path, limit_bytes=MAX_TOTAL_BYTES)


def _say(text: str) -> int:
    print(text)
    return 0


def _print_json(members: dict[str, JsonValue]) -> int:
    print(json.dumps(members, indent=2))
    return 0
