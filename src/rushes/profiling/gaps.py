"""Time around the device: how much of it comes in long pieces, and where the host is meanwhile. No torch."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rushes.profiling.calls import Call, own_stretches
from rushes.profiling.kineto import Capture, clock_offset, union, without
from rushes.profiling.rows import RowKey

LONG_US = 1000.0
"""A gap this long is no mere launch or line of Python: the host does something else."""


@dataclass(slots=True, kw_only=True)
class RowGaps:
    """Gaps of one row in the capture, scaled to the whole clip.

    Attributes:
        long_s, short_s: in gaps of at least `LONG_US`, and in others.
        lines: how often the host was seen at a Python line in the gaps.
    """

    long_s: float = 0.0
    short_s: float = 0.0
    lines: Counter[str] = field(default_factory=Counter)

    @property
    def long_share(self) -> float:
        """Of all gaps."""
        total = self.long_s + self.short_s
        return self.long_s / total if total else 0.0

    def main_line(self) -> tuple[str, float] | None:
        """Where the host was most often, and in which share of the looks; None where it was not seen."""
        if not self.lines:
            return None
        line, count = self.lines.most_common(1)[0]
        return line, count / self.lines.total()


def gaps_of(
    capture: Capture,
    calls: Sequence[Call],
    samples: Sequence[tuple[float, str]],
    places: Mapping[int, tuple[RowKey, float]],
) -> dict[RowKey, RowGaps]:
    """The gaps of every row.

    Args:
        samples: (`perf_counter` seconds, line).
        places: row and factor of every annotated span.
    """
    busy = _busy(capture, calls)
    offset = clock_offset(capture)
    seen = [((second + offset) * 1e6, line) for second, line in samples] if offset is not None else []
    found: dict[RowKey, RowGaps] = {}
    for number, stretches in own_stretches(capture).items():
        if number not in places:
            continue
        key, factor = places[number]
        row = found.setdefault(key, RowGaps())
        for start, end in without(stretches, _near(busy, stretches)):
            _count(row, start, end, factor, seen)
    return found


def _busy(capture: Capture, calls: Sequence[Call]) -> list[tuple[float, float]]:
    if capture.is_async:
        return union([(work.start, work.end) for work in capture.gpu])
    return union(
        [(call.node.start, call.node.end) for call in calls if call.node is not None and call.device_us]
    )


def _near(
    busy: Sequence[tuple[float, float]], stretches: Sequence[tuple[float, float]]
) -> Sequence[tuple[float, float]]:
    """Those of the merged, ordered intervals that may touch the stretches."""
    if not stretches:
        return ()
    first = bisect_left(busy, stretches[0][0], key=lambda interval: interval[1])
    last = bisect_left(busy, stretches[-1][1], key=lambda interval: interval[0])
    return busy[first:last]


def _count(row: RowGaps, start: float, end: float, factor: float, seen: Sequence[tuple[float, str]]) -> None:
    seconds = factor * (end - start) / 1e6
    if end - start >= LONG_US:
        row.long_s += seconds
    else:
        row.short_s += seconds
    for index in range(bisect_left(seen, start, key=lambda sample: sample[0]), len(seen)):
        at, line = seen[index]
        if at >= end:
            break
        if line:
            row.lines[line] += 1
