"""The wall time of a run, split over its spans so that the parts add up. No torch here.

A device that runs behind the host makes the host's clock a liar: a stage that merely waits for it would be
charged for the work of the stage before. So each boundary of a span has two times: when the host passed it,
and when the device had done everything asked of it until then. It is reached at the later of the two. Taken
in order these never go back, so the stretches between them, each charged to the innermost open span, add up
to the time from the first to the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rushes.trace import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """Where a span begins or ends; seconds of one clock.

    Attributes:
        device_s: when the device got there; None where it does not run behind.
    """

    span: Span
    is_start: bool
    host_s: float
    device_s: float | None = None

    @property
    def reached_s(self) -> float:
        """When host and device were both there."""
        return self.host_s if self.device_s is None else max(self.host_s, self.device_s)


@dataclass(slots=True, kw_only=True)
class SpanTime:
    """A span on the timeline.

    Attributes:
        start_s, end_s: since the run began.
        own_s: of the time between, what no span within it took.
        stretches: the pieces (start, end) that make up `own_s`.
    """

    span: Span
    start_s: float
    end_s: float
    stretches: list[tuple[float, float]]

    @property
    def own_s(self) -> float:
        """Seconds charged to this span itself."""
        return sum(end - start for start, end in self.stretches)


def split(boundaries: Sequence[Boundary]) -> list[SpanTime]:
    """Charge every moment to the innermost span that is open then.

    Args:
        boundaries: of one thread, in the order in which the host passed them, beginning with the root's start
            and ending with its end.

    Returns:
        one entry a span, in order of their starts. Their `own_s` add up to the root's length.
    """
    if not boundaries:
        return []
    begin = now = boundaries[0].reached_s
    times: list[SpanTime] = []
    open_spans: list[SpanTime] = []
    for boundary in boundaries:
        before, now = now, max(now, boundary.reached_s)
        if open_spans and now > before:
            open_spans[-1].stretches.append((before - begin, now - begin))
        if boundary.is_start:
            started = SpanTime(span=boundary.span, start_s=now - begin, end_s=now - begin, stretches=[])
            times.append(started)
            open_spans.append(started)
        else:
            open_spans.pop().end_s = now - begin
    return times
