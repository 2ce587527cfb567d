# SPDX-License-Identifier: Apache-2.0
"""The benchmark's judgement: medians, and which goals they meet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
from bench import link_table, loopback, report, street, uboot
from bench.__main__ import main as run_bench
from bench.contenders import BACKUP, BBR, CUBIC, RESTORE, RESTORE_IN_C, TFTP, TFTP_32, Cargo, mean_rate
from bench.goals import QUICK, ROWS, Medians, Row, in_c
from bench.processes import Figures
from bench.report import DOCUMENT, medians_of, missed, rewritten, tables

CLEAN, LOOPBACK = ROWS[0], ROWS[-1]


def run_of(bytes_per_s: float, **more: float) -> Figures:
    return {"bytes_per_s": bytes_per_s, "waste": 1.0, "server_cpu_s_per_gb": 1.0} | more


def judged(row: Row, medians: Medians) -> dict[str, bool | None]:
    return {goal.text: goal.judge(medians)[1] for goal in row.all_goals}


def of_clean_link(restore_share: float) -> Medians:
    limit = CLEAN.link.limit_bytes_per_s
    raw = {
        RESTORE.name: [run_of(restore_share * limit)],
        BACKUP.name: [run_of(restore_share * limit)],
        TFTP.name: [run_of(0.08 * limit)],
        TFTP_32.name: [run_of(0.66 * limit)],
        CUBIC.name: [run_of(0.98 * limit)],
        BBR.name: [run_of(0.97 * limit)],
    }
    return medians_of(CLEAN, raw)


def test_goals_of_a_restore_at_the_links_limit_are_met() -> None:
    assert set(judged(CLEAN, of_clean_link(0.99)).values()) == {True}


def test_goals_of_a_restore_at_half_the_limit_are_missed_by_name() -> None:
    missed = {text for text, met in judged(CLEAN, of_clean_link(0.5)).items() if met is False}
    assert missed == {
        "restore ≥ 0.98 of the limit",
        "restore ≥ 1 × TCP CUBIC and TCP BBR",
        "restore ≥ 10 × TFTP 1468",
        "restore ≥ 1.4 × TFTP window 32",
    }


def test_goals_whose_peer_was_not_measured_are_neither_met_nor_missed() -> None:
    medians = of_clean_link(0.99)
    del medians[CUBIC.name]
    assert judged(CLEAN, medians)["restore ≥ 1 × TCP CUBIC and TCP BBR"] is None


def test_goals_with_a_waste_above_the_bound_are_missed() -> None:
    medians = of_clean_link(0.99)
    medians[RESTORE.name]["waste"] = 1.02
    assert judged(CLEAN, medians)["waste ≤ 1.01"] is False


def test_goals_of_failed_restores_are_not_met() -> None:
    medians = medians_of(CLEAN, {RESTORE.name: [{"failed": 1.0}, {"failed": 1.0}, run_of(1e7)]})
    assert judged(CLEAN, medians)["restore ≥ 0.98 of the limit"] is False


def test_medians_leave_single_failures_out() -> None:
    medians = medians_of(CLEAN, {RESTORE.name: [{"failed": 1.0}, run_of(3.0), run_of(1.0), run_of(2.0)]})
    assert medians[RESTORE.name]["bytes_per_s"] == 2.0


def test_medians_on_loopback_are_shares_of_tcp() -> None:
    medians = medians_of(LOOPBACK, {RESTORE.name: [run_of(5.0)], CUBIC.name: [run_of(10.0)]})
    assert medians[RESTORE.name]["share"] == 0.5


def test_goals_of_the_device_in_c_are_judged_by_its_own_restore() -> None:
    medians = of_clean_link(0.5)
    limit = CLEAN.link.limit_bytes_per_s
    medians |= medians_of(CLEAN, {RESTORE_IN_C.name: [run_of(0.99 * limit)]})
    verdicts = judged(CLEAN, in_c(medians))
    assert verdicts.pop("backup ≥ 0.95 × restore") is False, "agents are Python, and back up at half of the limit"
    assert set(verdicts.values()) == {True}
    assert set(judged(CLEAN, in_c(of_clean_link(0.5))).values()) == {None}


def test_report_names_each_goal_that_is_missed() -> None:
    limit = CLEAN.link.limit_bytes_per_s
    text = missed([CLEAN], {CLEAN.name: {RESTORE.name: [run_of(limit / 2, server_cpu_s_per_gb=20.0)]}})
    assert "- 100M 1 ms: restore ≥ 0.98 of the limit: 0.5" in text
    assert "- 100M 1 ms: server ≤ 3 CPU s/GB: 20" in text
    assert "- 100M 1 ms: restore ≥ 10 × TFTP 1468: not measured" in text


@pytest.mark.parametrize(("late", "counts"), [([0.004, 0.0], 0), ([0.006, 0.001], 1), ([0.006, 0.02], 1)])
def test_links_made_late_by_the_host_are_measured_once_more(
    late: list[float], counts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = {"to_device_delivered": 600.0, "to_pc_delivered": 400.0, "to_pc_late": 0.0}
    transfers = [counters | {"to_device_late": 1000 * share} for share in late]
    monkeypatch.setattr(link_table, "_transfer", lambda *_args, **_more: transfers.pop(0))
    cargo = cast(Cargo, None)
    figures = link_table.measure(RESTORE, CLEAN, cargo, seed=1, limit_s=1.0, folder=tmp_path)
    assert report.late_share(figures) == late[counts]
    assert len(transfers) == 1 - counts and ("late_before" in figures) == bool(counts)


def test_report_of_the_results_is_what_the_document_shows() -> None:
    """`python -m bench report` writes it."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert rewritten(text, tables()) == text


