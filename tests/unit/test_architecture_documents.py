# SPDX-License-Identifier: Apache-2.0
"""The documents and the code agree: names in ARCHITECTURE.md and SECURITY.md exist, tables equal their enumerations,
the specification's tables equal the wire, every dependency is accounted for, and no machine's own name is committed.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import shutil
import subprocess
import tomllib
from enum import Enum
from pathlib import Path

import pytest

from unbrickd.agent import session as backup_session
from unbrickd.agent import upload
from unbrickd.recovery import session as restore_session
from unbrickd.recovery.check import Reason
from unbrickd.recovery.light import Light
from unbrickd.wire.framing import DEFAULT_PORT, DEVICE_PORT, HEADER_BYTES
from unbrickd.wire.messages import ErrorCode, Type

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "spec").glob("*.md")],
    key=lambda path: path.as_posix(),
)
PACKAGES = {path.name.removesuffix(".py") for path in (ROOT / "src" / "unbrickd").iterdir()} - {"__pycache__"}
_CODE = re.compile(r"`([^`\n]+)`")
_DOTTED = re.compile(r"[a-z]\w*(\.\w+)+")
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
_PATH = re.compile(r"(?:src|tests|tools|docs|spec|bench|requirements|LICENSES)/[\w./*-]*\w")
_TABLE_LINE = re.compile(r"^\|(.+)\|\s*$", re.MULTILINE)
_MACHINE_PATH = re.compile(r"(?<![\w.~$-])/(?:work|root|tmp)/\w")
_REGISTRY_HOST = re.compile(r"\b(?:pypi|pythonhosted|debian|ubuntu|npmjs|crates|rubygems)\.(?:org|com|io|net)\b")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """From a heading that begins like this to the next one of the same or a higher level."""
    match = re.search(rf"^(#+) {re.escape(heading)}", text, re.MULTILINE)
    assert match is not None, f"there is no section {heading!r}"
    rest = text[match.end() :]
    end = re.search(rf"^#{{1,{len(match[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(text: str) -> list[list[str]]:
    """The cells of every table row in a text, heads and rules left out; backticks are taken off."""
    lines = [[cell.strip() for cell in line.split("|")] for line in _TABLE_LINE.findall(text)]
    rules = [i for i, cells in enumerate(lines) if all(re.fullmatch(r":?-+:?", cell) for cell in cells)]
    skip = {*rules, *(i - 1 for i in rules)}
    return [[cell.replace("`", "") for cell in cells] for i, cells in enumerate(lines) if i not in skip]


def resolves(dotted: str) -> bool:
    """Whether unbrickd.<dotted> is a module, or something in one."""
    parts = dotted.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(["unbrickd", *parts[:count]]))
        except ModuleNotFoundError:
            continue
        for name in parts[count:]:
            annotated = getattr(found, "__annotations__", {})
            if not hasattr(found, name) and name not in annotated:
                return False
            found = getattr(found, name, None)
        return True
    return False


def names_of_tests() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        found.add(path.stem)
    return found


def tracked_files() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_document_names_only_code_and_tests_that_exist(path: Path) -> None:
    tests = names_of_tests()
    missing = []
    for code in _CODE.findall(path.read_text(encoding="utf-8")):
        if re.fullmatch(r"test_\w+", code):
            if code not in tests:
                missing.append(code)
        elif _DOTTED.fullmatch(code) and code.split(".")[0] in PACKAGES and not resolves(code):
            missing.append(code)
    assert missing == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=shown)
def test_document_links_and_paths_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = [link for link in _LINK.findall(text) if "://" not in link]
    broken = [link for link in links if not (path.parent / link).exists()]
    named = [code for code in _CODE.findall(text) if _PATH.fullmatch(code)]
    broken += [code for code in named if not list(ROOT.glob(code))]
    assert broken == []


def test_source_names_only_documents_that_exist() -> None:
    named = {
        name for path in tracked_files() if path.suffix == ".py" for name in re.findall(r"docs/[\w/-]+\.md", read(path))
    }
    assert sorted(name for name in named if not (ROOT / name).is_file()) == []


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def test_architecture_lists_the_packages_in_the_order_that_is_held() -> None:
    tree = ast.parse(text_of("tests/unit/test_architecture.py"))
    order = next(
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "ORDER"
    )
    assert tuple(row[0] for row in rows(section(text_of("ARCHITECTURE.md"), "The house"))) == order


@pytest.mark.parametrize(
    ("heading", "states"),
    [
        ("Restore session", restore_session._State),
        ("Backup session", backup_session._State),
        ("One upload", upload._State),
    ],
)
def test_architecture_table_has_each_state_once(heading: str, states: type[Enum]) -> None:
    table = rows(section(text_of("ARCHITECTURE.md"), heading))
    assert [row[0] for row in table] == [state.name for state in states]


def test_architecture_table_of_the_boot_decision_has_each_reason_once() -> None:
    table = rows(section(text_of("ARCHITECTURE.md"), "Boot decision"))
    assert sorted(row[1] for row in table) == sorted(reason.name for reason in Reason)


def test_architecture_fault_list_names_a_test_for_each_fault() -> None:
    table = rows(section(text_of("ARCHITECTURE.md"), "Faults it must survive"))
    assert len(table) > 20
    assert [row[0] for row in table if not re.search(r"\btest_\w+", row[-1])] == []


def test_terminology_shows_the_light_as_it_blinks() -> None:
    table = rows(section(text_of("docs/terminology.md"), "The light"))
    expected = [[light.name.lower().replace("_", "-"), pattern_text(light), light.value.meaning] for light in Light]
    assert table == expected


def pattern_text(light: Light) -> str:
    """The pattern in words, as docs/terminology.md writes it."""
    flashes = light.value.flashes_ms
    if flashes == ((0, 0),):
        return "off"
    if all(off == 0 for _, off in flashes):
        return "steady on"
    return ", ".join(f"{on} ms on, {off} ms off" for on, off in flashes)


def test_protocol_message_table_is_that_of_the_wire() -> None:
    table = rows(section(text_of("spec/protocol.md"), "4 Messages").partition("### ")[0])
    assert {row[1].replace("-", "").upper(): int(row[0]) for row in table} == {
        kind.name.replace("_", ""): kind.value for kind in Type
    }


def test_protocol_error_table_is_that_of_the_wire() -> None:
    table = rows(section(text_of("spec/protocol.md"), "4.14 Error"))
    assert {row[1]: int(row[0]) for row in table} == {
        code.name.lower().replace("_", "-"): code.value for code in ErrorCode
    }


def test_protocol_ports_are_those_of_the_wire() -> None:
    ports = re.findall(r"port \*\*(\d+)\*\*", " ".join(section(text_of("spec/protocol.md"), "1 Transport").split()))
    assert [int(port) for port in ports] == [DEFAULT_PORT, DEVICE_PORT]


def test_protocol_headings_give_the_length_of_each_fixed_body() -> None:
    headings = re.findall(r"^### 4\.(\d+) [\w-]+ \((\d+) bytes\)$", text_of("spec/protocol.md"), re.MULTILINE)
    said = {int(number): int(length) for number, length in headings}
    spec_order = {
        name: number for number, name in re.findall(r"^### 4\.(\d+) ([\w-]+)", text_of("spec/protocol.md"), re.M)
    }
    by_type = {kind: int(spec_order[name]) for kind, name in names_by_type().items()}
    lengths: dict[int, set[int]] = {}
    for case in json.loads(text_of("spec/vectors/messages.json"))["cases"]:
        lengths.setdefault(by_type[case["type"]], set()).add(len(case["octets"]) // 2 - HEADER_BYTES)
    assert len(said) >= 8
    assert {number: {length} for number, length in said.items()} == {number: lengths[number] for number in said}


def names_by_type() -> dict[int, str]:
    table = rows(section(text_of("spec/protocol.md"), "4 Messages").partition("### ")[0])
    return {int(row[0]): row[1] for row in table}


@pytest.mark.parametrize("name", ["spec/protocol.md", "spec/flash-format.md"])
def test_specification_tables_of_bytes_have_no_gap_and_no_overlap(name: str) -> None:
    """Up to the first field of variable place: each field begins where the one before it ends."""
    tables = re.split(r"^\| at \| size \| field \|\n\| --- \| --- \| --- \|\n", text_of(name), flags=re.MULTILINE)[1:]
    assert len(tables) >= 5
    for table in tables:
        expected = 0
        for line in table.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if len(cells) < 3 or not cells[0].isdigit() or not cells[1].isdigit():
                break
            assert int(cells[0]) == expected, line
            expected += int(cells[1])


def test_dependencies_each_have_their_line_and_no_line_is_left_over() -> None:
    project = tomllib.loads(text_of("pyproject.toml"))
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    wanted += [line for line in text_of("requirements/dev.in").splitlines() if line and not line.startswith("#")]
    needed = {re.split(r"[\s<>=~!;\[]", requirement, maxsplit=1)[0].lower() for requirement in wanted}
    table = rows(text_of("docs/dependencies.md"))
    assert {row[0] for row in table} == needed
    assert all(len(cell) > 10 for row in table for cell in row[1:]), "say what for and what was passed over"


def test_committed_text_names_no_machine_and_no_registry() -> None:
    found = [
        f"{shown(path)}: {match[0]}"
        for path in tracked_files()
        for pattern in (_MACHINE_PATH, _REGISTRY_HOST)
        for match in pattern.finditer(read(path))
    ]
    assert found == []


def test_machine_and_registry_patterns_find_what_they_are_for() -> None:
    for folder in ("work", "root"):
        assert _MACHINE_PATH.search(f"in /{folder}/main")
    assert not _MACHINE_PATH.search("src/work/main, network/root/x")
    for host in ("pypi", "deb.debian"):
        assert _REGISTRY_HOST.search(f"from {host}.org/simple")


def test_licence_texts_are_those_that_the_source_names() -> None:
    licence = text_of("LICENSES/Apache-2.0.txt")
    assert "Apache License\n                           Version 2.0, January 2004" in licence
    assert licence.rstrip().endswith("limitations under the License.")
    named = {
        match
        for path in tracked_files()
        if path.suffix in {".py", ".toml", ".yml", ".c", ".h"}
        for match in re.findall(r"SPDX-License-Identifier: ([\w.-]+)", read(path))
    }
    assert {name for name in named if not (ROOT / "LICENSES" / f"{name}.txt").is_file()} == set()
