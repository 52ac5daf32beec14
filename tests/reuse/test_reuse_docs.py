"""The tables of docs/reuse.md are those of the stored report and of the code."""

from __future__ import annotations

import json
import re
from pathlib import Path

from rushes.reuse.eviction import POLICIES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reuse.md").read_text("utf-8")
REPORT = json.loads((ROOT / "benchmarks/results/reuse_pairs.json").read_text("utf-8"))

EQUAL = json.loads((ROOT / "benchmarks/results/reuse_synonyms.json").read_text("utf-8"))


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


def test_the_table_of_equal_words_is_that_of_the_report() -> None:
    committed, scenes = EQUAL["committed pairs"], EQUAL["scenes"]
    for label, found, kind in (
        ("committed, inflection", committed, "inflection"),
        ("committed, reordering", committed, "reordering"),
        ("committed, synonym", committed, "synonym"),
        ("one scene of the toy's world in two random wordings", scenes, "one scene"),
    ):
        assert f"| {label} | {found['with list']['hits'][kind]} | {found['without']['hits'][kind]} |" in PAGE
    for label, found in (("committed, of two meanings", committed), ("two scenes that differ", scenes)):
        each, bare = found["with list"], found["without"]
        told = [f"{one['false hits']} of {one['pairs of two meanings']}" for one in (each, bare)]
        assert re.search(rf"^\| {label}[^|]* \| {told[0]} \| {told[1]} \|$", PAGE, re.MULTILINE)
    assert f"below {scenes['with list']['false rate, 95 % upper bound']:.3%}".replace("%", " %") in PAGE
