"""Models profiled side by side: repeats under spans, recorded operators, ceilings, findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

import torch

from rushes.errors import OutOfMemory
from rushes.profiling.calls import Call, calls_of
from rushes.profiling.capture import Recorded, record
from rushes.profiling.ceilings import measure_ceilings
from rushes.profiling.clip import Clip
from rushes.profiling.evidence import Evidence
from rushes.profiling.findings import find
from rushes.profiling.operators import (
    Captured,
    explained,
    flame_graph,
    operator_table,
    raw_table,
    scales,
    top,
    with_device,
)
from rushes.profiling.report import Peak, Row, Run
from rushes.profiling.rows import STAGES, RowKey, keyed
from rushes.profiling.stage_table import Factors, Tally, bars, stage_table, tally
from rushes.profiling.trials import Ceilings
from rushes.trace import Listener

MAX_RAW = 60
"""Operators kept in a report; `--top` may ask for more."""

ONCE = "timed while operators were recorded: the time around the device holds what that costs the host"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to profile.

    Attributes:
        repeats: of the whole clip (or of the short one), after one that warms up; the median is shown.
        is_short: run a few units of each kind and extrapolate.
        is_once: take the times from the recorded run, for clips that cost too much to be made twice: of a
            device that runs behind the host they are true, but for the time around it (`capture`).
        captures: also record operators, in a run of its own, and measure the ceilings.
        stacks: mark Python lines in that recording.
        top, sort: how many operators the raw table keeps, and by what (`rushes.profiling.operators.SORTS`).
        ceiling_s: spent on each shape and kernel that is tried alone.
    """

    repeats: int = 3
    is_short: bool = False
    is_once: bool = False
    captures: bool = True
    stacks: bool = False
    top: int = MAX_RAW
    sort: str = "device_time"
    ceiling_s: float = 0.1


class Subject(Protocol):
    """What is profiled: a model with a request, ours or another engine's.

    Attributes:
        label: what tells it from the others.
        model: its name.
    """

    label: str
    model: str

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    def warm_up(self) -> None:
        """Load every part. Raises as `Model.generate`."""

    def spans(self) -> AbstractContextManager[None]:
        """Open spans (`rushes.profiling.rows`) around its stages and networks."""

    def clip(self, *, is_short: bool, beside: Sequence[Listener] = ()) -> Clip:
        """Make a clip under the profiler's spans; see `rushes.profiling.clip.run_clip`."""

    def factors(self, clip: Clip) -> Factors:
        """From what the clip ran to the whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A profiled subject, with what only files and tests want beside the report.

    Attributes:
        clips: every repeat.
        recorded: None without a capture.
    """

    run: Run
    clips: tuple[Clip, ...]
    recorded: Recorded | None


def profile(
    subjects: Sequence[Subject], options: Options, say: Callable[[str], None] = lambda text: None
) -> list[Session]:
    """Profile subjects, their repeats taking turns, so that a machine that gets slower does so for all.

    Args:
        say: told what happens next.

    Raises:
        InvalidRequest, CheckpointError, EngineError: as `Model.generate`.
    """
    made = timed(subjects, options, say)
    sessions = []
    for subject, clips in zip(subjects, made, strict=True):
        ceilings = Ceilings()
        with at(subject):
            taken = capture(subject, options, say, clips)
            if taken.recorded is not None:
                say(f"{subject.label}: measure what the device can do")
                measure_ceilings(taken.calls, subject.device, budget_s=options.ceiling_s, known=ceilings)
        sessions.append(finish(taken, options, ceilings))
    return sessions


def timed(subjects: Sequence[Subject], options: Options, say: Callable[[str], None]) -> list[list[Clip]]:
    """Warm every subject up, and make its clips, in turns."""
    for subject in subjects:
        say(f"{subject.label}: load and warm up")
        with at(subject):
            subject.warm_up()
            with subject.spans():
                subject.clip(is_short=True)
    clips: list[list[Clip]] = [[] for _ in subjects]
    for repeat in range(options.repeats):
        for subject, made in zip(subjects, clips, strict=True):
            say(f"{subject.label}: run {repeat + 1} of {options.repeats}")
            with at(subject), subject.spans():
                made.append(subject.clip(is_short=options.is_short))
    return clips


