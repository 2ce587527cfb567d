# SPDX-License-Identifier: Apache-2.0
"""`unbrickd agent status`: the last backup, what is owed, and the flag "server not running" (R14)."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime

from unbrickd.adapters.device import open_device, read_layout
from unbrickd.adapters.memory import load_memory
from unbrickd.adapters.notices import LetterBox
from unbrickd.cli.agent.serve import MEMORY_FILE
from unbrickd.cli.real_device import is_in_use, state_folder
from unbrickd.cli.text import JsonValue


def run(args: argparse.Namespace) -> int:
    state = state_folder(args)
    layout = read_layout(args.layout)
    with open_device(layout, base=args.layout.parent, write_components=False) as device:
        loaded = device.flash.record.load()
        device_id = device.flash.keys.identity.device_id.hex()
    memory = load_memory(state / MEMORY_FILE)
    last_s = memory.last_success_wall_s
    values: dict[str, JsonValue] = {
        "model": layout.model,
        "device_id": device_id,
        "running": is_in_use(state),
        "generation": loaded.record.sealed.generation.number if loaded else None,
        "good": loaded.is_good if loaded else None,
        "last_backup": None if last_s is None else datetime.fromtimestamp(last_s, UTC).isoformat(timespec="seconds"),
        "server_missing": memory.server_missing,
        "pending": memory.pending,
        "notices": len(LetterBox(state).waiting()),
    }
    if args.json:
        print(json.dumps(values))
        return 0
    for name, value in values.items():
        print(f"{name.replace('_', ' ') + ':':<16} {_shown(value)}")
    return 0


def _shown(value: JsonValue) -> JsonValue:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else value