def test_report_replaces_what_is_between_its_marks() -> None:
    text = "before\n<!-- links -->\nold\n<!-- end -->\nafter\n"
    assert rewritten(text, {"links": "new\n"}) == "before\n<!-- links -->\nnew\n<!-- end -->\nafter\n"


def test_mean_rate_counts_only_what_came_in_that_time() -> None:
    came = [(0.0, 0.0), (1.0, 100.0), (2.0, 300.0), (3.0, 700.0)]
    assert mean_rate(came, 1.0, 3.0) == 300.0
    assert mean_rate(came, 4.0, 5.0) == 0.0


def test_picture_of_loopback_without_tcp_which_has_no_shares_is_empty() -> None:
    rows = [LOOPBACK]
    assert "<svg" in link_table.picture(rows, {LOOPBACK.name: {RESTORE.name: [run_of(1.0)]}}, caption="nobody")


def test_quick_rows_exist() -> None:
    assert set(QUICK) <= {row.name for row in ROWS}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows_measure_whomever_their_goals_compare(row: Row) -> None:
    everybody = {c.name: run_of(1.0, flow_share=0.5, share=0.5) for c in row.contenders}
    assert None not in judged(row, everybody).values()


@pytest.mark.parametrize("bench", [link_table.main, loopback.main, report.main, street.main, uboot.main])
def test_bench_asked_for_help_prints_it(bench: Callable[[list[str]], None], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench(["--help"])
    assert ended.value.code == 0 and "usage" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["street", "--size", "65537"],
        ["street", "--size", "much"],
        ["street", "--devices", "0"],
        ["street", "--rate", "-1"],
        ["links", "--runs", "0"],
        ["links", "--limit", "nan"],
        ["links", "--rows", "no such link"],
        ["links", "--only", "no such contender"],
        ["loopback", "--size", "64KiB"],
        ["--runs", "-1"],
        ["no-such-bench"],
    ],
    ids=" ".join,
)
def test_bench_with_senseless_arguments_is_refused_by_name(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_bench(arguments)
    said = capsys.readouterr().err + str(ended.value.code)
    assert ended.value.code and (arguments[-1] in said or "erase blocks" in said)
