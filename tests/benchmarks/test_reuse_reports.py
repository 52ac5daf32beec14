"""The reports on reuse, on few data."""

from __future__ import annotations

import pytest
from benchmarks.reuse_lookup import measure
from benchmarks.reuse_pairs import PAIRS, judge, lines, report, upper_bound


def test_the_bound_is_that_of_clopper_and_pearson() -> None:
    assert upper_bound(0, 300, 0.95) == pytest.approx(1 - 0.05 ** (1 / 300), abs=1e-9)
    # From the tables of the F distribution: 3 of 100, two-sided 95 %.
    assert upper_bound(3, 100, 0.975) == pytest.approx(0.0852, abs=1e-4)
    assert upper_bound(5, 5, 0.95) == pytest.approx(1)


def test_the_tuning_pairs_reach_the_goals_too() -> None:
    figures = report(judge(PAIRS / "tuning"))
    assert all(figures["verdicts"].values())
    assert figures["false hits"] == 0
    assert any("reordering" in line for line in lines(figures))


def test_look_ups_among_few_entries() -> None:
    figures = measure(entries=300, lookups=8, rate=50.0, num_prompts=40)
    assert figures["hits"] == 4
    assert figures["recall@1"] == 1
