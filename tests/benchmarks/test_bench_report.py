"""The report of the speed benchmarks: goals by hand, several files as one, its status and last lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from benchmarks.bench_report import merged, read, sample_verdicts, summary
from benchmarks.card_watch import summary as card_summary
from benchmarks.goals import GOALS, Goal

from benchmarks import bench_report


def speed(folder: Path, name: str, parts: dict[str, Any], **about: Any) -> None:
    rows = {row: {"status": "done", "figures": figures} for row, figures in parts.items()}
    content = {"commit": "abc", "command": ["python", "-m", name], "tiny": False, **about, "parts": rows}
    (folder / f"speed_{name}.json").write_text(json.dumps(content))


def figures_at(factor: float, goals: Sequence[Goal] = GOALS) -> dict[str, dict[str, Any]]:
    """Every goal's figure at so much of its bar; of a figure with two bars, the last one's."""
    parts: dict[str, dict[str, Any]] = {}
    for goal in goals:
        parts.setdefault(goal.row, {})[goal.rungs[0]] = {goal.key: goal.bar * factor}
    return parts


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "met"), (1.001, "short")])
def test_a_goal_is_met_at_its_bar_and_short_beyond(factor: float, verdict: str) -> None:
    assert {goal.verdict(figures_at(factor, [goal])) for goal in GOALS} == {verdict}


def test_what_failed_or_is_missing_was_not_measured() -> None:
    goal = next(goal for goal in GOALS if goal.row == "vae21-480p")
    assert goal.verdict({}) == "not measured"
    assert goal.verdict({"vae21-480p": {"vae-fused": {"failed": "missing"}}}) == "not measured"
    both = {
        "vae21-480p": {"vae-fused": {"failed": "x"}, "plain": {"seconds": 0.9}, "vae-tiny": {"seconds": 0.1}}
    }
    assert goal.value(both) == 0.9
    assert goal.verdict(both) == "met"


def test_files_are_merged_the_last_name_wins_and_tiny_ones_do_not_count(tmp_path: Path) -> None:
    speed(tmp_path, "a", {"compile": {"exact": {"seconds": 40.0}}, "errors": {}})
    speed(tmp_path, "b", {"compile": {"exact": {"seconds": 20.0}}})
    speed(tmp_path, "c", {"compile": {"exact": {"seconds": 1.0}}}, tiny=True)
    parts, commands = merged(read(tmp_path, "speed_*.json"))
    assert parts["compile"]["exact"]["seconds"] == 20.0
    assert commands["compile"] == "python -m b (commit abc, speed_b.json)"
    assert "errors" in parts


def quality(folder: Path, verdict: str) -> None:
    row = {"adherence": {"all": 0.8}, "psnr_db": None, "ssim": 1.0, "frechet": None, "seconds": 1.0}
    content = {"prompts": 24, "preset": "quality", "device": "cpu", "commit": "abc"}
    rows = {"plan exact": {**row, "verdict": verdict}, "fp8-linears": {"refused": "needs a GPU"}}
    (folder / "passes_quality.json").write_text(json.dumps({**content, "rows": rows}))


def test_the_status_is_0_only_when_every_goal_is_met(tmp_path: Path, capsys: Any) -> None:
    arguments = ["--results", str(tmp_path), "--only-stored"]
    assert bench_report.main(arguments) == 1
    assert "not measured" in capsys.readouterr().out.splitlines()[-2]
    speed(tmp_path, "a", figures_at(0.9))
    quality(tmp_path, "met")
    assert bench_report.main(arguments) == 0
    shown = capsys.readouterr().out
    assert shown.splitlines()[-2] == f"GPU goals: {len(GOALS)} of {len(GOALS)} met"
    assert shown.splitlines()[-1] == "quality and CPU: 1 of 1 met"
    assert "refused: needs a GPU" in shown
    quality(tmp_path, "short")
    assert bench_report.main(arguments) == 1
    assert "short: passes_quality.json: plan exact" in capsys.readouterr().out.splitlines()[-1]


def test_the_sample_is_judged_by_time_and_by_its_floor() -> None:
    found = {"plain_s": 1.0, "exact_s": 0.9, "psnr_db": 60.0, "floor_db": 90.0}
    assert set(sample_verdicts(found).values()) == {"met"}
    assert "short" in sample_verdicts({**found, "exact_s": 1.2}).values()
    assert "short" in sample_verdicts({**found, "psnr_db": 40.0}).values()
    assert "met" in sample_verdicts({**found, "psnr_db": 30.0, "floor_db": 32.0, "exact_s": 2.0}).values()


def test_a_summary_names_what_is_not_met() -> None:
    line = summary("goals", {"a": "met", "b": "short", "c": "not measured", "d": "short"})
    assert line == "goals: 1 of 4 met; short: b / d; not measured: c"


def test_clocks_and_power_are_read_from_lines_that_are_numbers() -> None:
    found = card_summary("1980, 3201, 690.5, 60\n[N/A], 3201, 1, 2\n1755, 3201, 700.1, 62\n")
    assert found["power.draw [W]"] == {"median": 695.3, "low": 690.5, "high": 700.1, "samples": 2}
    assert card_summary("") == {}


def test_a_sweep_of_reused_steps_is_shown_with_its_intervals() -> None:
    row = {
        "num_clips": 48,
        "adherence": {"all": 0.875},
        "loss": 0.0208,
        "loss_interval_95": [-0.03, 0.07],
        "psnr_db": 31.24,
        "forwards": [17.5, 15],
    }
    report = {"preset": "quality", "device": "cpu", "commit": "abc", "rows": {"cache 0.02, gate 0.75": row}}
    _, title, *rows = "\n".join(bench_report.reuse_lines({"step_reuse.json": report})).splitlines()
    assert "48 prompts, 95 % intervals, preset quality, cpu, commit abc (step_reuse.json)" in title
    assert len(rows) == 1
    assert "87.5 % right, loses +2.1 (-3.0 to +7.0), PSNR 31.2 dB, 17.5 + 15 forwards" in rows[0]
