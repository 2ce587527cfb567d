# SPDX-License-Identifier: Apache-2.0
"""The laboratory's gateway, made once a run: built, provisioned, and backed up to a real server.

Each test has its own copy of the flash chip and of the server's store. Run by `make e2e`; tools/lab/README.md.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
from tests.qemu.bench import (
    MODEL,
    SETTINGS,
    VARIABLES,
    BackedUp,
    Bench,
    Laboratory,
    Stopwatch,
    build_laboratory,
    on_the_host,
    serving,
)
from tests.qemu.healing import healing_bench
from tests.qemu.small import Maker, Small
from tools.lab.build import ARM64
from tools.lab.environment import encode_environment
from tools.lab.fit import firmware
from tools.lab.gateway import CONFIG, ENVIRONMENT, FIRMWARE, IDENTITY, FlashFile

from unbrickd.cli.demo_process import ServerProcess, run_command
from unbrickd.seal.identity import FirmwarePolicy, Identity, encode_identity
from unbrickd.seal.keys import DeviceKeys

LONGEST = ("test_uboot_power_cuts.py", "test_whole_story.py")
_times = pytest.StashKey[list[tuple[str, float]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--uboot-tree",
        type=Path,
        metavar="DIRECTORY",
        help="put the recovery into these sources of U-Boot, not Debian's",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_times] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, or one worker is left with it when all else is done."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["times"] = session.config.stash[_times]


class Worker(Protocol):
    """Of pytest-xdist, as the process that started it knows it."""

    config: pytest.Config
    workeroutput: dict[str, list[tuple[str, float]]]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Worker) -> None:
    """A worker has ended: its times are shown with ours."""
    if hasattr(node, "workeroutput"):  # it has none if it crashed
        node.config.stash[_times] += node.workeroutput["times"]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What each step took, under emulation: for people, never for a test to judge by."""
    if config.stash[_times]:
        terminalreporter.section("times in the laboratory")
        for step, took_s in config.stash[_times]:
            terminalreporter.write_line(f"{took_s:8.1f} s  {step}")


@pytest.fixture(scope="session")
def stopwatch(pytestconfig: pytest.Config) -> Stopwatch:
    return Stopwatch(pytestconfig.stash[_times])


@pytest.fixture(scope="session")
def server_address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where every test's server listens: a port that was free when we began."""
    with ServerProcess(tmp_path_factory.mktemp("port") / "store", "udp") as server:
        return server.address


@pytest.fixture(scope="session")
def laboratory(
    tmp_path_factory: pytest.TempPathFactory, stopwatch: Stopwatch, server_address: str, pytestconfig: pytest.Config
) -> Laboratory:
    with stopwatch.timed("QEMU, kernel, U-Boot and root: built, or taken from the cache"):
        return build_laboratory(
            tmp_path_factory.mktemp("laboratory"), server_address, pytestconfig.getoption("--uboot-tree")
        )


@pytest.fixture(scope="session")
def backed_up(laboratory: Laboratory, server_address: str, tmp_path_factory: pytest.TempPathFactory) -> BackedUp:
    return back_up(laboratory, server_address, tmp_path_factory.mktemp("backed-up"))


@pytest.fixture(scope="session")
def backed_up_arm64(
    tmp_path_factory: pytest.TempPathFactory, stopwatch: Stopwatch, server_address: str, pytestconfig: pytest.Config
) -> BackedUp:
    """The gateway with the other processor."""
    folder = tmp_path_factory.mktemp("arm64")
    with stopwatch.timed("the same for ARM64"):
        tree = pytestconfig.getoption("--uboot-tree")
        return back_up(build_laboratory(folder, server_address, tree, board=ARM64), server_address, folder)


def back_up(laboratory: Laboratory, server_address: str, folder: Path) -> BackedUp:
    """A gateway with what was built, backed up by the agent on the host."""
    identity = Identity.generate(
        model=MODEL,
        policy=FirmwarePolicy.OWNER,
        maker_key_der=b"",
        rollback_floor=0,
        entropy=random.Random(20100520).randbytes,
    )
    architecture = laboratory.board.architecture
    image = firmware(laboratory.rescue.kernel, laboratory.rescue.initramfs, architecture=architecture)
    flash = FlashFile.create(folder / "flash.bin")
    flash.write(ENVIRONMENT, encode_environment(VARIABLES, ENVIRONMENT.size_bytes))
    flash.write(IDENTITY, encode_identity(identity))
    flash.write(CONFIG, SETTINGS)
    flash.write(FIRMWARE, image)
    with serving(folder / "store", server_address), on_the_host(flash, folder, server_address) as layout:
        run_command("agent", "--once", "--layout", str(layout))
    return BackedUp(
        laboratory=laboratory, flash=flash, store=folder / "store", keys=DeviceKeys.of(identity), image=image
    )


@pytest.fixture
def bench(backed_up: BackedUp, stopwatch: Stopwatch, tmp_path: Path) -> Bench:
    return Bench(backed_up.laboratory, backed_up.flash.copy(tmp_path / "flash.bin"), stopwatch, tmp_path)


@pytest.fixture
def server(backed_up: BackedUp, server_address: str, tmp_path: Path) -> Iterator[ServerProcess]:
    store = tmp_path / "store"
    shutil.copytree(backed_up.store, store)
    with serving(store, server_address) as running:
        yield running


@pytest.fixture
def healer(backed_up: BackedUp, server_address: str, stopwatch: Stopwatch, tmp_path: Path) -> Bench:
    """The gateway whose bootloader starts what the recovery found sound or restored from `server_address`."""
    return healing_bench(backed_up, server_address, stopwatch, tmp_path)


@pytest.fixture(scope="session")
def small_maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def small(small_maker: Maker) -> Small:
    """Backed up by the agent on the host: generation 1, which is good."""
    return small_maker.back_up("1.0", comes_up=True)


@pytest.fixture(scope="session")
def small_upgraded(small_maker: Maker, small: Small) -> Small:
    """Then it was upgraded, to firmware that does not come up: generation 2, backed up and not good."""
    return small_maker.back_up("2.0", comes_up=False)
