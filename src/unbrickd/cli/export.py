# SPDX-License-Identifier: Apache-2.0
"""`unbrickd export`: a backup as plain files that a person can flash by hand, with a README that says what is what.

Sealed components are opened with the device's recovery code, which never leaves this process; without it they are
given out as they are stored, encrypted.
"""

from __future__ import annotations

import argparse
import getpass
import hashlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from unbrickd import __version__
from unbrickd.cli.main import Subparsers
from unbrickd.cli.store_options import (
    add_device,
    add_store_options,
    find_device,
    find_generation,
    label_of,
    open_store,
    print_json,
    time_text,
)
from unbrickd.cli.text import size_text
from unbrickd.errors import ConfigError, IntegrityError
from unbrickd.model.manifest import Manifest
from unbrickd.seal.content import open_erase_block
from unbrickd.seal.identity import decode_recovery_code
from unbrickd.seal.keys import ContentKeys
from unbrickd.store.vault import StoredGeneration, Vault

DOCUMENT_NAME = "generation.ubgn"
README_NAME = "README.txt"

EPILOG = """\
examples:
  unbrickd export kitchen --to kitchen-backup
      the newest good backup; the configuration stays encrypted
  unbrickd export kitchen 7 --to kitchen-7 --recovery-code -
      generation 7 with everything readable; the code is asked for, so that it does not stay in the shell's history
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedFile:
    """One file written: its name, its bytes' SHA-256, and whether it is still encrypted."""

    name: str
    component: Manifest
    sha256: str
    encrypted: bool


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "export",
        help="write a backup out as plain files",
        description="Write a backup out as plain files that can be flashed by hand.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_device(parser, number=False)
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new or empty directory")
    parser.add_argument("--recovery-code", metavar="CODE", help="opens what the device sealed; - asks for it")
    add_store_options(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    code = getpass.getpass("recovery code: ") if args.recovery_code == "-" else args.recovery_code
    secret = decode_recovery_code(code) if code else None
    with open_store(args) as vault:
        device = find_device(vault, args.device)
        stored = find_generation(vault, device, args.number)
        keys = None if secret is None else ContentKeys.from_recovery_secret(secret, device.device_id)
        try:
            files = export_generation(vault, stored, args.to, keys, label=label_of(device))
        except OSError as error:
            raise ConfigError(f"cannot write to {args.to}: {error.strerror}", code="export") from error
    if args.json:
        print_json(
            {
                "directory": str(args.to),
                "number": stored.number,
                "files": [
                    {"file": f.name, "component": f.component.name, "sha256": f.sha256, "encrypted": f.encrypted}
                    for f in files
                ],
            }
        )
        return 0
    for file in files:
        note = "  (encrypted: the recovery code opens it)" if file.encrypted else ""
        print(f"{args.to / file.name}  {size_text(file.component.length_bytes)}{note}")
    print(args.to / README_NAME)
    return 0


def export_generation(
    vault: Vault, stored: StoredGeneration, directory: Path, keys: ContentKeys | None, *, label: str
) -> list[ExportedFile]:
    """Write every component, the document and the README; each file shows only once it is whole.

    Raises ConfigError for a directory that is not empty, StorageError "rotten", IntegrityError for a wrong recovery
    code, OSError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise ConfigError(f"{directory} is not empty", code="export", hint="name a new directory with --to")
    files = [_export_component(vault, stored, c, directory, keys) for c in stored.generation.components]
    (directory / DOCUMENT_NAME).write_bytes(stored.sealed.document)
    (directory / README_NAME).write_text(_readme(stored, files, label), encoding="utf-8")
    return files


def _export_component(
    vault: Vault, stored: StoredGeneration, component: Manifest, directory: Path, keys: ContentKeys | None
) -> ExportedFile:
    encrypted = component.sealed and keys is None
    path = directory / (component.name + (".sealed" if encrypted else ".bin"))
    partial = path.with_name(path.name + ".part")
    digest = hashlib.sha256()
    try:
        with partial.open("wb") as file:
            for block in component.geometry:
                octets = vault.read_erase_block(stored, component.component_id, block.index)
                if component.sealed and keys is not None:
                    octets = _opened(component, block.index, octets, keys)
                digest.update(octets)
                file.write(octets)
        partial.replace(path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return ExportedFile(name=path.name, component=component, sha256=digest.hexdigest(), encrypted=encrypted)


def _opened(component: Manifest, index: int, octets: bytes, keys: ContentKeys) -> bytes:
    try:
        return open_erase_block(
            keys,
            component_id=component.component_id,
            index=index,
            digest=component.digests[index],
            ciphertext=octets,
        )
    except IntegrityError as error:
        raise IntegrityError(
            f"{component.name} does not open with this recovery code",
            code="recovery-code",
            hint="is it the code of this very device?",
        ) from error


def _readme(stored: StoredGeneration, files: list[ExportedFile], label: str) -> str:
    """What is what, for a person with a serial cable and no other documentation."""
    lines = [
        f"Backup of {label}, written out by unbrickd {__version__}",
        "",
        f"device id   {stored.generation.device_id.hex()}",
        f"model       {stored.generation.model}",
        f"generation  {stored.number}, {'known to work' if stored.row.good else 'NOT yet known to work'}",
        f"backed up   {time_text(stored.created_at_s)}",
        "",
        "Each file is written to the flash partition of its name, from the partition's first byte (offset 0) on.",
        "Erase the partition first; what follows the file in its last erase block is left erased (0xFF).",
        "",
    ]
    for file in files:
        component = file.component
        runs = ", ".join(f"{run.count} of {size_text(run.size_bytes)}" for run in component.geometry.runs)
        lines += [
            file.name,
            f"    component     {component.name} ({component.kind.name.lower()}), version {component.version}",
            f"    length        {component.length_bytes} bytes (0x{component.length_bytes:x})",
            f"    erase blocks  {runs}",
            f"    SHA-256       {file.sha256}",
        ]
        if file.encrypted:
            lines.append("    ENCRYPTED: do not flash it. Export again with --recovery-code to have it readable.")
        lines.append("")
    lines += [
        f"{DOCUMENT_NAME}",
        "    the list of what the device must hold, as the device sealed it; not for flashing",
        "",
    ]
    return "\n".join(lines)
