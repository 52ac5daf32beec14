"""What findings are drawn from. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rushes.profiling.calls import Call
from rushes.profiling.kineto import Capture
from rushes.profiling.report import Row
from rushes.profiling.rows import RowKey
from rushes.profiling.trials import Ceilings


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What findings are drawn from.

    Attributes:
        scale: by row, from captured device seconds to those of the stage table.
        samples: (`perf_counter` seconds, Python line) of the host.
        places: row and factor of every annotated span.
    """

    rows: Sequence[Row]
    calls: Sequence[Call]
    scale: Mapping[RowKey, float]
    ceilings: Ceilings
    capture: Capture
    samples: Sequence[tuple[float, str]]
    places: Mapping[int, tuple[RowKey, float]]
    is_async: bool

    @property
    def total_s(self) -> float:
        """Of the whole clip."""
        return sum(row.seconds for row in self.rows)

    def seconds(self, call: Call) -> float:
        """Device seconds of a call in the whole clip, as the tables have them."""
        return call.device_s * self.scale.get(call.key, 0.0)
