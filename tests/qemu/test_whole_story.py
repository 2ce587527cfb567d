# SPDX-License-Identifier: Apache-2.0
"""The whole story in one go: a gateway that backs itself up while its owner uses it, is damaged, and heals itself.

The factory writes the flash, with the first boot record; all else happens in the gateway, U-Boot and Linux in turn, and
in the owner's `unbrickd serve`. Linux comes up through U-Boot and starts the agent, as its settings say.
"""

from __future__ import annotations

import functools
import http.server
import json
import random
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.qemu.bench import LAYOUT, MODEL, Bench, Laboratory, Stopwatch, named, record_of, serving, software_of
from tests.qemu.healing import erase_blocks, recovery_variables, watch
from tools.lab.console import Shell
from tools.lab.cpio import initramfs
from tools.lab.environment import encode_environment
from tools.lab.fit import firmware
from tools.lab.gateway import CONFIG, ENVIRONMENT, FIRMWARE, HOST, IDENTITY, FlashFile, mtd

from unbrickd.agent.software import Installed
from unbrickd.cli.text import JsonValue
from unbrickd.seal.identity import FirmwarePolicy, Identity, encode_identity
from unbrickd.seal.keys import DeviceKeys

pytestmark = pytest.mark.qemu

SEED = 20100520
PATIENCE_S = 180.0
POLL_S = 0.5
POLICY = """
[backup]
after_start_s = 1
debounce_s = 1
"""
GOOD_AFTER_S = 10
"""Longer than the system before an upgrade runs on after it."""
MAKERS = "hostname=router7\nsecret=correct-horse\nbackup=on\n"
OWNERS = "hostname=attic\nsecret=battery-staple\nbackup=on\n"
FLASHCP = "python3.11 /opt/guest_flashcp.pyc"


def image(laboratory: Laboratory, folder: Path, version: str, server_address: str) -> bytes:
    """The laboratory's firmware with this story's layout, as this version."""
    (folder / "etc/unbrickd").mkdir(parents=True)
    layout = LAYOUT.replace("good_after_s = 0.5", f"good_after_s = {GOOD_AFTER_S}") + POLICY
    (folder / "etc/unbrickd/layout.toml").write_text(layout % server_address.rpartition(":")[2])
    (folder / "etc/version").write_text(f"{version}\n")
    whole = folder.with_suffix(".cpio.gz")
    whole.write_bytes(laboratory.rescue.initramfs.read_bytes() + initramfs(folder))
    return firmware(laboratory.rescue.kernel, whole)


def factory(flash: FlashFile, image: bytes, server_address: str) -> DeviceKeys:
    """All that a gateway is sold with, its boot record included."""
    identity = Identity.generate(
        model=MODEL, policy=FirmwarePolicy.OWNER, maker_key_der=b"", rollback_floor=0,
        entropy=random.Random(SEED).randbytes,
    )  # fmt: skip
    flash.write(ENVIRONMENT, encode_environment(recovery_variables(server_address), ENVIRONMENT.size_bytes))
    flash.write(IDENTITY, encode_identity(identity))
    flash.write(CONFIG, MAKERS.encode())
    flash.write(FIRMWARE, image)
    keys = DeviceKeys.of(identity)
    software_of(flash, keys).record_change(
        {1: Installed(length_bytes=len(image), version="1.0"), 2: Installed(length_bytes=len(MAKERS))}
    )
    return keys


