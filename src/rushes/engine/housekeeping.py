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

TRIM_S = 1.0
"""Between two times that freed memory is returned to the system: a millisecond or less each, where one after
ten seconds takes ten and leaves the process larger meanwhile, by what the clips of ten seconds have freed."""


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
        swept_at = cleaned_at = -inf
        while not self._stops.is_set():
            now = time.monotonic()
            if now >= swept_at + self._sweep_s:
                swept_at = now
                cleaned_at = self._clean(cleaned_at)
            give_back()
            self._stops.wait(min(TRIM_S, self._sweep_s))

    def _clean(self, cleaned_at: float) -> float:
        """Sweep, and look for orphans if that was too long ago; when it was last done."""
        try:
            self._sweep()
            self._place.artefacts.send_rest(self._place.jobs)
            if time.monotonic() > cleaned_at + ORPHANS_S:
                cleaned_at = time.monotonic()
                self._place.remove_orphans()
        except RushesError as error:
            log.error("the store could not be cleaned: %s", error)
        return cleaned_at
