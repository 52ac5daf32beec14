"""A profile as a trace that chrome://tracing and Perfetto open. No torch here."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rushes.errors import OutputError
from rushes.profiling.report import Bar, Profile

ENDINGS = (".trace.json", ".trace.json.gz")
_FIRST_PID = 1_000_000
"""Of the processes that stand for our timelines; the recording's own are the system's."""


def save_trace(profile: Profile, recorded: Mapping[str, Any] | None, path: Path) -> None:
    """Write the timelines of all runs and, as processes of their own, what the profiler recorded.

    Args:
        recorded: Kineto's trace; None without a recording.
        path: ends in one of `ENDINGS`; with .gz it is compressed.

    Raises:
        OutputError: it cannot be written.
    """
    events = [
        event for pid, run in enumerate(profile.runs, _FIRST_PID) for event in _run(run.label, run.bars, pid)
    ]
    trace = {**(recorded or {}), "traceEvents": [*events, *(recorded or {}).get("traceEvents", ())]}
    data = json.dumps(trace).encode()
    try:
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror or error}") from error


def _run(label: str, bars: tuple[Bar, ...], pid: int) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": f"{label}: stages"}}
    for bar in bars:
        yield {
            "ph": "X",
            "cat": bar.stage,
            "name": bar.name,
            "pid": pid,
            "tid": 1,
            "ts": bar.start_s * 1e6,
            "dur": bar.seconds * 1e6,
        }
