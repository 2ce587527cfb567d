# SPDX-License-Identifier: Apache-2.0
"""`python -m bench report`: writes the tables of docs/performance.md, from what is in bench/results.

A table stands between `<!-- its name -->` and `<!-- end -->`. Knows results and goals, and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path

from bench import street
from bench.goals import MIB, ROWS, Goal, Medians, Row, in_c
from bench.processes import Figures

Raw = dict[str, dict[str, list[Figures]]]
"""By row, by contender: a transfer each."""
RESULTS = Path(__file__).parent / "results"
MOST_LATE = 0.005
"""Of the packets of a transfer, more than 1 ms late (linkemu.c); with more of them it is measured once more."""
DOCUMENT = Path(__file__).parents[1] / "docs" / "performance.md"
_TABLE = re.compile(r"(?<=<!-- )(?!end )(?P<name>[\w-]+)(?P<opened> -->\n).*?(?=<!-- end -->)", re.DOTALL)


def medians_of(row: Row, raw: dict[str, list[Figures]]) -> Medians:
    """Of what did not fail; a contender that failed more often than not has goodput 0."""
    medians: Medians = {}
    for name, runs in raw.items():
        done = [figures for figures in runs if "failed" not in figures]
        if 2 * len(done) <= len(runs):
            medians[name] = {"bytes_per_s": 0.0, "failed": float(len(runs) - len(done))}
            continue
        medians[name] = {k: statistics.median(f[k] for f in done) for k in done[0] if all(k in f for f in done)}
    limit = row.link.limit_bytes_per_s or max(
        (figures["bytes_per_s"] for name, figures in medians.items() if name.startswith("TCP")), default=0.0
    )
    for figures in medians.values():
        if limit:
            figures["share"] = figures["bytes_per_s"] / limit
            if "flow_bytes_per_s" in figures:
                figures["flow_share"] = figures["flow_bytes_per_s"] / limit
    return medians


def late_share(figures: Figures) -> float:
    """Of the packets that the emulator delivered, both ways; 0 if it was another's link."""
    delivered = figures.get("to_device_delivered", 0.0) + figures.get("to_pc_delivered", 0.0)
    return (figures["to_device_late"] + figures["to_pc_late"]) / delivered if delivered else 0.0


def markdown(head: str, rows: list[list[str]]) -> str:
    """head: cells and, at the end of those that are numbers, a colon."""
    heads = head.split(" | ")
    rule = ["---:" if text.endswith(":") else "---" for text in heads]
    lines = [[text.removesuffix(":") for text in heads], rule, *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def verdict(goal: Goal, medians: Medians) -> list[str]:
    measured, met = goal.judge(medians)
    return ["", ""] if measured is None else [f"{measured:.4g}", "met" if met else "**missed**"]


def figures_table(rows: list[Row], raw: Raw) -> str:
    lines = list[list[str]]()
    for row in rows:
        for name, figures in medians_of(row, raw[row.name]).items():
            rate = "failed" if "failed" in figures else f"{figures['bytes_per_s'] / 1e6:.2f}"
            shares = f"{figures['share']:.1%}" if "share" in figures else ""
            waste = f"{figures['waste']:.3f}" if "waste" in figures else ""
            cpu = f"{figures['server_cpu_s_per_gb']:.2f}" if "server_cpu_s_per_gb" in figures else ""
            lines.append([row.name, name, rate, shares, waste, cpu])
    return markdown("link | who | MB/s: | share: | waste: | server CPU s/GB:", lines)


def goals_table(rows: list[Row], raw: Raw) -> str:
    lines = list[list[str]]()
    for row in rows:
        medians = medians_of(row, raw[row.name])
        for goal in row.all_goals:
            lines.append([row.name, goal.text, *verdict(goal, in_c(medians)), *verdict(goal, medians)])
    return markdown("link | goal | device in C: | | device in Python: | ", lines)


def links_table(rows: list[Row]) -> str:
    return markdown("name | link | image", [[r.name, str(r.link), f"{r.size_bytes // MIB} MiB"] for r in rows])


def summary(rows: list[Row], raw: Raw) -> str:
    """How many goals are met: by the device in C, by that in Python, and by the better of the two."""
    counts = {"the device in C": 0, "the one in Python": 0, "one of them": 0}
    judged = dict.fromkeys(counts, 0)
    for row in rows:
        medians = medians_of(row, raw[row.name])
        for goal in row.all_goals:
            c, python = goal.judge(in_c(medians))[1], goal.judge(medians)[1]
            one = None if c is None and python is None else bool(c or python)
            for who, met in zip(counts, (c, python, one), strict=True):
                counts[who] += met is True
                judged[who] += met is not None
    return ", ".join(f"by {who} {counts[who]} of {judged[who]}" for who in counts)


def missed(rows: list[Row], raw: Raw) -> str:
    """A line for each goal that is missed, or could not be judged."""
    lines, unknown = list[str](), list[str]()
    for row in rows:
        medians = medians_of(row, raw[row.name])
        for goal in row.all_goals:
            for device, of_device in ((", device in C", in_c(medians)), ("", medians)):
                measured, met = goal.judge(of_device)
                if met is None and not device:
                    unknown.append(f"- {row.name}: {goal.text}: not measured")
                elif met is False:
                    lines.append(f"- {row.name}{device}: {goal.text}: {measured:.3g}")
    return "\n".join([f"Missed: {len(lines)}", "", *lines, *unknown])


def _run(told: dict[str, object], raw: Raw) -> str:
    """On what, when, and what went wrong. told: the rest of links.json."""
    machine, versions, loads = told["machine"], told["versions"], told["load_before_each"]
    assert isinstance(machine, dict) and isinstance(versions, dict) and isinstance(loads, list)
    transfers = [f for contenders in raw.values() for runs in contenders.values() for f in runs]
    failed = f"{sum('failed' in f for f in transfers)} transfers failed."
    late = [late_share(figures) for figures in transfers if "to_device_late" in figures]
    repeated = sum("late_before" in f for f in transfers)
    again = f" {repeated} transfers were measured again, as more than {MOST_LATE:.1%} were late." if repeated else ""
    peers = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "commit")
    return (
        f"Medians of {told['runs']} runs, load before each {', '.join(map(str, loads))}; a peer stops after "
        f"{told['limit_s']:g} s. Links by {told['links_by']}; {max(late, default=0):.1%} of the packets more than 1 ms "
        f"late in the worst transfer, {statistics.fmean(late or [0]):.2%} on average.{again} {failed}\n\n"
        f"{machine['cpu']}, {machine['cores']} processors, {machine['system']}, Python {machine['python']}. Peers: "
        f"{peers}. Commit {versions['commit']}, {told['date']}.\n"
    )


