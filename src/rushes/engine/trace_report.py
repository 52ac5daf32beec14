"""What a job's trace says: where its seconds went, phase by phase, and whom to thank. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, Protocol

from rushes.engine.job_traces import Blobs, TraceSpan, lives_of, spans_of
from rushes.stores.base import JobRecord, JobStore
from rushes.types import JobEvent, JobStatus

Cause = Literal["queue", "cache", "model", "output", "death"]
CAUSES: tuple[Cause, ...] = ("model", "queue", "cache", "output", "death")

CAUSE_OF: Mapping[str, Cause] = {
    "queue": "queue",
    "unleased": "queue",
    "load": "cache",
    "prompt_embedding": "cache",
    "text_encode": "model",
    "denoise": "model",
    "vae_decode": "model",
    "preview": "output",
    "video_encode": "output",
    "checkpoint": "output",
    "store_write": "output",
    "death": "death",
}
"""To whom the seconds of a phase are charged. A cache answers for what it lacked: a text that had to be
encoded, weights that had to be loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Everything of one kind that was done for a job.

    Attributes:
        start_s, end_s: from its first moment to its last, since the job was submitted.
        seconds: spent in it; phases that ran side by side add up to more than the job took.
        count: spans.
        detail: what is worth knowing, in words.
    """

    name: str
    start_s: float
    end_s: float
    seconds: float
    count: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Where most of the time went.

    Attributes:
        cause: the largest of `seconds`; None where nothing is known.
        seconds: by cause.
        text: in one line.
    """

    cause: Cause | None
    seconds: Mapping[str, float]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTrace:
    """A job from its submission on, in seconds since then.

    Attributes:
        total_s: until its end, or until the last that is known of it.
        first_frame_s: until a frame could be read; None before.
        lives: for each time that a worker took it: `owner`, `start_s`, `seconds`, `is_over`, `error`.
        num_dropped: spans that were too many to be kept.
    """

    job_id: str
    status: JobStatus
    created_at: float
    total_s: float
    first_frame_s: float | None
    predicted_s: float | None
    actual_s: float | None
    deaths: int
    error: str | None
    verdict: Verdict
    phases: tuple[Phase, ...]
    lives: tuple[Mapping[str, Any], ...]
    spans: tuple[TraceSpan, ...]
    num_dropped: int

    def to_json(self) -> dict[str, Any]:
        """For `json.dumps`."""
        return asdict(self)

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> JobTrace:
        """What `to_json` gave. Raises `TypeError` and `KeyError` for what another version gave."""
        parts = {
            "verdict": Verdict(**data["verdict"]),
            "phases": tuple(Phase(**phase) for phase in data["phases"]),
            "lives": tuple(data["lives"]),
            "spans": tuple(TraceSpan(**span) for span in data["spans"]),
        }
        return cls(**{**data, **parts})


class TracePlace(Protocol):
    """A `rushes.engine.workplace.Workplace`."""

    @property
    def jobs(self) -> JobStore:
        """Records and events."""

    @property
    def traces(self) -> Blobs:
        """Files of traces."""


def read_trace(place: TracePlace, job_id: str) -> JobTrace:
    """Everything known of a job's time; of one that runs, up to its last saving, which may be nothing yet.

    Raises `UnknownJob`, `StoreError`.
    """
    record, events = place.jobs.get(job_id), place.jobs.events(job_id)
    lives = lives_of(place.traces, job_id)
    spans = spans_of(lives, record.created_at)
    told = tuple(_life(life, record) for life in lives)
    total_s = _total_s(record, events)
    phases = phases_of(spans, told)
    return JobTrace(
        job_id=job_id,
        status=record.status,
        created_at=record.created_at,
        total_s=total_s,
        first_frame_s=_first_frame_s(record, events),
        predicted_s=record.predicted_s,
        actual_s=record.actual_s,
        deaths=record.deaths,
        error=record.error,
        verdict=verdict_of(phases, total_s),
        phases=phases,
        lives=told,
        spans=spans,
        num_dropped=sum(life["num_dropped"] for life in lives),
    )


def _life(content: Mapping[str, Any], record: JobRecord) -> Mapping[str, Any]:
    start_s = round(content["started_at"] - record.created_at, 6)
    return {
        "start_s": start_s,
        **{name: content[name] for name in ("owner", "seconds", "is_over", "error", "is_resumed")},
    }


def _total_s(record: JobRecord, events: Sequence[JobEvent]) -> float:
    end = record.finished_at or (events[-1].at if events else record.created_at)
    return round(max(0.0, end - record.created_at), 6)


def _first_frame_s(record: JobRecord, events: Sequence[JobEvent]) -> float | None:
    """Of the clip as it is now: one that was made smaller began anew."""
    first: float | None = None
    for event in events:
        if event.kind == "degraded":
            first = None
        elif event.kind == "frames" and first is None:
            first = round(event.at - record.created_at, 6)
    return first


def phases_of(spans: Sequence[TraceSpan], lives: Sequence[Mapping[str, Any]]) -> tuple[Phase, ...]:
    """The phases of a job, in the order in which they began."""
    named: dict[str, list[TraceSpan]] = {}
    for span in spans:
        if span.name == "encode_text":
            named.setdefault("prompt_embedding", []).append(span)
        elif span.parent is None and not span.is_event and span.name in CAUSE_OF:
            named.setdefault(span.name, []).append(span)
    phases = [_phase(name, found, spans) for name, found in named.items()]
    lookups = [span for span in spans if span.name == "embedding_cache"]
    if lookups and "prompt_embedding" not in named:  # all of them hits
        phases.append(_phase("prompt_embedding", lookups, spans))
    phases += _gaps(lives)
    return tuple(sorted(phases, key=lambda phase: (phase.start_s, phase.end_s)))


