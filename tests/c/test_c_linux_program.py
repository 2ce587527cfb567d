# SPDX-License-Identifier: Apache-2.0
"""`unbrickd-recover`, the C core as a program: over real sockets from the real server, into the flash of a gateway that
the real agent backed up. Its firmware carries a maker's signature, which the C program checks by itself."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from unbrickd_c import BUILD, SOURCES

from unbrickd.model.layout import parse_layout

pytestmark = pytest.mark.slow

FIRMWARE_BYTES = 1_200_000
PLACES = {"firmware": "1:firmware", "config": "2:sealed-config"}


WATCH = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>
ssize_t pwrite(int fd, const void *from, size_t length, off_t at)
{
	ssize_t (*real)(int, const void *, size_t, off_t) = dlsym(RTLD_NEXT, "pwrite");
	dprintf(2, "write %d %ld %zu\n", fd, (long)at, length);
	return real(fd, from, length, at);
}
int fdatasync(int fd)
{
	int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
	dprintf(2, "sync %d\n", fd);
	return real(fd);
}
"""
"""Preloaded, tells each write and sync on stderr before it is done."""


def unbrickd(*arguments: object) -> str:
    command = [sys.executable, "-m", "unbrickd", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@dataclass
class Lab:
    """A gateway that was backed up and is off; `whole` is its flash then."""

    gateway: Path
    server: str
    whole: bytes

    @property
    def flash(self) -> Path:
        return self.gateway / "flash.img"

    def damage(self, *arguments: object) -> None:
        unbrickd("gateway", "damage", self.gateway, *arguments)

    def place(self, name: str) -> str:
        layout = parse_layout((self.gateway / "layout.toml").read_text(encoding="utf-8"), source="layout")
        partition = layout.partition(name)
        assert partition is not None and layout.flash is not None
        return f"{self.flash}@{partition.offset_bytes}+{partition.size_bytes}/{layout.flash.runs[0].size_bytes}"

    def range_of(self, name: str) -> range:
        offset, size = (int(n) for n in re.findall(r"\d+", self.place(name).rpartition("@")[2])[:2])
        return range(offset, offset + size)

    def recover(
        self, *arguments: str, server: str = "", environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [
            str(BUILD / "unbrickd-recover"), "--identity", self.place("identity"), "--record", self.place("record"),
            "--server", server or self.server, *arguments,
        ]  # fmt: skip
        for name, kind in PLACES.items():
            command += ["--component", f"{kind}:{self.place(name)}"]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=environment)

    def differs_from_whole(self, name: str) -> bool:
        place = slice(self.range_of(name).start, self.range_of(name).stop)
        return self.flash.read_bytes()[place] != self.whole[place]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    subprocess.run(["make", "--silent", "-C", SOURCES, f"BUILD={BUILD}", "linux"], check=True, capture_output=True)
    firmware = folder / "firmware.bin"
    firmware.write_bytes(random.Random(1).randbytes(FIRMWARE_BYTES))
    unbrickd("keys", "maker", "--out", folder / "keys")
    private, public = folder / "keys" / "maker-private.pem", folder / "keys" / "maker-public.pem"
    unbrickd(
        "keys", "sign", "--key", private, "--model", "acme", "--version", "2.1", "--erase-block", "64KiB", firmware
    )
    serve = [sys.executable, "-m", "unbrickd", "serve", "--udp", "127.0.0.1:0", "--no-announce", "--store"]
    with subprocess.Popen([*serve, str(folder / "store")], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[-1]
            gateway = folder / "gateway"
            unbrickd(
                "gateway", "create", gateway, "--server", address, "--flash-size", "4MiB", "--erase-block", "64KiB",
                "--model", "acme", "--maker-key", public, "--firmware", firmware, "--firmware-version", "2.1",
                "--signature", f"{firmware}.sig", "--good-after", "0.3", "--backup-after", "0.1",
            )  # fmt: skip
            unbrickd("gateway", "power-on", gateway, "--until", "good")
            yield Lab(gateway, address.replace(":", ","), (gateway / "flash.img").read_bytes())
        finally:
            server.terminate()


def test_recover_program_restores_what_is_damaged(lab: Lab) -> None:
    assert lab.recover("--check").returncode == 0
    lab.damage("--random", "3", "--seed", "1")
    lab.damage("--partition", "config", "--erase-blocks", "0")
    lab.damage("--partition", "record", "--erase-blocks", "1")
    damaged = lab.flash.read_bytes()
    checked = lab.recover("--check")
    assert checked.returncode == 5 and "firmware: 3 of 19 erase blocks" in checked.stdout
    assert lab.flash.read_bytes() == damaged, "--check writes nothing"
    ended = lab.recover("--wait", "30", "--ring", "8")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "would boot generation 1, firmware 2.1" in ended.stdout
    assert not lab.differs_from_whole("firmware") and not lab.differs_from_whole("config")
    assert lab.recover("--check").returncode == 0


def test_recover_program_restores_when_all_is_lost(lab: Lab) -> None:
    for partition, indexes in (("firmware", "0-18"), ("config", "0"), ("record", "0,1")):
        lab.damage("--partition", partition, "--erase-blocks", indexes)
    assert lab.recover("--check").returncode == 5
    ended = lab.recover("--wait", "30")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert not lab.differs_from_whole("firmware") and not lab.differs_from_whole("config")
    assert unbrickd("gateway", "status", lab.gateway).splitlines()[1].startswith("generation 1, good")


def test_recover_program_writes_the_record_only_when_all_before_it_is_on_the_disk(lab: Lab, tmp_path: Path) -> None:
    """And leaves nothing that is not, record or component."""
    watch = tmp_path / "watch.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", watch], input=WATCH, text=True, check=True)
    for partition, indexes in (("firmware", "0-18"), ("config", "0"), ("record", "0,1")):
        lab.damage("--partition", partition, "--erase-blocks", indexes)
    ended = lab.recover("--wait", "30", environment={"LD_PRELOAD": str(watch)})
    assert ended.returncode == 0, ended.stdout + ended.stderr
    unsynced, record_writes, end = set[str](), 0, 0
    for line in ended.stderr.splitlines():
        what, file, *numbers = line.split()
        if what == "sync":
            unsynced.discard(file)
            continue
        at, length = map(int, numbers)
        if at in lab.range_of("record"):
            record_writes += 1
            erasing = {file} if at == end else set[str]()  # an erase is many writes
            assert unsynced <= erasing, f"write {record_writes} to the record: not all before it is on the disk"
        unsynced.add(file)
        end = at + length
    assert record_writes > 2 and not unsynced


def test_recover_program_without_a_server_gives_up_in_time(lab: Lab) -> None:
    lab.damage("--erase-blocks", "2")
    ended = lab.recover("--wait", "1", server="127.0.0.1,1")
    assert ended.returncode == 3
    assert lab.recover("--wait", "30").returncode == 0


def test_recover_program_refuses_options_that_mean_nothing(lab: Lab) -> None:
    for wrong in (["--server", "nowhere"], ["--component", "1:firmware"], ["--what"], []):
        ended = subprocess.run([BUILD / "unbrickd-recover", *wrong], check=False, capture_output=True, text=True)
        assert ended.returncode == 2 and ended.stderr.startswith(("error: ", str(BUILD)))
    ended = subprocess.run(
        [BUILD / "unbrickd-recover", "--record", "/nowhere@0+8K/4K"], check=False, capture_output=True, text=True
    )
    assert ended.returncode == 7 and "/nowhere: No such file" in ended.stderr