# Five hundred at once

_STREET: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("devices that were not done", lambda f: f"{f['failures']:.0f}"),
    ("stopped after, s", lambda f: f"{f['stopped_s']:.0f}"),
    ("MB/s, all together", lambda f: f"{f['mb_per_s']:.0f}"),
    ("of the link", lambda f: f"{f['share']:.1%}"),
    ("slowest, median, s", lambda f: f"{f['slowest_s']:.1f}, {f['median_s']:.1f}"),
    ("server CPU s/GB", lambda f: f"{f['server_cpu_s_per_gb']:.1f}"),
    ("devices' CPU s, all together", lambda f: f"{f['client_cpu_s']:.1f}"),
    ("blocks a request", lambda f: f"{f['blocks_per_request']:.1f}"),
    ("server memory at its peak, MiB", lambda f: f"{f['server_peak_bytes'] / MIB:.1f}"),
    ("of that a session, KiB", lambda f: f"{f['server_bytes_per_session'] / 1024:.1f}"),
)


def _street_tables(results: Path) -> dict[str, str]:
    columns: dict[str, Figures] = {}
    goals = list[list[str]]()
    for file in sorted(results.glob("street*.json"), key=lambda path: path.stem):
        told = json.loads(file.read_text(encoding="utf-8"))
        link = "" if file.stem == "street" else f", {told['link'].partition(',')[0]}"
        columns |= {f"{name}{link}": figures for name, figures in told["medians"].items()}
        judged = street.LINK_GOALS if link else street.UNSHAPED_GOALS
        goals += [[f"{goal.text}{link}", *verdict(goal, told["medians"])] for goal in judged]
    lines = list[list[str]]()
    for title, cell in _STREET:
        cells = list[str]()
        for figures in columns.values():
            try:
                cells.append(cell(figures))
            except KeyError:  # what was not measured there
                cells.append("")
        lines.append([title, *cells])
    return {
        "street": markdown(" | ".join(["", *(f"{name}:" for name in columns)]), lines),
        "street-goals": markdown("goal | measured: | ", goals),
    }


def tables(results: Path = RESULTS) -> dict[str, str]:
    """All of them, by name."""
    told = json.loads((results / "links.json").read_text(encoding="utf-8"))
    raw: Raw = {row["name"]: row["raw"] for row in told["rows"]}
    rows = [row for row in ROWS if row.name in raw]
    return {
        "summary": f"Goals met: {summary(rows, raw)}.\n",
        "run": _run(told, raw),
        "links": links_table(rows),
        "goals": goals_table(rows, raw),
        "figures": figures_table(rows, raw),
        **_street_tables(results),
    }


def rewritten(text: str, made: dict[str, str]) -> str:
    """The document with the tables in it. KeyError: it wants one that nobody makes."""
    return _TABLE.sub(lambda match: f"{match['name']}{match['opened']}{made[match['name']]}", text)


def main(arguments: list[str]) -> None:
    argparse.ArgumentParser(prog="python -m bench report", description=__doc__).parse_args(arguments)
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(rewritten(text, tables()), encoding="utf-8")
