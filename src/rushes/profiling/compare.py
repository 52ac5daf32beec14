"""Two runs side by side, and whether they differ by more than they vary. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rushes.profiling.report import Run

Verdict = Literal["same", "faster", "slower", "new", "gone"]

TOLERANCE = 0.05
"""Of a value: what two runs of the same thing differ by on a quiet machine."""

ONCE = 0.15
"""The same for what was measured once, and so tells nothing of how it varies."""

FLOOR = 0.005
"""Of the whole: smaller differences are nobody's concern."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing in two runs.

    Attributes:
        a_s, b_s: None where a run does not have it.
        a_range, b_range: least and most that it may be taken for.
    """

    name: str
    a_s: float | None
    b_s: float | None
    a_range: tuple[float, float]
    b_range: tuple[float, float]
    verdict: Verdict

    @property
    def ratio(self) -> float | None:
        """b / a; None where either is missing or a is 0."""
        return self.b_s / self.a_s if self.a_s and self.b_s is not None else None


def compare_totals(a: Run, b: Run) -> Difference:
    """The whole clip."""
    return _difference("total", (a.total_s, a.totals), (b.total_s, b.totals), _floor_s(a, b))


def compare_rows(a: Run, b: Run) -> list[Difference]:
    """The stage tables, rows of both in order of the first."""
    return _compared(
        {row.name: (row.seconds, row.repeats) for row in a.rows},
        {row.name: (row.seconds, row.repeats) for row in b.rows},
        _floor_s(a, b),
    )


def compare_operators(a: Run, b: Run) -> list[Difference]:
    """The operator tables."""
    found = [
        {f"{op.stage}: {op.kind}": (op.seconds, (op.seconds,)) for op in run.operators} for run in (a, b)
    ]
    return _compared(found[0], found[1], _floor_s(a, b))


def _floor_s(a: Run, b: Run) -> float:
    return FLOOR * max(a.total_s, b.total_s)


Measured = tuple[float, Sequence[float]]
"""A value and what it was in every repeat."""


def _compared(a: Mapping[str, Measured], b: Mapping[str, Measured], floor_s: float) -> list[Difference]:
    return [_difference(name, a.get(name), b.get(name), floor_s) for name in dict.fromkeys((*a, *b))]


def _difference(name: str, a: Measured | None, b: Measured | None, floor_s: float) -> Difference:
    a_range, b_range = _range(a), _range(b)
    return Difference(
        name=name,
        a_s=a[0] if a else None,
        b_s=b[0] if b else None,
        a_range=a_range,
        b_range=b_range,
        verdict=_verdict(a, b, a_range, b_range, floor_s),
    )


def _range(measured: Measured | None) -> tuple[float, float]:
    if measured is None:
        return 0.0, 0.0
    value, repeats = measured
    tolerance = TOLERANCE if len(repeats) > 1 else ONCE
    found = (value, *repeats)
    return min(found) * (1 - tolerance), max(found) * (1 + tolerance)


def _verdict(
    a: Measured | None,
    b: Measured | None,
    a_range: tuple[float, float],
    b_range: tuple[float, float],
    floor_s: float,
) -> Verdict:
    value_a, value_b = a[0] if a else 0.0, b[0] if b else 0.0
    if abs(value_a - value_b) <= floor_s:
        return "same"
    if a is None:
        return "new"
    if b is None:
        return "gone"
    if a_range[1] < b_range[0]:
        return "slower"
    return "faster" if b_range[1] < a_range[0] else "same"
