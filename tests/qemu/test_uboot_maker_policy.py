# SPDX-License-Identifier: Apache-2.0
"""U-Boot's RSA under our recovery: a device that runs only what its maker signed. Backed up by the agent on the host.

The firmware is random bytes, so U-Boot restores and verifies it, and then fails to start it and resets.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.qemu.bench import MODEL, Bench, Laboratory, Stopwatch, on_the_host
from tests.qemu.healing import recovery_variables
from tools.lab.environment import encode_environment
from tools.lab.gateway import CONFIG, ENVIRONMENT, ERASE_BLOCK_BYTES, FIRMWARE, IDENTITY, FlashFile

from unbrickd.cli.demo_process import ServerProcess, run_command
from unbrickd.seal.identity import decode_identity, encode_identity

pytestmark = pytest.mark.qemu

SEED = 20100520
PATIENCE_S = 60.0
IMAGE_BYTES = 7 * ERASE_BLOCK_BYTES // 2
KEY_BITS = (2048,)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """A gateway under the policy maker, backed up; its healthy flash, and another maker's public key."""

    bench: Bench
    healthy: FlashFile
    other_maker_der: bytes


@pytest.fixture(params=KEY_BITS, ids=lambda bits: f"rsa-{bits}")
def signed(
    request: pytest.FixtureRequest, laboratory: Laboratory, stopwatch: Stopwatch, tmp_path: Path
) -> Iterator[Signed]:
    rng = random.Random(SEED)
    for name in ("maker", "other"):
        run_command("keys", "maker", "--out", str(tmp_path / name), "--bits", str(request.param))
    flash = FlashFile.create(tmp_path / "healthy.bin")
    flash.write(FIRMWARE, image := rng.randbytes(IMAGE_BYTES - 1) + b"\x55")
    flash.write(CONFIG, b"hostname=router7\n")
    (tmp_path / "image").write_bytes(image)
    maker = tmp_path / "maker"
    run_command(
        *("keys", "device", "--model", MODEL, "--policy", "maker", "--maker-key", str(maker / "maker-public.der")),
        *("--out", str(tmp_path / "device.bin")),
    )
    flash.write(IDENTITY, (tmp_path / "device.bin").read_bytes())
    run_command(
        *("keys", "sign", "--key", str(maker / "maker-private.pem"), "--model", MODEL, "--version", "1.0"),
        *("--erase-block", str(ERASE_BLOCK_BYTES), str(tmp_path / "image")),
    )
    with ServerProcess(tmp_path / "store", "udp") as server:
        with on_the_host(flash, tmp_path, server.address, signature="image.sig") as layout:
            run_command("agent", "--once", "--layout", str(layout))
        flash.write(ENVIRONMENT, encode_environment(recovery_variables(server.address), ENVIRONMENT.size_bytes))
        bench = Bench(laboratory, flash.copy(tmp_path / "flash.bin"), stopwatch, tmp_path)
        yield Signed(bench=bench, healthy=flash, other_maker_der=(tmp_path / "other" / "maker-public.der").read_bytes())


def test_power_on_signed_firmware_damaged_is_restored(signed: Signed) -> None:
    print(f"seed {SEED}")
    signed.bench.flash.damage(FIRMWARE, [1], random.Random(SEED))
    with signed.bench.bootloader() as console:
        console.expect("generation 1: the flash is damaged", timeout_s=PATIENCE_S)
        console.expect("firmware: erase block 1, 1 of 1", timeout_s=PATIENCE_S)
        console.expect("booting generation 1, firmware 1.0", timeout_s=PATIENCE_S)
        console.expect("it did not boot", timeout_s=PATIENCE_S)
    for region in (FIRMWARE, CONFIG, IDENTITY, ENVIRONMENT):
        assert signed.bench.flash.read(region) == signed.healthy.read(region), region.name


def test_power_on_firmware_of_another_maker_is_refused_and_never_started(signed: Signed) -> None:
    identity = decode_identity(signed.healthy.read(IDENTITY))
    other = dataclasses.replace(identity, maker_key_der=signed.other_maker_der)
    signed.bench.flash.write(IDENTITY, encode_identity(other))
    before = signed.bench.flash.read(FIRMWARE)
    with signed.bench.bootloader() as console:
        console.expect("this firmware may not run here", timeout_s=PATIENCE_S)
        console.expect("the maker did not sign this firmware for this model", timeout_s=PATIENCE_S)
        console.expect("light: please start unbrickd on your PC", timeout_s=PATIENCE_S)
        console.type("\x03")
        said = console.expect("(?s)^(.*)unbrickd: stopped", timeout_s=PATIENCE_S)[1]
    assert b"booting" not in said
    assert signed.bench.flash.read(FIRMWARE) == before
