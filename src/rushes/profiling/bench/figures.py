"""Figures from several measurements, each with its interval."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
STUDENT_T = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
)
"""The 97.5 % quantile by degrees of freedom, from 1."""
STUDENT_T_BEYOND = 2.14  # from 15 on: a little too wide, never too narrow


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Of a few equal measurements: the middle one, the least and the most."""

    num: int
    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    return Spread(num=len(values), median=statistics.median(values), low=min(values), high=max(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentile:
    """An observed value at or below which the given share of all values lies (nearest rank).

    Attributes:
        share: of 1.
        low, high: 95 % interval from the order of the values alone; None where so few cannot bound it.
    """

    share: float
    value: float
    low: float | None
    high: float | None


def percentile(values: Sequence[float], share: float) -> Percentile:
    """Of at least one value. The interval holds whatever the distribution is (David and Nagaraja, Order
    Statistics, 7.1).

    Example:
        >>> percentile(range(1, 101), 0.95).value
        95
    """
    ordered, num = sorted(values), len(values)
    tail = (1 - CONFIDENCE) / 2
    # The chances that at most k of the values lie below the quantile, for each k.
    below = list(itertools.accumulate(_binomial(k, num, share) for k in range(num)))
    first = next((k for k in range(num) if below[k] > tail), num)
    last = next((k for k in range(num) if below[k] >= 1 - tail), num)
    return Percentile(
        share=share,
        value=ordered[max(0, math.ceil(share * num) - 1)],
        low=ordered[first - 1] if first > 0 else None,
        high=ordered[last] if last < num else None,
    )


def _binomial(hits: int, num: int, rate: float) -> float:
    """The chance of so many hits in `num` draws."""
    log_choose = math.lgamma(num + 1) - math.lgamma(hits + 1) - math.lgamma(num - hits + 1)
    return math.exp(log_choose + hits * math.log(rate) + (num - hits) * math.log1p(-rate))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """The rival's seconds over ours, pair by pair.

    Attributes:
        pairs: each pair's.
        mean: their geometric mean.
        low, high: 95 % interval of the mean (Student's t on the logarithms); None for a single pair.
    """

    pairs: tuple[float, ...]
    mean: float
    low: float | None
    high: float | None


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Of measurements that were taken in pairs.

    Example:
        >>> round(ratio([1.0, 2.0], [2.0, 4.0]).mean, 3)
        2.0
    """
    pairs = tuple(their / our for our, their in zip(ours, theirs, strict=True))
    logs = [math.log(pair) for pair in pairs]
    mean = statistics.fmean(logs)
    if len(pairs) == 1:
        return Ratio(pairs=pairs, mean=math.exp(mean), low=None, high=None)
    half = _student_t(len(pairs) - 1) * statistics.stdev(logs) / math.sqrt(len(pairs))
    return Ratio(pairs=pairs, mean=math.exp(mean), low=math.exp(mean - half), high=math.exp(mean + half))


def _student_t(freedom: int) -> float:
    return STUDENT_T[freedom - 1] if freedom <= len(STUDENT_T) else STUDENT_T_BEYOND
