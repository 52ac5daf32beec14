"""From the timelines of some runs to the rows of the stage table. No torch here."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rushes.profiling.report import MAX_SAMPLES, Bar, Row
from rushes.profiling.rows import REQUEST, STAGES, RowKey, in_order, is_unit, keyed
from rushes.profiling.timeline import SpanTime
from rushes.trace import Span

MAX_BARS = 1500
"""Of the waterfall: more could not be told apart on a screen."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """A row of one run, scaled to the whole clip."""

    seconds: float = 0.0
    units: float = 0.0
    measured: int = 0
    unit_s: list[float] = field(default_factory=list)


class Factors(Protocol):
    """How often the whole clip does what each span of a run did once; 1 for a run of everything."""

    def of(self, span: Span) -> float:
        """The factor of a span."""


def tally(times: Sequence[SpanTime], factors: Factors) -> dict[RowKey, Tally]:
    """Seconds and units of every row of one run."""
    rows: dict[RowKey, Tally] = {}
    for key, time in keyed(times):
        factor = factors.of(time.span)
        row = rows.setdefault(key, Tally())
        row.seconds += factor * time.own_s
        if is_unit(time.span):
            row.units += factor
            row.measured += 1
            row.unit_s.append(time.own_s)
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTable:
    """The median run, row by row, and its total."""

    rows: tuple[Row, ...]
    total_s: float
    totals: tuple[float, ...]
    chosen: int


def stage_table(tallies: Sequence[dict[RowKey, Tally]]) -> StageTable:
    """The rows of the run whose total is the median (of an even number, the lower one), so that they add up.

    Args:
        tallies: of every repeat.
    """
    totals = [sum(row.seconds for row in rows.values()) for rows in tallies]
    chosen = totals.index(statistics.median_low(totals))
    rows = []
    for key in in_order(tallies[chosen]):
        row = tallies[chosen][key]
        rows.append(
            Row(
                stage=key.stage,
                part=key.part,
                units=round(row.units),
                measured=row.measured,
                seconds=row.seconds,
                device_s=None,
                captured=0,
                unit_s=tuple(row.unit_s[:MAX_SAMPLES]),
                repeats=tuple(each[key].seconds if key in each else 0.0 for each in tallies),
                ideal_s=None,
                flops=None,
            )
        )
    return StageTable(rows=tuple(rows), total_s=totals[chosen], totals=tuple(totals), chosen=chosen)


def bars(times: Sequence[SpanTime]) -> tuple[Bar, ...]:
    """The waterfall of one run; of many spans, the longest."""
    shown = sorted(keyed(times), key=lambda each: each[1].start_s - each[1].end_s)[:MAX_BARS]
    return tuple(
        Bar(
            name=time.span.name if time.span.name in (*STAGES, REQUEST) else key.part,
            stage=key.stage,
            depth=len(time.span.path) - 1,
            start_s=time.start_s,
            seconds=time.end_s - time.start_s,
        )
        for key, time in sorted(shown, key=lambda each: each[1].start_s)
    )
