"""The reports on reuse, on few data."""

from __future__ import annotations

import pytest
from benchmarks.reuse_lookup import measure
from benchmarks.reuse_pairs import PAIRS, judge, lines, report, upper_bound
from benchmarks.reuse_rates import rates
from benchmarks.reuse_synonyms import judged as judged_by
from benchmarks.reuse_synonyms import scene_pairs

from rushes.reuse.encoder import SentenceEncoder
from rushes.reuse.synonyms import NO_SYNONYMS
from rushes.server.reuse_setup import synonyms_by_pipeline


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


def test_equal_words_bring_rewordings_in_and_no_other_scene() -> None:
    pairs = list(scene_pairs(70))
    bare, found = (
        judged_by(pairs, synonyms, SentenceEncoder())
        for synonyms in (NO_SYNONYMS, synonyms_by_pipeline(None)("toy"))
    )
    assert found["pairs of two meanings"] == bare["pairs of two meanings"] == 70
    assert found["false hits"] == 0
    assert int(found["hits"]["one scene"].split()[0]) >= 13
    assert int(bare["hits"]["one scene"].split()[0]) <= 2


def test_a_workloads_beginning_with_the_list_and_without() -> None:
    found = rates("templated-ads", 80)
    bare = found["without list"]
    assert found["exact"] == bare["exact"] > 0.3
    assert found["latent"] > bare["latent"]
    assert found["latent hits on another scene"] == 0
    assert (
        found["by label"]["new"] == bare["by label"]["new"] == {"miss": sum(bare["by label"]["new"].values())}
    )