def _phase(name: str, found: Sequence[TraceSpan], spans: Sequence[TraceSpan]) -> Phase:
    seconds = sum(span.seconds for span in found)
    if name == "text_encode":  # what its cache lacked stands by itself
        seconds -= sum(span.seconds for span in spans if span.name == "encode_text")
    return Phase(
        name=name,
        start_s=min(span.start_s for span in found),
        end_s=max(span.start_s + span.seconds for span in found),
        seconds=round(max(0.0, seconds), 6),
        count=len(found),
        detail=_detail(name, found, spans),
    )


def _gaps(lives: Sequence[Mapping[str, Any]]) -> list[Phase]:
    """Between two lives: a worker that gave the job back leaves it in the queue, one that died leaves it
    until its lease runs out, with the steps since the last checkpoint lost."""
    gaps = []
    for before, after in pairwise(lives):
        start_s, end_s = before["start_s"] + before["seconds"], after["start_s"]
        if end_s > start_s:
            gaps.append(
                Phase(
                    name="unleased" if before["is_over"] else "death",
                    start_s=round(start_s, 6),
                    end_s=end_s,
                    seconds=round(end_s - start_s, 6),
                    count=1,
                    detail=f"from {before['owner']} to {after['owner']}",
                )
            )
    return gaps


def _detail(name: str, found: Sequence[TraceSpan], spans: Sequence[TraceSpan]) -> str:
    if name == "prompt_embedding":
        return _cache_detail(spans)
    if name == "denoise":
        return _denoise_detail(found, spans)
    if name == "vae_decode":
        return f"{_num(found, 'latent frame')}{_batch(found)}"
    if name == "video_encode":
        return f"{sum(int(span.attributes.get('frames') or 0) for span in found)} frames"
    if name == "queue":
        first = min(found, key=lambda span: span.start_s)
        return f"{seconds_text(first.seconds)} before the first unit, {_num(found, 'wait')}"
    if name == "load":
        slow = sorted(found, key=lambda span: -span.seconds)[:2]
        return ", ".join(f"for {span.stage} {seconds_text(span.seconds)}" for span in slow)
    return _num(found, {"checkpoint": "checkpoint", "store_write": "write"}.get(name, "unit"))


def _cache_detail(spans: Sequence[TraceSpan]) -> str:
    """A unit of one job looks its negative prompt up first, where it has one, and its prompt last."""
    lookups = [span.attributes for span in spans if span.name == "embedding_cache"]
    if not lookups:
        return "no look-up kept"
    if len(lookups) > 2:
        hits = sum(each.get("outcome") == "hit" for each in lookups)
        return f"{hits} of {len(lookups)} look-ups hit, of prompts encoded together or again"
    words = [f"{each.get('outcome')} ({each.get('why')})" for each in lookups]
    return words[-1] if len(words) == 1 else f"{words[-1]}, negative prompt {words[0]}"


def _denoise_detail(found: Sequence[TraceSpan], spans: Sequence[TraceSpan]) -> str:
    experts = sorted({str(span.attributes["expert"]) for span in found if "expert" in span.attributes})
    reused = sum(span.name == "step_cache" and span.attributes.get("outcome") == "reused" for span in spans)
    swaps = sum(span.seconds for span in spans if span.name == "expert_weights")
    words = [_num(found, "step") + _batch(found)]
    if reused:
        words.append(f"{reused} reused by the step cache")
    if len(experts) > 1:
        words.append(f"experts {' and '.join(experts)}")
    if swaps > 0.001:
        words.append(f"{seconds_text(swaps)} for swapping experts")
    return ", ".join(words)


def _batch(found: Sequence[TraceSpan]) -> str:
    most = max(int(span.attributes.get("batch") or 1) for span in found)
    return f", up to {most} jobs at once" if most > 1 else ""


def _num(found: Sequence[TraceSpan], noun: str) -> str:
    return f"{len(found)} {noun}{'' if len(found) == 1 else 's'}"


def verdict_of(phases: Sequence[Phase], total_s: float) -> Verdict:
    """The largest of the causes."""
    seconds: dict[str, float] = dict.fromkeys(CAUSES, 0.0)
    for phase in phases:
        seconds[CAUSE_OF[phase.name]] += phase.seconds
    seconds = {cause: round(value, 6) for cause, value in seconds.items()}
    cause = max(CAUSES, key=lambda each: seconds[each])
    if seconds[cause] <= 0:
        return Verdict(cause=None, seconds=seconds, text="No spans of this job have been kept.")
    others = ", ".join(
        f"{each} {seconds_text(seconds[each])}" for each in CAUSES if each != cause and seconds[each] > 0
    )
    name = {"output": "writing what was made", "death": "a worker's death"}.get(cause, f"the {cause}")
    share = f" of {seconds_text(total_s)}" if total_s else ""
    text = f"It was {name}: {seconds_text(seconds[cause])}{share}{f' ({others})' if others else ''}."
    return Verdict(cause=cause, seconds=seconds, text=text)


def seconds_text(seconds: float) -> str:
    """For a reader.

    >>> [seconds_text(each) for each in (0.0004, 0.029, 8.13, 75.0)]
    ['0.4 ms', '29 ms', '8.1 s', '75 s']
    """
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.1f} ms"
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds:.0f} s"