@contextmanager
def at(subject: Subject) -> Iterator[None]:
    """With the subject's device as the current one, of which torch's events and waits are; an error of ours
    where it has no memory left."""
    device = subject.device
    try:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            yield
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(
            f"{subject.label}: the device ran out of memory; ask for a smaller or shorter clip ({error})"
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What was measured of a subject, before the device's limits are known.

    Attributes:
        run: the stage table.
        calls: recorded operators.
        seen: rows of the recorded clip; None without a recording.
        places: row and factor of every annotated span.
    """

    run: Run
    clips: tuple[Clip, ...]
    device: torch.device
    recorded: Recorded | None = None
    calls: list[Call] = field(default_factory=list)
    seen: Mapping[RowKey, Tally] = field(default_factory=dict)
    places: Mapping[int, tuple[RowKey, float]] = field(default_factory=dict)


def capture(
    subject: Subject, options: Options, say: Callable[[str], None], clips: Sequence[Clip] = ()
) -> Taken:
    """Record the operators of a subject.

    Args:
        clips: that were timed; none with `Options.is_once`.
    """
    if not options.captures:
        return Taken(run=_timed_run(subject, clips, options), clips=tuple(clips), device=subject.device)
    say(f"{subject.label}: record operators")
    clip, recorded = _record(subject, options)
    shown = (clip,) if options.is_once else tuple(clips)
    run = _timed_run(subject, shown, options)
    factors = subject.factors(clip)
    places = _places(clip, recorded, factors)
    return Taken(
        run=replace(run, notes=(*run.notes, ONCE)) if options.is_once else run,
        clips=shown,
        device=subject.device,
        recorded=recorded,
        calls=calls_of(recorded.capture, places),
        seen=tally(clip.times, factors),
        places=places,
    )


def finish(taken: Taken, options: Options, ceilings: Ceilings) -> Session:
    """The report of what was taken, held against what the device can do."""
    if taken.recorded is None:
        return Session(run=taken.run, clips=taken.clips, recorded=None)
    is_async = taken.device.type == "cuda"
    args = (taken.calls, taken.places, taken.seen, taken.recorded, ceilings, options)
    run = with_capture(taken.run, *args, is_async=is_async)
    return Session(run=run, clips=taken.clips, recorded=taken.recorded)


def _timed_run(subject: Subject, clips: Sequence[Clip], options: Options) -> Run:
    table = stage_table([tally(clip.times, subject.factors(clip)) for clip in clips])
    chosen = clips[table.chosen]
    peaks = {stage: max(clip.peaks.get(stage, 0) for clip in clips) for stage in STAGES}
    return Run(
        label=subject.label,
        model=subject.model,
        request=asdict(chosen.request),
        is_short=chosen.is_short,
        total_s=table.total_s,
        totals=table.totals,
        rows=table.rows,
        peaks=tuple(Peak(stage=stage, num_bytes=peak) for stage, peak in peaks.items()),
        bars=bars(chosen.times),
    )


def _record(subject: Subject, options: Options) -> tuple[Clip, Recorded]:
    clips: list[Clip] = []
    with subject.spans():
        recorded = record(
            lambda notes: clips.append(subject.clip(is_short=True, beside=(notes,))),
            is_cuda=subject.device.type == "cuda",
            stacks=options.stacks,
        )
    return clips[0], recorded


def _places(clip: Clip, recorded: Recorded, factors: Factors) -> dict[int, tuple[RowKey, float]]:
    """Row and factor of every annotated span."""
    by_span = {id(time.span): key for key, time in keyed(clip.times)}
    return {
        number: (by_span[id(span)], factors.of(span))
        for number, span in recorded.spans.items()
        if id(span) in by_span
    }


def with_capture(
    run: Run,
    calls: list[Call],
    places: Mapping[int, tuple[RowKey, float]],
    seen: Mapping[RowKey, Tally],
    recorded: Recorded,
    ceilings: Ceilings,
    options: Options,
    *,
    is_async: bool,
) -> Run:
    """A timed run with what a capture of some of its units tells.

    Args:
        places: row and factor of every annotated span.
        seen: rows of the capture's own clip.
    """
    sums = {key: _sum(calls, key, ceilings) for key in seen}
    rows = tuple(_row_with_device(row, seen, sums, is_async=is_async) for row in run.rows)
    scale = scales(rows, {key: total.busy_s for key, total in sums.items()})
    table = operator_table(calls, scale, rows, ceilings.ideal_s, is_async=is_async)
    raw = raw_table(calls, scale, is_async=is_async)
    evidence = Evidence(
        rows=rows,
        calls=calls,
        scale=scale,
        ceilings=ceilings,
        capture=recorded.capture,
        samples=recorded.samples,
        places=places,
        is_async=is_async,
    )
    return replace(
        run,
        rows=rows,
        ceilings=ceilings.to_report(),
        operators=table,
        raw=top(raw, options.sort, options.top),
        findings=find(evidence),
        flame=flame_graph(calls, scale),
        ideal_s=sum(row.ideal_s or 0.0 for row in rows),
        explained=explained(calls, scale, recorded.capture),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sum:
    """Of a row's calls in the whole clip."""

    busy_s: float
    ideal_s: float
    flops: float


def _sum(calls: Sequence[Call], key: RowKey, ceilings: Ceilings) -> _Sum:
    own = [call for call in calls if call.key == key]
    return _Sum(
        busy_s=sum(call.device_s for call in own),
        ideal_s=sum(call.factor * ceilings.ideal_s(call) for call in own),
        flops=sum(call.factor * call.work.flops for call in own),
    )


def _row_with_device(
    row: Row, seen: Mapping[RowKey, Tally], sums: Mapping[RowKey, _Sum], *, is_async: bool
) -> Row:
    key = RowKey(stage=row.stage, part=row.part)
    if key not in seen:
        return row
    total = sums[key]
    captured = Captured(busy_s=total.busy_s, wall_s=seen[key].seconds, units=seen[key].measured)
    return with_device(row, captured, total.ideal_s, total.flops, is_async=is_async)
