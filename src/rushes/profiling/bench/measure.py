"""One clip of one contender, timed from the request to the last byte."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from time import perf_counter

import torch

from rushes.errors import OutOfMemory
from rushes.profiling.bench.base import Contender
from rushes.profiling.bench.client import Client
from rushes.profiling.bench.seconds import ClipSeconds
from rushes.sampling.guidance import is_high_noise
from rushes.sampling.solvers import schedule_for
from rushes.stages.video_encode import VideoWriter
from rushes.types import Done, Event, Frames, GenerateRequest, Timing

ENCODE = "video_encode"


def measure(
    contender: Contender,
    request: GenerateRequest,
    *,
    preview_every: int = 0,
    clock: Callable[[], float] = perf_counter,
    client: Client | None = None,
) -> ClipSeconds:
    """Make a clip, encode it and receive it.

    Args:
        client: a fresh one, of the same clock.

    Raises:
        EngineError: no memory, or the file that came is not the clip that was asked for.
    """
    taken = _Taken(client or Client(clock), clock)
    begin = clock()
    try:
        with VideoWriter(taken.client, format="mp4", **asdict(request.video)) as writer:
            taken.written_s += clock() - begin  # the header
            for event in contender.events(request, preview_every=preview_every):
                taken.take(event, writer)
            closing_at = clock()
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"{contender.name}: {error}") from error
    taken.written_s += clock() - closing_at
    taken.client.check(request.video.num_frames)
    return taken.seconds(begin)


class _Taken:
    """What a clip's events told so far, and the client that its file goes to."""

    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self.client = client
        self.written_s = 0.0
        self._clock = clock
        self._preview_at: float | None = None
        self._timings: tuple[Timing, ...] = ()

    def take(self, event: Event, writer: VideoWriter) -> None:
        """The next event."""
        now = self._clock()
        if isinstance(event, Frames):
            writer.write(event.frames)
            self.written_s += self._clock() - now
        elif isinstance(event, Done):
            self._timings = event.timings
        elif self._preview_at is None:
            self._preview_at = now

    def seconds(self, begin: float) -> ClipSeconds:
        """Of the whole clip, which began then."""
        first_frame_at, last_byte_at = self.client.first_frame_at, self.client.last_byte_at
        assert first_frame_at is not None, "the file was decoded whole"
        assert last_byte_at is not None, "the file was decoded whole"
        stages_s = {timing.stage: timing.seconds for timing in self._timings}
        return ClipSeconds(
            first_preview_s=None if self._preview_at is None else self._preview_at - begin,
            first_frame_s=first_frame_at - begin,
            end_to_end_s=last_byte_at - begin,
            stages_s={**stages_s, ENCODE: self.written_s - self.client.decode_s},
            num_bytes=self.client.num_bytes,
        )


def shortest(request: GenerateRequest, boundary: float | None) -> GenerateRequest:
    """The same size with the fewest steps that run every network; as it is where the steps are fixed.

    Args:
        boundary: noise level of 0..1 at and above which the high-noise expert runs; None for one expert.
    """
    sampling = request.sampling
    if sampling.timesteps is not None:
        return request
    for num_steps in range(1, sampling.num_inference_steps):
        fewer = replace(sampling, num_inference_steps=num_steps)
        experts = {is_high_noise(timestep, boundary) for timestep in schedule_for(fewer).timesteps}
        if boundary is None or len(experts) == 2:
            return replace(request, sampling=fewer)
    return request
