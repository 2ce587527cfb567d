# SPDX-License-Identifier: Apache-2.0
"""The house rules of ARCHITECTURE.md, held by reading the source: who imports whom, what the pure packages may use,
how long a module may be, and how it begins. Platform rules: test_architecture_platforms.py; documents:
test_architecture_documents.py."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "unbrickd"
ORDER = (
    "errors",
    "model",
    "wire",
    "transfer",
    "seal",
    "flash",
    "store",
    "server",
    "agent",
    "recovery",
    "adapters",
    "sim",
    "cli",
)
"""ARCHITECTURE.md, "The house": a package imports itself and those before it."""
ENTRY = {"__init__", "__main__"}
"""Of unbrickd itself: the version, and `python -m unbrickd`."""
PURE = ORDER[: ORDER.index("adapters")]
PURE_MAY_IMPORT = {
    "__future__",
    "base64",
    "bisect",
    "collections",
    "contextlib",
    "cryptography",
    "dataclasses",
    "enum",
    "hashlib",
    "heapq",
    "hmac",
    "itertools",
    "json",
    "re",
    "struct",
    "tomllib",
    "types",
    "typing",
    "weakref",
    "zlib",
}
"""No I/O, no clock, no randomness, no threads. A module of the standard library that has none either may be added."""
IMPURE_CALLS = {"open", "input", "print", "breakpoint", "eval", "exec", "__import__"}
MAX_LINES = 420
LICENCE_LINE = "# SPDX-License-Identifier: Apache-2.0"

SOURCES = sorted(PACKAGE.rglob("*.py"))
WRITTEN = [*SOURCES, *(p for folder in ("tests", "tools", "bench") for p in sorted((ROOT / folder).rglob("*.py")))]


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, by its whole name, and the line that does it."""

    module: str
    line: int


def imports_of(tree: ast.Module) -> Iterator[Import]:
    """Every import anywhere in a module; `from unbrickd import x` counts as unbrickd.x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            if node.module == "unbrickd":
                yield from (Import(f"unbrickd.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield Import(node.module or "", node.lineno)


def package_of(path: Path) -> str:
    """errors, model …, or __init__ and __main__ of unbrickd itself."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def wrong_directions(package: str, tree: ast.Module) -> list[str]:
    """Imports of unbrickd that go up the list."""
    found = []
    for imported in imports_of(tree):
        name = imported.module.split(".")
        if name[0] != "unbrickd" or len(name) < 2 or name[1].startswith("__"):
            continue
        known = package in ORDER and name[1] in ORDER
        if not known or ORDER.index(name[1]) > ORDER.index(package):
            found.append(f"line {imported.line}: {package} imports {imported.module}")
        elif name[1] == "sim" and package not in ("sim", "cli"):
            found.append(f"line {imported.line}: sim is for cli and tests alone")
    return found


def impurities(tree: ast.Module) -> list[str]:
    """What a pure package must not use."""
    found = [
        f"line {i.line}: imports {i.module}"
        for i in imports_of(tree)
        if i.module.split(".")[0] not in PURE_MAY_IMPORT | {"unbrickd"}
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            found.append(f"line {node.lineno}: calls {node.func.id}")
    return found


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_source_tree_has_just_the_packages_of_the_house() -> None:
    there = {package_of(path) for path in SOURCES}
    assert there - ENTRY == set(ORDER)


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_module_imports_run_down_the_list_only(path: Path) -> None:
    package = package_of(path)
    tree = parse(path)
    if package in ENTRY:
        allowed = {"__init__": (), "__main__": ("unbrickd.cli.main",)}[package]
        assert {i.module for i in imports_of(tree) if i.module.startswith("unbrickd")} <= set(allowed)
    else:
        assert wrong_directions(package, tree) == []


@pytest.mark.parametrize("path", [p for p in SOURCES if package_of(p) in PURE], ids=shown)
def test_pure_module_uses_no_io_no_clock_and_no_chance(path: Path) -> None:
    assert impurities(parse(path)) == []


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_module_is_short_enough_to_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", WRITTEN, ids=shown)
def test_python_file_names_its_licence_and_says_what_it_is(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith(LICENCE_LINE + "\n")
    if path.name != "conftest.py":
        assert ast.get_docstring(parse(path)), "it has no module docstring"


def test_wrong_directions_finds_every_way_to_import_upwards() -> None:
    for text in (
        "import unbrickd.server.server",
        "from unbrickd.server import server",
        "from unbrickd import sim",
        "def f() -> None:\n    from unbrickd.cli.main import main",
        "from unbrickd.novelty import x",
    ):
        assert wrong_directions("transfer", ast.parse(text)), text
    assert wrong_directions("adapters", ast.parse("import unbrickd.sim.nor"))
    assert not wrong_directions("cli", ast.parse("import unbrickd.sim.nor"))
    assert not wrong_directions("transfer", ast.parse("from unbrickd.wire import messages"))


def test_impurities_finds_imports_within_functions_and_calls_of_builtins() -> None:
    for text in ("import os", "from time import time", "def f() -> None:\n    import random", "open('x')", "print(1)"):
        assert impurities(ast.parse(text)), text
    assert not impurities(ast.parse("import hashlib\nblobs.open(b'')"))
