# SPDX-License-Identifier: Apache-2.0
"""`unbrickd show`: what one backup holds, component by component."""

from __future__ import annotations

import argparse

from unbrickd.cli.generations import state_text
from unbrickd.cli.main import Subparsers
from unbrickd.cli.store_options import (
    add_device,
    add_store_options,
    find_device,
    find_generation,
    label_of,
    open_store,
    print_json,
    print_table,
    time_json,
    time_text,
)
from unbrickd.cli.text import size_text

EPILOG = """\
examples:
  unbrickd show kitchen
  unbrickd show kitchen 7 --json
"""


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "show",
        help="show what a backup holds",
        description="Show what a backup holds: its components, their versions and sizes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_device(parser, number=False)
    add_store_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    with open_store(args) as vault:
        device = find_device(vault, args.device)
        stored = find_generation(vault, device, args.number)
        held = {c.component_id: vault.has_image(c) for c in stored.generation.components}
    row, components = stored.row, stored.generation.components
    if args.json:
        print_json(
            {
                "device_id": device.device_id.hex(),
                "name": label_of(device),
                "model": stored.generation.model,
                "number": stored.number,
                "digest": row.key.digest.hex(),
                "created": time_json(row.created_at_s),
                "good": row.good,
                "pinned": row.pinned,
                "damaged": row.damaged,
                "components": [
                    {
                        "id": c.component_id,
                        "name": c.name,
                        "kind": c.kind.name.lower(),
                        "version": c.version,
                        "length_bytes": c.length_bytes,
                        "erase_blocks": c.geometry.count,
                        "sealed": c.sealed,
                        "image_digest": c.image_digest.hex(),
                        "held": held[c.component_id],
                    }
                    for c in components
                ],
            }
        )
        return 0
    print(f"generation {stored.number} of {label_of(device)} ({stored.generation.model})")
    print(f"{state_text(row)}; backed up {time_text(row.created_at_s)}")
    print_table(
        ("component", "kind", "version", "size", "erase blocks", "", "image"),
        [
            (
                c.name,
                c.kind.name.lower(),
                c.version,
                size_text(c.length_bytes),
                str(c.geometry.count),
                ("sealed" if c.sealed else "open") + ("" if held[c.component_id] else ", missing"),
                c.image_digest.hex()[:16],
            )
            for c in components
        ],
    )
    return 0
