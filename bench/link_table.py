# SPDX-License-Identifier: Apache-2.0
"""`python -m bench links`: restore and backup over links of many kinds, beside what users have instead.

Writes links.json and links.svg, prints the table and every goal that is missed. What is measured: docs/performance.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from bench.arguments import count, positive
from bench.contenders import Cargo, Contender, Task, versions
from bench.goals import QUICK, ROWS, Medians, Row, in_c
from bench.links import kernel_has_netem, opened, why_not
from bench.machine import commit, load, machine
from bench.picture import Panel, draw
from bench.processes import Figures
from bench.report import MOST_LATE, Raw, figures_table, late_share, medians_of, missed

PANELS = (
    Panel(
        title="Goodput",
        unit="% of the payload limit; of TCP on loopback",
        figure=lambda f: 100 * f["share"],
        beyond=lambda f: 0.0,
        text=lambda f: f"{100 * f['share']:.0f}",
    ),
    Panel(
        title="Waste",
        unit="blocks sent beyond each 100 delivered",
        figure=lambda f: 100 * max(0.0, f.get("waste", 1.0) - 1),
        beyond=lambda f: 0.0,
        text=lambda f: f"{100 * (f['waste'] - 1):.1f}" if "waste" in f else "?",
    ),
)


def measure(contender: Contender, row: Row, cargo: Cargo, *, seed: int, limit_s: float, folder: Path) -> Figures:
    """One transfer; if the host kept the emulator from its work, another, which then counts, whatever it is."""

    def transfer() -> Figures:
        return _transfer(contender, row, cargo, seed=seed, limit_s=limit_s, folder=folder)

    figures = transfer()
    late = late_share(figures)
    return transfer() | {"late_before": late} if late > MOST_LATE else figures


def _transfer(contender: Contender, row: Row, cargo: Cargo, *, seed: int, limit_s: float, folder: Path) -> Figures:
    """Over a new link; {"failed": 1} if it failed, with why on stderr."""
    with opened(row.link, seed=seed, folder=folder) as hosts:
        try:
            figures = contender.measure(Task(link=row.link, hosts=hosts, cargo=cargo, limit_s=limit_s))
        except SystemExit as failure:
            print(f"{row.name}: {contender.name}: {failure}", file=sys.stderr)
            return {"failed": 1.0}
    if "server_cpu_s" in figures and figures["payload_bytes"]:
        figures["server_cpu_s_per_gb"] = figures["server_cpu_s"] / figures["payload_bytes"] * 1e9
    for direction, counted in hosts.counters.items():
        figures |= {f"{direction}_{key}": float(value) for key, value in counted.items()}
    return figures


def report(rows: list[Row], raw: Raw) -> list[dict[str, object]]:
    """The rows of the JSON."""
    told: list[dict[str, object]] = []
    for row in rows:
        medians = medians_of(row, raw[row.name])
        goals = []
        for goal in row.all_goals:
            (measured, met), (measured_in_c, met_in_c) = goal.judge(medians), goal.judge(in_c(medians))
            judged = {"measured": measured, "met": met, "measured_in_c": measured_in_c, "met_in_c": met_in_c}
            goals.append({"goal": goal.text} | judged)
        told.append(
            {
                "name": row.name,
                "link": asdict(row.link),
                "limit_bytes_per_s": row.link.limit_bytes_per_s,
                "size_bytes": row.size_bytes,
                "goals": goals,
                "medians": medians,
                "raw": raw[row.name],
            }
        )
    return told


def picture(rows: list[Row], raw: Raw, *, caption: str) -> str:
    bars: Medians = {}
    for row in rows:
        for name, figures in medians_of(row, raw[row.name]).items():
            if "share" in figures:
                bars[f"{row.name}: {name}"] = figures
    return draw(bars, caption=caption, panels=PANELS)


def main(arguments: list[str]) -> None:
    names = [row.name for row in ROWS]
    parser = argparse.ArgumentParser(prog="python -m bench links", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one run of few links, in under three minutes")
    parser.add_argument("--runs", type=count, metavar="N", help="of each; default: 5, or 1 with --quick")
    parser.add_argument("--rows", metavar="NAME,…", help=f"of {', '.join(names)}".replace("%", "%%"))
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="contenders whose name contains it, such as unbrickd"
    )
    parser.add_argument(
        "--limit", type=positive, metavar="S", help="peers stop after it; default: 10, or 4 with --quick"
    )
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results", metavar="DIR", help="default: bench/results"
    )
    parser.add_argument("--add", action="store_true", help="to the runs that are in the output folder")
    args = parser.parse_args(arguments)
    wanted = args.rows.split(",") if args.rows else QUICK if args.quick else names
    if set(wanted) - set(names):
        parser.error(f"there is no row {', '.join(sorted(set(wanted) - set(names)))}")
    rows = [row for row in ROWS if row.name in wanted]
    if not any(args.only in contender.name for row in rows for contender in row.contenders):
        parser.error(f"no contender's name contains {args.only!r}")
    if reason := why_not():
        sys.exit(f"bench links: {reason}")
    runs, limit_s = args.runs or (1 if args.quick else 5), args.limit or (4.0 if args.quick else 10.0)
    name = "links-quick" if args.quick else "links"
    missing = {c.name: c.missing() for row in rows for c in row.contenders if args.only in c.name and c.missing()}
    for left_out, lacks in missing.items():
        print(f"{left_out} is left out: this machine lacks {', '.join(lacks)}", file=sys.stderr)
    result: dict[str, object] = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine(),
        "versions": {"commit": commit(), **versions()},
        "links_by": "tc netem" if kernel_has_netem() else "bench/linkemu.c",
        "limit_s": limit_s,
        "left_out": missing,
    }
    raw: Raw = {row.name: {c.name: [] for c in row.contenders if args.only in c.name} for row in rows}
    loads: list[float] = []
    if args.add:
        if not (args.output / f"{name}.json").exists():
            parser.error(f"--add wants results in {args.output}")
        before = json.loads((args.output / f"{name}.json").read_text(encoding="utf-8"))
        loads = before["load_before_each"]
        raw = {row["name"]: row["raw"] for row in before["rows"]}
        if list(raw) != [row.name for row in rows]:
            parser.error("--add wants the rows that are there")
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="unbrickd-bench-") as text:
        folder = Path(text)
        folder.chmod(0o755)
        cargoes = {
            size: Cargo(folder / str(size), random.Random(20100520).randbytes(size))
            for size in sorted({row.size_bytes for row in rows})
        }
        for turn in range(len(loads), len(loads) + runs):  # in turns, so that what else the machine does hits all alike
            loads.append(load())
            for row in rows:
                for contender in row.contenders:
                    if contender.name in missing or args.only not in contender.name:
                        raw[row.name].pop(contender.name, None)
                        continue
                    cargo = cargoes[row.size_bytes]
                    figures = measure(contender, row, cargo, seed=turn, limit_s=limit_s, folder=folder)
                    raw[row.name][contender.name].append(figures)
                    rate = figures.get("bytes_per_s", 0.0) / 1e6
                    again = " at the second go" if "late_before" in figures else ""
                    print(f"{turn + 1}  {row.name:16} {contender.name:32} {rate:8.2f} MB/s{again}", file=sys.stderr)
            done: dict[str, object] = {"runs": turn + 1, "load_before_each": loads, "rows": report(rows, raw)}
            (args.output / f"{name}.json").write_text(json.dumps(result | done, indent=1) + "\n", encoding="utf-8")
            caption = f"Over links, medians of {turn + 1} runs; dark: unbrickd"
            (args.output / f"{name}.svg").write_text(picture(rows, raw, caption=caption), encoding="utf-8")
    print(figures_table(rows, raw), missed(rows, raw), sep="\n")
