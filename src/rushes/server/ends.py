"""What follows a job's end, whichever gateway hears of it: its charge is settled, its webhook is told."""

from __future__ import annotations

import logging
import queue
import threading
import time

from rushes.errors import RushesError, UnknownJob
from rushes.server.limits import Limits
from rushes.stores.base import JobStore
from rushes.types import FINAL, JobEvent

log = logging.getLogger(__name__)

RECONCILE_S = 60.0
"""Between two looks for ends that nobody heard."""


class Ends:
    """A thread that settles jobs that have ended. A context manager.

    Args:
        limits: whose `on_end` tells webhooks.
    """

    def __init__(self, jobs: JobStore, limits: Limits) -> None:
        self._jobs, self._limits = jobs, limits
        self._heard: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="ends", daemon=True)

    def __enter__(self) -> Ends:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._heard.put(None)
        self._thread.join()

    @property
    def has_died(self) -> bool:
        """Whether the thread was started and is gone."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def hear(self, event: JobEvent) -> None:
        """Of every event that the feed tells; returns at once."""
        if event.kind in FINAL:
            self._heard.put(event.job_id)

    def _run(self) -> None:
        due_at = time.monotonic()
        while True:
            if time.monotonic() >= due_at:
                self._reconcile()
                due_at = time.monotonic() + RECONCILE_S
            try:
                job_id = self._heard.get(timeout=max(0.0, due_at - time.monotonic()))
            except queue.Empty:
                continue
            if job_id is None:
                return
            self._settle(job_id)

    def _settle(self, job_id: str) -> None:
        try:
            self._limits.ended(self._jobs.get(job_id))
        except UnknownJob:
            self._reconcile()
        except RushesError as error:
            log.warning("job %s will be settled later: %s", job_id, error)
        except Exception:  # a bug with one job must not end the thread, and with it everybody's bills
            log.exception("job %s cannot be settled", job_id)

    def _reconcile(self) -> None:
        try:
            self._limits.reconcile(self._jobs)
        except RushesError as error:
            log.warning("ended jobs will be settled later: %s", error)
        except Exception:
            log.exception("ended jobs cannot be settled")
