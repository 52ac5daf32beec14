"""Percentiles, ratios and their intervals, against brute force and repeated draws."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rushes.profiling.bench.figures import STUDENT_T, percentile, ratio, spread


@pytest.mark.parametrize("num", [1, 2, 10, 99, 100, 101])
@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_a_percentile_is_the_least_value_that_enough_do_not_exceed(num: int, share: float) -> None:
    values = np.random.default_rng(num).permutation(np.arange(num)).tolist()
    found = percentile(values, share).value
    assert sum(value <= found for value in values) >= share * num
    assert sum(value <= found - 1 for value in values) < share * num


@pytest.mark.parametrize(("num", "share"), [(20, 0.5), (41, 0.5), (100, 0.95), (700, 0.99)])
def test_the_interval_of_a_percentile_is_the_narrowest_that_covers_it(num: int, share: float) -> None:
    """How many values lie below the quantile is binomial, whatever their distribution: each bound leaves at
    most 2.5 % beyond it, and the next value would leave more."""
    chances = [math.comb(num, k) * share**k * (1 - share) ** (num - k) for k in range(num + 1)]
    found = percentile(list(range(1, num + 1)), share)  # every value is its own rank
    low, high = int(found.low), int(found.high)
    assert sum(chances[:low]) <= 0.025 < sum(chances[: low + 1])
    assert sum(chances[high:]) <= 0.025 < sum(chances[high - 1 :])


def test_few_values_do_not_bound_a_high_percentile() -> None:
    found = percentile(list(range(20)), 0.99)
    assert (found.value, found.high) == (19, None)
    assert percentile([3.0], 0.5).low is None


def test_the_ratio_of_pairs() -> None:
    """Noise that strikes both of a pair alike does not widen the interval."""
    chance = np.random.default_rng(0)
    ours = chance.uniform(1, 5, 8)
    found = ratio(ours.tolist(), (1.5 * ours).tolist())
    assert (found.mean, found.low, found.high) == pytest.approx((1.5, 1.5, 1.5))
    by_hand = ratio([1.0, 1.0], [2.0, 4.0])
    half = STUDENT_T[0] * (math.log(2) / math.sqrt(2)) / math.sqrt(2)
    assert by_hand.mean == pytest.approx(math.sqrt(8))
    assert (by_hand.low, by_hand.high) == pytest.approx(
        (math.sqrt(8) * math.exp(-half), math.sqrt(8) * math.exp(half))
    )
    assert ratio([2.0], [3.0]).pairs == (1.5,)
    assert ratio([2.0], [3.0]).low is None


def test_the_interval_of_a_ratio_covers_it() -> None:
    chance, covered = np.random.default_rng(1), 0
    for _ in range(300):
        ours, theirs = np.exp(chance.normal(0, 0.1, (2, 4)))
        found = ratio(ours.tolist(), (2 * theirs).tolist())
        covered += found.low <= 2 <= found.high
    assert 273 <= covered <= 297


@pytest.mark.parametrize("freedom", [1, 2, 5, 14])
def test_students_t(freedom: int) -> None:
    """97.5 % of the density lies below the tabled value."""
    scale = math.gamma((freedom + 1) / 2) / math.sqrt(freedom * math.pi) / math.gamma(freedom / 2)
    x = np.linspace(0, STUDENT_T[freedom - 1], 200_001)
    density = scale * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    assert 0.5 + np.trapezoid(density, x) == pytest.approx(0.975, abs=2e-5)


def test_the_spread_of_a_few() -> None:
    found = spread([3.0, 1.0, 2.0])
    assert (found.num, found.low, found.median, found.high) == (3, 1.0, 2.0, 3.0)
