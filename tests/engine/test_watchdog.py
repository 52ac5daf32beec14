"""When a unit counts as hung."""

from __future__ import annotations

from dataclasses import replace

from rushes.engine.tasks import InFlight
from rushes.engine.watchdog import Watchdog

SHORT = InFlight(job_ids=("a",), stage="denoise", predicted_s=1.0, began_at=3.0)
LONG = InFlight(job_ids=("b",), stage="denoise", predicted_s=20.0, began_at=3.0)


def test_a_unit_hangs_beyond_ten_times_its_prediction_but_never_before_the_floor() -> None:
    dog = Watchdog(10.0, 60.0)
    assert dog.look([SHORT, LONG], 60.0) == []
    assert dog.look([SHORT, LONG], 1.0) == [(SHORT, 61.0)]
    assert dog.look([LONG], 139.0) == []
    assert dog.look([LONG], 1.0) == [(LONG, 201.0)]


def test_loading_does_not_count_and_the_next_unit_counts_anew() -> None:
    dog = Watchdog(10.0, 60.0)
    loading = replace(SHORT, began_at=None)
    assert dog.look([loading], 1000.0) == []
    assert dog.look([SHORT], 50.0) == []
    assert dog.look([], 3600.0) == [], "nothing runs: a long pause alone says nothing"
    assert dog.look([SHORT], 50.0) == []
    assert dog.look([replace(SHORT, began_at=53.0)], 50.0) == []
