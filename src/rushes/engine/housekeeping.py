"""Keeps a workplace clean beside the work: old jobs, files that are nobody's. No torch here."""

from __future__ import annotations

import logging
import threading
import time
from math import inf

from rushes.engine.workplace import Workplace
from rushes.errors import RushesError

log = logging.getLogger(__name__)

SWEEP_S = 5.0
ORPHANS_S = 3600.0
"""Between two looks for files that belong to no job."""


class Housekeeping:
    """A thread that sweeps, so that a slow store keeps nobody from saying that it lives. A context manager.

    Args:
        ttl_s, max_bytes: see `Workplace.sweep`.
    """

    def __init__(self, place: Workplace, *, ttl_s: float, max_bytes: int, sweep_s: float = SWEEP_S) -> None:
        self._place, self._ttl_s, self._max_bytes, self._sweep_s = place, ttl_s, max_bytes, sweep_s
        self._stops = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def __enter__(self) -> Housekeeping:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stops.set()
        self._thread.join()

    def _run(self) -> None:
        cleaned_at = -inf
        while not self._stops.is_set():
            try:
                self._place.sweep(ttl_s=self._ttl_s, max_bytes=self._max_bytes)
                if time.monotonic() > cleaned_at + ORPHANS_S:
                    cleaned_at = time.monotonic()
                    self._place.remove_orphans()
            except RushesError as error:
                log.error("the store could not be cleaned: %s", error)
            self._stops.wait(self._sweep_s)
