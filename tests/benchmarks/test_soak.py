"""A short soak: the same processes, kills and audit, without the goals that need ten minutes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.soak import Seen, report, slope_mb_a_minute


def test_a_short_soak_loses_nothing(tmp_path: Path):
    out = tmp_path / "soak.json"
    command = [sys.executable, "-m", "benchmarks.soak", "--seconds", "15", "--seed", "3", "--out", str(out)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    figures = json.loads(out.read_text())
    assert figures["problems"] == []
    assert figures["jobs"] >= 2
    assert sum(figures["ends"].values()) == figures["jobs"]
    assert set(figures["ends"]) <= {"completed", "failed", "cancelled"}
    assert figures["counts"]["kills of the gateway"] >= 1
    assert "0 problems" in ended.stdout.splitlines()[-1]


def test_memory_that_grows_is_seen():
    steady = [(float(second), 100.0 + second % 2) for second in range(600)]
    leaking = [(second, megabytes + second / 40) for second, megabytes in steady]
    assert slope_mb_a_minute(steady, 120.0) == pytest.approx(0.0, abs=0.01)
    assert slope_mb_a_minute(leaking, 120.0) == pytest.approx(1.5, rel=0.01)
    assert slope_mb_a_minute(steady[:130], 120.0) is None, "ten seconds tell nothing"
    _, short = report(Seen(rss={"gateway": leaking, "worker": steady}), {}, 60.0, 0)
    assert [problem for problem in short if "gateway grows by 1.50" in problem] == short


def test_a_whole_run_has_goals():
    _, short = report(Seen(), {}, 600.0, 0)
    assert len(short) == 3, "jobs, kills of the gateway, kills of the worker"
