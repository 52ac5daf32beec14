"""A job as OpenAI's video object, and lists of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from rushes.errors import UnknownName, snake
from rushes.pipelines.notes import notes_on
from rushes.server.reuse import cache_of, reuse_of
from rushes.stores.base import JobRecord
from rushes.types import GenerateRequest, JobEvent, JobStatus, SamplingParams, fields_of

STATUS: Mapping[JobStatus, str] = {
    "queued": "queued",
    "running": "in_progress",
    "completed": "completed",
    "failed": "failed",
    "cancelled": "failed",
}
"""OpenAI's words."""

SHARES = {"text_encode": (0, 2), "denoise": (2, 75), "vae_decode": (77, 22)}
"""Of a clip's progress, in percent: where a stage begins and how much it is."""


_ANY_SAMPLING = SamplingParams(
    num_inference_steps=1, solver="", flow_shift=1.0, guidance_high=1.0, guidance_low=1.0, seed=0
)
"""Notes do not depend on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is known of a job beside its record.

    Attributes:
        ahead: queued jobs before it.
        progress: its latest `progress` event.
        expires_at: when its files go, seconds since the epoch.
        changes: field, asked for, given, of a degraded one.
    """

    ahead: int = 0
    progress: JobEvent | None = None
    expires_at: float | None = None
    changes: Sequence[tuple[str, Any, Any]] = ()


def video_of(record: JobRecord, standing: Standing, *, now: float | None = None) -> dict[str, Any]:
    """The object that every call answers with; docs/service.md has its fields."""
    now = time.time() if now is None else now
    request, options = record.request, record.options
    video, sampling = fields_of(request.video), fields_of(request.sampling)
    return {
        "id": record.id,
        "object": "video",
        "model": request.pipeline,
        "status": STATUS[record.status],
        "progress": percent_of(record, standing.progress),
        "created_at": int(record.created_at),
        "completed_at": _whole(record.finished_at) if record.status == "completed" else None,
        "expires_at": _whole(standing.expires_at),
        "error": error_of(record),
        "prompt": request.prompt,
        "seconds": f"{request.video.num_frames / request.video.fps:g}",
        "size": f"{request.video.width}x{request.video.height}",
        "remixed_from_video_id": reuse_of(record).get("remixed_from"),
        "negative_prompt": request.negative_prompt,
        "mode": request.mode,
        **video,
        **{name: value for name, value in sampling.items() if name != "timesteps"},
        "priority": options.lane,
        "deadline_s": options.deadline_s,
        "eta_s": left_s(record, now, standing.progress),
        "position": standing.ahead if record.status == "queued" else None,
        "predicted_s": record.predicted_s,
        "actual_s": record.actual_s,
        "changes": [
            {"field": name, "asked": asked, "given": given} for name, asked, given in standing.changes
        ],
        "notes": list(notes_of(request)),
        "cache": cache_of(record),
        "urls": urls_of(record),
    }


def notes_of(request: GenerateRequest) -> tuple[str, ...]:
    """What will probably not come out as asked, in sentences: words that the toy does not know, a size far
    from what the model was trained with."""
    return _notes(replace(request, sampling=_ANY_SAMPLING, source=None))


@lru_cache(maxsize=2048)
def _notes(request: GenerateRequest) -> tuple[str, ...]:
    """To look for them takes a quarter of a millisecond, and a job is told a dozen times."""
    try:
        return tuple(note.message for note in notes_on(request))
    except UnknownName:  # a pipeline of another installation's
        return ()


def left_s(record: JobRecord, now: float | None = None, progress: JobEvent | None = None) -> float | None:
    """Seconds until an open job is ready: as was promised, but no fewer than its stage still takes at its
    pace so far; None where neither is known."""
    if record.status not in ("queued", "running"):
        return None
    now = time.time() if now is None else now
    promised = None if record.eta_s is None else record.created_at + record.eta_s
    known = [at for at in (promised, _stage_ends_at(record, progress)) if at is not None]
    return round(max(0.0, max(known) - now), 2) if known else None


def _stage_ends_at(record: JobRecord, progress: JobEvent | None) -> float | None:
    """By the seconds of the stage's units so far; None where none is timed."""
    if progress is None or record.status != "running":
        return None
    data = progress.data
    units, total, seconds = data.get("units"), data.get("total"), data.get("seconds")
    if not isinstance(units, int) or not isinstance(total, int) or not isinstance(seconds, int | float):
        return None
    return progress.at + seconds * (total - units) / units if 0 < units <= total else None


def urls_of(record: JobRecord) -> dict[str, str]:
    """Where what belongs to a job is, relative to the server."""
    base = f"/v1/videos/{record.id}"
    urls = {"self": base, "events": f"{base}/events", "stream": f"{base}/stream"}
    if record.status == "completed":
        for variant in ("video", "thumbnail", "spritesheet", "preview"):
            urls["content" if variant == "video" else variant] = f"{base}/content?variant={variant}"
    return urls


def error_of(record: JobRecord) -> dict[str, str] | None:
    """OpenAI's error of a job that ended without a video."""
    if record.status == "cancelled":
        return {"code": "cancelled", "message": "the job was cancelled"}
    if record.status == "failed":
        return {"code": snake(record.error_kind or "EngineError"), "message": record.error or "unknown"}
    return None


def percent_of(record: JobRecord, progress: JobEvent | None) -> int:
    """0 to 100, of the whole job; 100 only when it is completed."""
    if record.status == "completed":
        return 100
    return 0 if progress is None else min(99, int(100 * _part_of(progress) + 1e-6))


def _part_of(progress: JobEvent) -> float:
    """Of the whole clip, what is done after this unit."""
    begin, share = SHARES.get(str(progress.data["stage"]), (99, 0))
    done, total = progress.data["units"], progress.data["total"]
    part = done / total if isinstance(done, int) and isinstance(total, int) and total else 0.0
    return (begin + share * part) / 100


def page_of(data: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """OpenAI's list."""
    ids = [each["id"] for each in data]
    return {
        "object": "list",
        "data": list(data),
        "first_id": ids[0] if ids else None,
        "last_id": ids[-1] if ids else None,
        "has_more": has_more,
    }


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
