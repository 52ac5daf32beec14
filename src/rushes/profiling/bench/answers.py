"""What becomes of the requests of a load: where their frames go, and what their events tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import perf_counter

from rushes.errors import EngineError
from rushes.profiling.bench.client import Client
from rushes.stages.video_encode import VideoWriter
from rushes.types import FINAL, Frames, GenerateRequest, JobEvent, JobOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request of a load; `due_s` counts from the load's begin."""

    due_s: float
    request: GenerateRequest
    options: JobOptions = field(default_factory=JobOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of a call; seconds count from the moment it was due.

    Attributes:
        status: completed, failed, cancelled, or refused where it was not admitted.
        submitted_s: when it was handed over; above 0 where the machine was too busy to do so in time.
        queued_s, first_preview_s, first_frame_s, end_to_end_s: see `DEFINITIONS`; None where it never came.
        device_s: of the device, that the job used.
        degraded: the engine made less than was asked for.
    """

    status: str
    submitted_s: float
    queued_s: float | None = None
    first_preview_s: float | None = None
    first_frame_s: float | None = None
    end_to_end_s: float | None = None
    device_s: float | None = None
    degraded: bool = False
    error: str | None = None


class ClientOutlet:
    """Where the engine brings the frames of a job: encoded, sent and received in this process."""

    def __init__(self, request: GenerateRequest, clock: Callable[[], float] = perf_counter) -> None:
        self.client = Client(clock)
        self._stack = ExitStack()
        self._video = request.video
        self._writer: VideoWriter | None = None

    def write(self, frames: Frames) -> None:
        """See `Outlet`. The clip's size is that of the frames: the engine may have degraded it."""
        if self._writer is None:
            _, height, width, _ = frames.frames.shape
            size = {"width": width, "height": height, "fps": self._video.fps}
            self._writer = self._stack.enter_context(VideoWriter(self.client, format="mp4", **size))
        self._writer.write(frames.frames)

    def finish(self) -> str:
        """See `Outlet`."""
        self._stack.close()
        return ""

    def committed(self) -> None:
        """See `Outlet`."""

    def abort(self) -> None:
        """See `Outlet`."""
        self._stack.pop_all()


@dataclass(frozen=True, slots=True, kw_only=True)
class Handed:
    """A call that was submitted, or refused.

    Attributes:
        due_at, submitted_at: by the clock of the load.
        job_id: None where it was refused.
        refusal: why.
    """

    call: Call
    due_at: float
    submitted_at: float
    client: Client
    job_id: str | None = None
    refusal: str | None = None

    def answer(self, events: Sequence[JobEvent]) -> Answer:
        """What became of it.

        Args:
            events: of the job, all of them, dated by the load's clock; none where it was refused.

        Raises:
            EngineError: the events do not end, or the clip that came is not the one asked for.
        """
        submitted_s = self.submitted_at - self.due_at
        if self.job_id is None:
            return Answer(status="refused", submitted_s=submitted_s, error=self.refusal)
        end = events[-1]
        if end.kind not in FINAL:
            raise EngineError(f"job {self.job_id}: its events end with {end.kind!r}")
        is_completed, is_degraded = end.kind == "completed", any(each.kind == "degraded" for each in events)
        if is_completed and not is_degraded:
            self.client.check(self.call.request.video.num_frames)
        device_s, error = end.data.get("actual_s"), end.data.get("error")
        return Answer(
            status=end.kind,
            submitted_s=submitted_s,
            queued_s=self._since_due(_work_began(events)),
            first_preview_s=self._since_due(_first(events, "preview")),
            first_frame_s=self._since_due(self.client.first_frame_at),
            end_to_end_s=self._since_due(self.client.last_byte_at) if is_completed else None,
            device_s=device_s if isinstance(device_s, float) else None,
            degraded=is_degraded,
            error=None if error is None else str(error),
        )

    def _since_due(self, at: float | None) -> float | None:
        return None if at is None else at - self.due_at


def _first(events: Sequence[JobEvent], kind: str) -> float | None:
    """When the first event of this kind was written."""
    return next((event.at for event in events if event.kind == kind), None)


def _work_began(events: Sequence[JobEvent]) -> float | None:
    """When the first unit of work began: its progress is told at its end, with its seconds."""
    first = next((event for event in events if event.kind == "progress"), None)
    if first is None:
        return None
    seconds = first.data["seconds"]
    assert isinstance(seconds, float), "progress tells its seconds"
    return first.at - seconds
