"""Keeps a workplace clean beside the work: old jobs, files that are nobody's, memory. No torch here."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial
from math import inf

from rushes.engine.host_heap import give_back
from rushes.engine.workplace import MOST_LATENT_BYTES, Workplace
from rushes.errors import RushesError

log = logging.getLogger(__name__)

SWEEP_S = 5.0
ORPHANS_S = 3600.0
"""Between two looks for files that belong to no job."""

TRIM_S = 10.0
"""Between two times that freed memory is returned to the system."""


class Housekeeping:
    """A thread that sweeps, so that a slow store keeps nobody from saying that it lives. A context manager.

    Args:
        ttl_s, max_bytes, max_latent_bytes: see `Workplace.sweep`.
    """

    def __init__(
        self,
        place: Workplace,
        *,
        ttl_s: float,
        max_bytes: int,
        max_latent_bytes: int = MOST_LATENT_BYTES,
        sweep_s: float = SWEEP_S,
    ) -> None:
        self._place, self._sweep_s = place, sweep_s
        self._sweep = partial(
            place.sweep, ttl_s=ttl_s, max_bytes=max_bytes, max_latent_bytes=max_latent_bytes
        )
        self._stops = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def __enter__(self) -> Housekeeping:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stops.set()
        self._thread.join()

    def _run(self) -> None:
        cleaned_at = trimmed_at = -inf
        while not self._stops.is_set():
            try:
                self._sweep()
                self._place.artefacts.send_rest(self._place.jobs)
                if time.monotonic() > cleaned_at + ORPHANS_S:
                    cleaned_at = time.monotonic()
                    self._place.remove_orphans()
            except RushesError as error:
                log.error("the store could not be cleaned: %s", error)
            if time.monotonic() > trimmed_at + TRIM_S:
                trimmed_at = time.monotonic()
                give_back()
            self._stops.wait(self._sweep_s)
