"""How time grows with size: seconds ~ size ** exponent, fitted by least squares over logarithms. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rushes.profiling.report import Growth, Run

MIN_SHARE = 0.005
"""Of the largest run: what takes less is not fitted."""


def fit(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float]:
    """Exponent and its standard error (0 for two points).

    Example:
        >>> fit((1, 2, 4), (3, 12, 48))
        (2.0, 0.0)
    """
    xs, ys = [math.log(size) for size in sizes], [math.log(max(value, 1e-12)) for value in seconds]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
    if len(xs) < 3:
        return round(slope, 6), 0.0
    misses = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in zip(xs, ys, strict=True))
    return round(slope, 6), round(math.sqrt(max(0.0, misses) / (len(xs) - 2) / spread), 6)


def growths(runs: Sequence[Run], sizes: Sequence[float]) -> tuple[Growth, ...]:
    """Of the whole, of every stage and of every kind of operator, costliest in the last run first."""
    totals = {("", "total"): [run.total_s for run in runs]}
    by_stage = _series(
        runs, {("", f"{row.stage} (stage)") for run in runs for row in run.rows}, _stage_seconds
    )
    kinds = {(op.stage, op.kind) for run in runs for op in run.operators}
    by_kind = _series(runs, kinds, _kind_seconds)
    least_s = MIN_SHARE * runs[-1].total_s
    found = []
    for (stage, name), seconds in {**totals, **by_stage, **by_kind}.items():
        if min(seconds) > 0 and seconds[-1] >= least_s:
            exponent, error = fit(sizes, seconds)
            found.append(
                Growth(stage=stage, name=name, exponent=exponent, error=error, seconds=tuple(seconds))
            )
    return tuple(sorted(found, key=lambda growth: -growth.seconds[-1]))


Name = tuple[str, str]


def _series(runs: Sequence[Run], names: set[Name], seconds_of: object) -> Mapping[Name, list[float]]:
    assert callable(seconds_of)
    return {name: [seconds_of(run, name) for run in runs] for name in sorted(names)}


def _stage_seconds(run: Run, name: Name) -> float:
    return sum(row.seconds for row in run.rows if f"{row.stage} (stage)" == name[1])


def _kind_seconds(run: Run, name: Name) -> float:
    return sum(op.seconds for op in run.operators if (op.stage, op.kind) == name)
