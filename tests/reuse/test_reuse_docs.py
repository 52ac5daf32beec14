"""The tables of docs/reuse.md are those of the stored report and of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

from rushes.reuse.eviction import POLICIES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reuse.md").read_text("utf-8")
REPORT = json.loads((ROOT / "benchmarks/results/reuse_pairs.json").read_text("utf-8"))


def test_the_pair_table_is_that_of_the_report() -> None:
    rows = [
        f"| {row['kind']} | {label} | {row['similar']} | {row['passed by the guard']} "
        f"| {row['hits']} of {row['pairs']} |"
        for label in ("same", "other")
        for row in REPORT[label]
    ]
    assert "\n".join(rows) in PAGE
    assert f"below {REPORT['false rate, 95 % upper bound']:.2%}".replace("%", " %") in PAGE
    similar, pairs = (sum(row[name] for row in REPORT["other"]) for name in ("similar", "pairs"))
    assert f"**{similar / pairs:.0%}**".replace("%", " %") in PAGE


def test_the_report_meets_its_goals() -> None:
    assert all(REPORT["verdicts"].values()), REPORT["verdicts"]


def test_every_policy_is_in_its_table() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == set(POLICIES)


def test_the_audits_table_is_that_of_its_report() -> None:
    report = json.loads((ROOT / "benchmarks/results/reuse_audits_cpu.json").read_text("utf-8"))
    rows = re.findall(r"^\| [^|]+ \| ([\d.]+) dB \| (\d+) % \|$", PAGE, re.MULTILINE)
    assert rows == [
        (f"{row['median db']:.1f}", f"{100 * row['below']:.0f}") for row in report["kinds"].values()
    ]
