"""Traces of jobs as files, one small JSON a job, in the folder `traces/` of a workplace. No torch here.

A file holds the lives of its job, each with its spans as rows, so that a job which was resumed elsewhere
shows both. Times are microseconds since the life began, a parent is the index of an earlier row (-1: the
request), and ids of jobs and tenants are left out: a unit may have been shared with others.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rushes.engine.job_spans import Life
from rushes.errors import StoreError, UnknownJob
from rushes.stores.base import JobRecord
from rushes.trace import Span, Value

FORMAT = 1
MOST_LIVES = 8
"""That a file keeps: the first, and the latest."""

UNTOLD = frozenset(("job", "jobs", "tenant", "traceparent", "lane"))
"""Attributes that do not go into a file."""

Row = list[Any]
"""Name, start, length, parent, thread, attributes, error, whether it is a moment."""


class Blobs(Protocol):
    """A `rushes.stores.disk.BlobFolder`."""

    def write(self, name: str, data: bytes) -> None:
        """All of it or nothing. Raises `StoreError`."""

    def read(self, name: str) -> bytes:
        """Raises `StoreError`."""

    def delete(self, name: str) -> None:
        """Missing is fine."""


class Jobs(Protocol):
    """A `rushes.stores.base.JobStore`."""

    def get(self, job_id: str) -> JobRecord:
        """Raises `UnknownJob`."""


def trace_name(job_id: str) -> str:
    """Of a job's file."""
    return f"{job_id}.json"


class TraceWriter:
    """A `Sink` that writes files.

    Args:
        jobs: a job that is gone by the time its trace is written leaves none.
        owner: the worker.
    """

    def __init__(self, folder: Blobs, jobs: Jobs, owner: str) -> None:
        self._folder, self._jobs, self._owner = folder, jobs, owner

    def saved(self, life: Life) -> None:
        """See `Sink`."""
        self._write(life, is_over=False)

    def ended(self, life: Life) -> None:
        """See `Sink`."""
        self._write(life, is_over=True)

    def _write(self, life: Life, *, is_over: bool) -> None:
        name = trace_name(life.job_id)
        present = life_content(life, self._owner, is_over=is_over)
        earlier = [each for each in lives_of(self._folder, life.job_id) if each["key"] != present["key"]]
        lives = [*earlier, present]
        if len(lives) > MOST_LIVES:
            lives = [lives[0], *lives[1 - MOST_LIVES :]]
        content = {"format": FORMAT, "job": life.job_id, "lives": lives}
        self._folder.write(name, json.dumps(content, separators=(",", ":")).encode())
        try:
            self._jobs.get(life.job_id)
        except UnknownJob:  # deleted in the meantime, when its trace was not there yet
            self._folder.delete(name)


def lives_of(folder: Blobs, job_id: str) -> list[dict[str, Any]]:
    """What a job's file holds; nothing where there is none, or one of another format."""
    try:
        content = json.loads(folder.read(trace_name(job_id)))
    except (StoreError, ValueError):
        return []
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        return []
    lives: list[dict[str, Any]] = content["lives"]
    return lives


def life_content(life: Life, owner: str, *, is_over: bool) -> dict[str, Any]:
    """One life as JSON holds it."""
    request = life.request
    # Parents before their children, though they ended after them.
    spans = list(life.spans)[::-1]
    spans.sort(key=lambda span: (span.start_ns, -span.end_ns))
    seconds = request.seconds if is_over else (time.perf_counter_ns() - request.start_ns) / 1e9
    return {
        "key": f"{owner}:{request.start_ns}",
        "owner": owner,
        "started_at": round(life.started_at, 6),
        "seconds": round(seconds, 6),
        "is_over": is_over,
        "error": request.error,
        "is_resumed": bool(request.attributes.get("is_resumed")),
        "attributes": _told(request.attributes),
        "num_dropped": life.num_dropped,
        **_rows(spans, request),
    }


def _rows(spans: Sequence[Span], request: Span) -> dict[str, Any]:
    index = {id(span): number for number, span in enumerate(spans)}
    threads: dict[int, int] = {}
    rows: list[Row] = [
        [
            span.name,
            (span.start_ns - request.start_ns) // 1000,
            (span.end_ns - span.start_ns) // 1000,
            index.get(id(span.parent), -1),
            threads.setdefault(span.thread, len(threads)),
            _told(span.attributes),
            span.error,
            int(span.is_event),
        ]
        for span in spans
    ]
    return {"threads": _thread_names(threads), "spans": rows}


def _told(attributes: Mapping[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in attributes.items() if name not in UNTOLD and value is not None}


def _thread_names(idents: Mapping[int, int]) -> list[str]:
    """The kind of each thread, in the order of its number. Those that have ended were couriers: the others
    live as long as the worker."""
    alive = {thread.ident: thread.name for thread in threading.enumerate()}
    names = [alive.get(ident, "courier") for ident in idents]
    return ["courier" if name.startswith("courier") else name for name in names]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSpan:
    """One stretch of work for a job, as a reader draws it.

    Attributes:
        start_s: since the job was submitted, by the clock of whoever did the work.
        stage: the name of the unit it lies in, its own for a unit: queue, load, text_encode, denoise,
            vae_decode, video_encode, preview, checkpoint, ...
        thread: the kind of thread, and so a lane of a picture: slot-denoise, courier, ...
        life: 0, 1, ...: which of the times that a worker had the job.
        parent: index in the trace's spans, None directly beneath the request.
        is_event: a moment, such as a look-up in a cache.
    """

    name: str
    start_s: float
    seconds: float
    stage: str
    thread: str
    life: int
    parent: int | None
    attributes: Mapping[str, Value]
    error: str | None
    is_event: bool


def spans_of(lives: Sequence[Mapping[str, Any]], created_at: float) -> tuple[TraceSpan, ...]:
    """The spans of all lives, in order of lives and starts.

    Args:
        created_at: of the job, seconds since the epoch.
    """
    spans: list[TraceSpan] = []
    for life, content in enumerate(lives):
        first, offset = len(spans), content["started_at"] - created_at
        for name, start_us, length_us, parent, thread, attributes, error, is_event in content["spans"]:
            above = None if parent < 0 else spans[first + parent]
            stage = above.stage if above else str(attributes.get("stage", name)) if name == "load" else name
            spans.append(
                TraceSpan(
                    name=name,
                    start_s=round(offset + start_us / 1e6, 6),
                    seconds=length_us / 1e6,
                    stage=stage,
                    thread=content["threads"][thread],
                    life=life,
                    parent=None if parent < 0 else first + parent,
                    attributes=attributes,
                    error=error,
                    is_event=bool(is_event),
                )
            )
    return tuple(spans)
