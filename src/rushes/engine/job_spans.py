"""The spans of every job that a worker runs, collected beside its work and handed on when it ends. No torch.

What the threads of the work pay is a look at a span's root and one append; whatever is made of the spans (a
file, an export) is made on a thread of the collector's own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Protocol

from rushes.trace import Span, listen

log = logging.getLogger(__name__)

MOST_DETAILS = 1_500
"""Spans below the units of a job that are kept of one life."""

MOST_SPANS = 4_000
"""Spans that are kept of one life, units included."""

SAVE_EVERY_S = 2.0
"""The least between two savings of a life that goes on."""


@dataclass(slots=True, kw_only=True, eq=False)
class Life:
    """What one worker did for one job, from the moment that it took it.

    Attributes:
        request: the span above all others; open while the life goes on.
        origin_ns: nanoseconds since the epoch at `perf_counter_ns` 0.
        spans: ended ones, children before their parents; a unit that jobs shared stands in each one's life.
        num_dropped: spans beyond what is kept.
    """

    job_id: str
    request: Span
    origin_ns: int
    spans: list[Span] = field(default_factory=list)
    num_dropped: int = 0
    num_details: int = 0
    saved_at: float = 0.0

    @property
    def started_at(self) -> float:
        """Seconds since the epoch."""
        return (self.origin_ns + self.request.start_ns) / 1e9

    def keep(self, span: Span, *, is_detail: bool) -> None:
        """Add a span, unless there are too many: details go first, so that every unit is still there."""
        if len(self.spans) >= MOST_SPANS or (is_detail and self.num_details >= MOST_DETAILS):
            self.num_dropped += 1
            return
        self.num_details += is_detail
        self.spans.append(span)


class Sink(Protocol):
    """Makes something of the spans of jobs. Called on the collector's thread, never by two at a time; an
    error is logged and costs the sink this life, nothing else."""

    def saved(self, life: Life) -> None:
        """The life goes on; what is written now survives the death of this process."""

    def ended(self, life: Life) -> None:
        """It is over, and complete."""


class JobSpans:
    """A `rushes.trace.Listener` for a worker; see `collecting`."""

    def __init__(self, sinks: Sequence[Sink], *, save_every_s: float = SAVE_EVERY_S) -> None:
        self._sinks, self._save_every_s = sinks, save_every_s
        self._lives: dict[str, Life] = {}
        self._due: SimpleQueue[tuple[Life, bool] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._hand_on, name="job-spans", daemon=True)

    def opened(self, span: Span) -> None:
        """A request begins a life."""
        if span.parent is None and span.name == "request" and (job := span.attributes.get("job")):
            origin_ns = time.time_ns() - time.perf_counter_ns()
            self._lives[str(job)] = Life(
                job_id=str(job), request=span, origin_ns=origin_ns, saved_at=time.monotonic()
            )

    def closed(self, span: Span) -> None:
        """Keep what is a job's. Dictionaries and lists take single operations of several threads as they
        come; no lock is needed."""
        depth, root = 0, span
        while root.parent is not None:
            depth, root = depth + 1, root.parent
        shared = root.attributes.get("jobs")
        if shared is not None:
            for job_id in str(shared).split(","):
                if life := self._lives.get(job_id):
                    life.keep(span, is_detail=depth > 0)
            return
        if root.name != "request" or (life := self._lives.get(str(root.attributes.get("job")))) is None:
            return
        if span is root:
            del self._lives[life.job_id]
            self._due.put((life, True))
            return
        life.keep(span, is_detail=depth > 1)
        if span.name == "checkpoint" and time.monotonic() - life.saved_at > self._save_every_s:
            life.saved_at = time.monotonic()
            self._due.put((life, False))

    def start(self) -> None:
        """Begin to serve the sinks."""
        self._thread.start()

    def stop(self) -> None:
        """Serve what has ended, and end. Lives that still go on are another worker's affair."""
        self._due.put(None)
        self._thread.join()

    def _hand_on(self) -> None:
        while (due := self._due.get()) is not None:
            life, is_over = due
            for sink in self._sinks:
                try:
                    sink.ended(life) if is_over else sink.saved(life)
                except Exception:  # the border to files and collectors: a trace is worth no job
                    log.exception("job %s: its trace is lost", life.job_id)


@contextmanager
def collecting(*sinks: Sink, save_every_s: float = SAVE_EVERY_S) -> Iterator[None]:
    """Collect the spans of the jobs that begin within the block. Leave it when the worker has drained."""
    spans = JobSpans(sinks, save_every_s=save_every_s)
    spans.start()
    try:
        with listen(spans):
            yield
    finally:
        spans.stop()
