# SPDX-License-Identifier: Apache-2.0
"""`unbrickd keys sign`: the maker's signature on a firmware image (spec/flash-format.md §3.3, §6)."""

from __future__ import annotations

import argparse
from pathlib import Path

from unbrickd.adapters.device import read_layout
from unbrickd.adapters.memory import write_whole
from unbrickd.cli.keys.firmware import firmware_manifest, read_image
from unbrickd.cli.keys.report import add_json, add_passphrase, read_key, read_passphrase, report
from unbrickd.cli.main import Subparsers
from unbrickd.errors import ConfigError
from unbrickd.model.geometry import Geometry
from unbrickd.model.layout import ComponentLayout, Layout, PlaceKind
from unbrickd.model.manifest import ComponentKind
from unbrickd.model.toml_table import parse_size
from unbrickd.seal.maker import SignatureFile, encode_signature_file, firmware_statement, sign_firmware


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "sign",
        help="sign a firmware image",
        description="Writes the maker's signature on a firmware image, for devices with the policy maker.",
        epilog="example: unbrickd keys sign --key keys/maker-private.pem --model acme-rx1 --version 2.1 "
        "--erase-block 64KiB firmware.bin",
    )
    parser.add_argument("image", type=Path, metavar="IMAGE", help="the bytes as they lie in the firmware partition")
    parser.add_argument("--key", type=Path, required=True, metavar="PRIV", help="the maker's private key")
    add_passphrase(parser)
    parser.add_argument("--model", help="the model it is for (from the layout, if one is given)")
    parser.add_argument("--version", required=True, help="its version, at most 64 bytes")
    parser.add_argument(
        "--rollback-index", type=int, default=0, metavar="N", help="devices never go back below the highest they ran"
    )
    division = parser.add_mutually_exclusive_group(required=True)
    division.add_argument("--erase-block", metavar="SIZE", help="size of the erase blocks it lies in, such as 64KiB")
    division.add_argument("--layout", type=Path, metavar="FILE", help="the device's layout file, which names them")
    parser.add_argument("--component", metavar="NAME", help="which component of the layout, if it has several firmware")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: IMAGE.sig")
    add_json(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    image = read_image(args.image)
    model, geometry = _model_and_geometry(args, len(image))
    # The texts are checked here, where a ConfigError names them, before the manifest would call them corrupt.
    firmware_statement(model=model, version=args.version, rollback_index=args.rollback_index, image_digest=bytes(32))
    manifest = firmware_manifest(image, geometry, version=args.version, rollback_index=args.rollback_index)
    signature = sign_firmware(
        read_key(args.key),
        read_passphrase(args.passphrase_file),
        model=model,
        version=args.version,
        rollback_index=args.rollback_index,
        image_digest=manifest.image_digest,
    )
    file = SignatureFile(
        model=model,
        version=args.version,
        rollback_index=args.rollback_index,
        length_bytes=manifest.length_bytes,
        geometry=manifest.geometry,
        image_digest=manifest.image_digest,
        signature=signature,
    )
    out: Path = args.out or args.image.with_name(args.image.name + ".sig")
    write_whole(out, encode_signature_file(file).encode())
    report(
        {
            "signature": str(out),
            "model": model,
            "version": file.version,
            "rollback_index": file.rollback_index,
            "length": file.length_bytes,
            "image_digest": file.image_digest.hex(),
        },
        as_json=args.json,
    )
    return 0


def _model_and_geometry(args: argparse.Namespace, length_bytes: int) -> tuple[str, Geometry]:
    if args.layout is None:
        if args.component is not None:
            raise ConfigError("--component needs a --layout", code="arguments", hint="give both, or neither")
        if not args.model:
            raise ConfigError("which model is it for?", code="arguments", hint="name it with --model")
        size = parse_size(args.erase_block)
        return args.model, Geometry.uniform(total_bytes=length_bytes, erase_block_bytes=size)
    layout = read_layout(args.layout)
    if args.model not in (None, layout.model):
        raise ConfigError(
            f"--model is {args.model!r}, the layout's model is {layout.model!r}",
            code="arguments",
            hint="leave --model out, or give the layout of that model",
        )
    return layout.model, _geometry_of(layout, _component(layout, args.component))


def _component(layout: Layout, name: str | None) -> ComponentLayout:
    firmware = [c for c in layout.components if c.kind is ComponentKind.FIRMWARE and name in (None, c.name)]
    if len(firmware) != 1:
        names = ", ".join(c.name for c in layout.components if c.kind is ComponentKind.FIRMWARE)
        raise ConfigError(
            "the layout has several firmware components" if firmware else f"the layout has no firmware named {name!r}",
            code="component",
            hint=f"name one with --component: {names}",
        )
    if firmware[0].sealed:
        raise ConfigError(
            f"the component {firmware[0].name!r} is sealed, and a maker signs open firmware only",
            code="component",
            hint="take `sealed = true` out of the layout",
        )
    return firmware[0]


def _geometry_of(layout: Layout, component: ComponentLayout) -> Geometry:
    place = component.place
    if place.kind is PlaceKind.PARTITION:
        partition = layout.partition(place.target)
        assert layout.flash is not None and partition is not None, "parse_layout saw to it"
        return layout.flash.cut(offset_bytes=partition.offset_bytes, length_bytes=partition.size_bytes)
    if place.geometry is None:
        raise ConfigError(
            f"how {place.target} is divided is known on the device only",
            code="component",
            hint="give --erase-block (`cat /proc/mtd` shows it) in place of --layout",
        )
    return place.geometry