@contextmanager
def downloads(folder: Path) -> Iterator[str]:
    """The maker's web site; its address as the gateway sees it."""
    handler = functools.partial(Silent, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as site:
        threading.Thread(target=site.serve_forever).start()
        yield f"http://{HOST}:{site.server_port}"
        site.shutdown()


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def backup_of(generation: int, shell: Shell) -> dict[str, JsonValue]:
    """How the agent says that its backup of this generation ended, once it has."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        said = shell.check("grep -v Uploading /run/agent.log; true")
        events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        for ended in named(events, "BackupEnded"):
            outcome = ended["outcome"]
            if isinstance(outcome, dict) and outcome["generation"] == generation:
                return outcome
        assert time.monotonic() < deadline_s, f"no backup of generation {generation} has ended:\n{said}"
        time.sleep(POLL_S)


def until_good(flash: FlashFile, keys: DeviceKeys) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while (loaded := record_of(flash, keys)) is None or not loaded.is_good:
        assert time.monotonic() < deadline_s, "it was never good"
        time.sleep(POLL_S)


def test_gateway_backed_up_through_its_owners_changes_is_healed_with_all_of_them(
    laboratory: Laboratory, server_address: str, stopwatch: Stopwatch, tmp_path: Path
) -> None:
    print(f"seed {SEED}: of the damage")
    rng = random.Random(SEED)
    old, new = (image(laboratory, tmp_path / version, version, server_address) for version in ("1.0", "2.0"))
    (tmp_path / "site").mkdir()
    (tmp_path / "site/firmware").write_bytes(new)
    flash = FlashFile.create(tmp_path / "flash.bin")
    keys = factory(flash, old, server_address)
    gateway = Bench(laboratory, flash, stopwatch, tmp_path)

    def backed_up(shell: Shell, generation: int, why: str) -> Sequence[JsonValue]:
        """Which components the agent uploaded."""
        began_s = time.monotonic()
        outcome = backup_of(generation, shell)
        uploaded = outcome["uploaded"]
        assert outcome["ending"] == "committed" and isinstance(uploaded, list)
        stopwatch.note(f"backup {why}, {outcome['payload_bytes']} bytes", time.monotonic() - began_s)
        return uploaded

    with serving(tmp_path / "store", server_address), downloads(tmp_path / "site") as site:
        with gateway.bootloader() as console:
            assert watch(console).reason == "the flash is sound"
            shell = Shell(console)
            assert shell.check("cat /etc/hostname /etc/version") == "router7\n1.0\n"
            assert backed_up(shell, 1, "after start-up") == ["firmware", "config"]

            shell.check(f"printf '{OWNERS.encode('unicode_escape').decode()}' >/run/settings")
            shell.check(f"{FLASHCP} /run/settings {mtd(CONFIG)}", timeout_s=PATIENCE_S)
            shell.check("unbrickd agent notify config-changed", timeout_s=PATIENCE_S)
            assert backed_up(shell, 2, "after new settings") == ["config"]

            with stopwatch.timed("upgrade, from download to restart"):
                shell.check(f"wget -q -O /run/firmware {site}/firmware", timeout_s=PATIENCE_S)
                shell.check(f"{FLASHCP} /run/firmware {mtd(FIRMWARE)}", timeout_s=PATIENCE_S)
                shell.check("echo 2.0 >/etc/version")
                shell.check(f"unbrickd agent notify upgraded --wait {PATIENCE_S:g}", timeout_s=PATIENCE_S)
                console.type("reboot -f\n")
                console.wait_until_it_ends(PATIENCE_S)

        with gateway.bootloader() as console:
            assert watch(console).reason == "the flash is sound"
            shell = Shell(console)
            assert shell.check("cat /etc/hostname /etc/version") == "attic\n2.0\n"
            assert backed_up(shell, 3, "after an upgrade") == ["firmware"]
            until_good(flash, keys)

        healthy = {region: flash.read(region) for region in (IDENTITY, FIRMWARE, CONFIG)}
        assert healthy[FIRMWARE].startswith(new) and healthy[CONFIG].startswith(OWNERS.encode())
        damaged = sorted(rng.sample(range(erase_blocks(new)), 3))
        flash.damage(FIRMWARE, damaged, rng)
        flash.damage(CONFIG, [0], rng)
        with gateway.bootloader() as console:
            healed = watch(console)
            shell = Shell(console)
            assert shell.check("cat /etc/hostname /etc/version") == "attic\n2.0\n"
            assert shell.check(f"tr -d '\\377' <{mtd(CONFIG)}") == OWNERS
    stopwatch.note(f"U-Boot's banner to boot, {len(healed.restored)} erase blocks restored", healed.took_s)
    assert sorted(healed.restored) == [("config", 0), *(("firmware", index) for index in damaged)]
    assert {region: flash.read(region) for region in healthy} == healthy
    loaded = record_of(flash, keys)
    assert loaded is not None and loaded.copies == (True, True) and loaded.is_good
    assert loaded.record.sealed.generation.number == 3
