# SPDX-License-Identifier: Apache-2.0
"""Packages from Debian 12: installed, downloaded for another architecture, and as source.

apt runs with a state of its own, so that the machine's own sources stay as they are. Its list of sources is made from
the machine's: the same places, with source packages and backports too. So no host is named here.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from tools.lab.errors import LabError
from tools.lab.steps import cache, run, say

RELEASE = "bookworm"
"""Debian 12: U-Boot 2023.01, Linux 6.1 and Python 3.11 are its versions."""
_SUITES = {RELEASE, f"{RELEASE}-updates", f"{RELEASE}-security"}
_FIELD = re.compile(r"^([A-Za-z-]+):[ \t]*(.*(?:\n[ \t].*)*)", re.MULTILINE)
_ONE_LINE = re.compile(r"deb\s+(?P<options>\[[^]]*\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+)")


def derived_sources(one_line: Iterable[str], stanzas: Iterable[str]) -> Iterator[str]:
    """Stanzas of deb822 (sources.list(5)) for binary and source packages of the release and its backports.

    one_line: the texts of *.list files, stanzas: those of *.sources files. What is not of this release is left out.
    """
    for text in one_line:
        for line in text.splitlines():
            found = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
            if found:
                signed = re.search(r"signed-by=([^\]\s]+)", found["options"] or "")
                place = {"URIs": found["uri"], "Suites": found["suite"], "Components": found["components"]}
                yield from _stanza(place | ({"Signed-By": signed[1]} if signed else {}))
    for text in stanzas:
        for stanza in re.split(r"\n\s*\n", text):
            lines = "\n".join(line for line in stanza.splitlines() if not line.startswith("#"))
            fields = {found[1]: found[2] for found in _FIELD.finditer(lines)}
            if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes").lower() != "no":
                yield from _stanza(fields)


def _stanza(fields: dict[str, str]) -> Iterator[str]:
    suites = [suite for suite in fields.get("Suites", "").split() if suite in _SUITES]
    if not suites:
        return
    if RELEASE in suites:
        suites.append(f"{RELEASE}-backports")
    lines = ["Types: deb deb-src", f"Suites: {' '.join(suites)}"]
    lines += [f"{name}: {fields[name]}" for name in ("URIs", "Components", "Signed-By") if name in fields]
    yield "\n".join(lines)


def _machine_sources() -> str:
    etc = Path("/etc/apt")
    lists = [path.read_text() for path in (etc / "sources.list", *etc.glob("sources.list.d/*.list")) if path.is_file()]
    stanzas = [path.read_text() for path in etc.glob("sources.list.d/*.sources")]
    return "\n\n".join(derived_sources(lists, stanzas)) + "\n"


@functools.cache
def _state(architectures: tuple[str, ...]) -> Path:
    """The folder of our apt, its lists fetched once a run. Raises LabError on any other system than Debian 12.

    One for the machine's own packages, another for foreign ones: a release of which one list is broken gives none.
    """
    release = Path("/etc/os-release")
    if f"VERSION_CODENAME={RELEASE}" not in (release.read_text().splitlines() if release.is_file() else []):
        raise LabError(
            "the laboratory is made from packages of Debian 12 (bookworm), and this is another system",
            hint="run it in a container of Debian 12; everything else of unbrickd runs anywhere",
        )
    state = cache() / "-".join(("apt", *architectures))
    for name in ("lists/partial", "archives/partial", "sources"):
        (state / name).mkdir(parents=True, exist_ok=True)
    sources = _machine_sources()
    if not sources.strip():
        raise LabError(f"/etc/apt names no source of {RELEASE}", hint="check /etc/apt/sources.list")
    (state / "sources" / "lab.sources").write_text(sources)
    say("fetching package lists")
    try:
        _apt_in(state, architectures, ["update"], folder=state)
    except LabError as error:  # one list of many may fail; what is missing then shows when it is asked for
        say("; ".join(re.findall(r"^E: (.*)", str(error), re.MULTILINE)))
    return state


def _apt_in(state: Path, architectures: tuple[str, ...], words: list[str], *, folder: Path) -> str:
    options = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": str(state / "sources"),
        "Dir::State": str(state),
        "Dir::State::lists": str(state / "lists"),
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": str(state),
        "APT::Sandbox::User": "root",  # its user could not write to a cache in a private home
    }
    native = run(["dpkg", "--print-architecture"], folder=folder).strip()
    # A name that ends in :: adds to a list.
    arguments = [f"-oAPT::Architectures::={name}" for name in (native, *architectures)]
    arguments += [f"-o{name}={value}" for name, value in options.items()]
    return run(["apt-get", "--quiet", *arguments, *words], folder=folder, env={"DEBIAN_FRONTEND": "noninteractive"})


def _apt(*words: str, folder: Path, architectures: tuple[str, ...] = ()) -> str:
    return _apt_in(_state(architectures), architectures, list(words), folder=folder)


def installed(package: str) -> bool:
    try:
        status = run(["dpkg-query", "--show", "--showformat=${db:Status-Status}", package], folder=Path("/"))
    except LabError:
        return False
    return status == "installed"


def need(*packages: str, backports: bool = False) -> None:
    """See that these packages are installed; backports: in the version that backports have."""
    missing = list(packages) if backports else [package for package in packages if not installed(package)]
    if not missing:
        return
    release = [f"--target-release={RELEASE}-backports"] if backports else []
    if os.geteuid() != 0:
        raise LabError(
            f"packages are missing: {', '.join(missing)}",
            hint=f"sudo apt-get install {' '.join([*release, *missing])}",
        )
    say(f"installing {', '.join(missing)}")
    _apt("install", "--yes", "--no-install-recommends", *release, *missing, folder=cache())


def unpack(packages: Iterable[str], into: Path) -> list[str]:
    """Unpack packages (name or name:architecture) without installing them; returns what was taken, with versions."""
    folder = into.with_name(f"{into.name}.debs")
    folder.mkdir()
    names = list(packages)
    foreign = tuple(sorted({name.partition(":")[2] for name in names if ":" in name}))
    _apt("download", *names, folder=folder, architectures=foreign)
    taken = sorted(folder.glob("*.deb"))
    for package in taken:
        run(["dpkg-deb", "--extract", package, into], folder=folder)
    shutil.rmtree(folder)
    return [package.stem for package in taken]


def source(package: str, into: Path) -> Path:
    """Debian's source of a package with Debian's patches, unpacked below `into`; returns its folder."""
    need("dpkg-dev")
    _apt("source", "--quiet=2", package, folder=into)
    return next(path for path in into.iterdir() if path.is_dir())
