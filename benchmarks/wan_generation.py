"""One whole A14B clip through the library, with every part resident and random: stage times and memory."""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from benchmarks.gpu_report import Report, peak_gb, synchronize
from benchmarks.random_wan import RandomParts, Shapes
from numpy.typing import NDArray

from rushes.pipelines.model import Model
from rushes.pipelines.rules import load_rules
from rushes.types import Frames

Write = Callable[[NDArray[np.uint8]], None]
PROMPT = "a dog is running in the park"


class StageClock:
    """Seconds of every unit and peak memory of every stage. Waits for the device at each lap."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.peak_gb: dict[str, float] = {}
        self._device = device
        peak_gb(device)
        self.begin = self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """What happened since the last lap was one unit of `stage`."""
        synchronize(self._device)
        now = time.perf_counter()
        self.seconds.setdefault(stage, []).append(now - self._last)
        self.peak_gb[stage] = max(self.peak_gb.get(stage, 0.0), peak_gb(self._device))
        self._last = now

    @property
    def total_s(self) -> float:
        """Up to the last lap."""
        return self._last - self.begin


def generate_clip(report: Report, shapes: Shapes, device: torch.device) -> None:
    """One clip in 4 steps from prompt to mp4, after one that warms up (a step of each expert, no file)."""
    rules = load_rules("wan2.2-t2v-a14b")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        parts = RandomParts(shapes, device, torch.bfloat16, rules.boundary, folder / "tokenizer")
        report.add("weights at rest", peak_gb(device), "GB")
        model = Model(rules, parts, boundary=rules.boundary, device=device)
        video = shapes.video
        size = {"width": video.width, "height": video.height, "num_frames": video.num_frames, "seed": 7}
        report.add("clip", [video.num_frames, video.height, video.width])
        warm = {"num_inference_steps": 2, "solver": "euler", "flow_shift": 5.0}
        begin = time.perf_counter()
        for _ in model.stream(PROMPT, preview_every=0, guidance_high=1.0, guidance_low=1.0, **warm, **size):
            pass
        report.add("warm-up, 2 steps", time.perf_counter() - begin, "s")
        timed_clip(report, model, shapes, size, folder / "clip.mp4", device)


def timed_clip(
    report: Report, model: Model, shapes: Shapes, size: dict[str, int], file: Path, device: torch.device
) -> None:
    """The clip whose figures count."""
    num_frames, spreads, first_s = 0, [], None
    with video_file(report, file, shapes) as write:
        clock = StageClock(device)
        events = model.stream(
            PROMPT,
            preset="distilled-4",
            preview_every=0,
            on_progress=lambda progress: clock.lap(progress.stage),
            **size,
        )
        for event in events:
            if isinstance(event, Frames):
                first_s = first_s or clock.total_s
                num_frames += len(event.frames)
                spreads.append(float(event.frames[:, ::16, ::16].std()))
                if write is not None:
                    write(event.frames)
                    clock.lap("video_encode")
    if write is not None:
        clock.lap("video_encode")  # what closing the file takes
    report.add("prompt to first frame", first_s, "s")
    report.add("prompt to complete clip", clock.total_s, "s")
    report.add("frames", num_frames)
    report.add("frames' standard deviation, smallest", min(spreads))
    add_stages(report, clock)
    if file.exists():
        report.add("mp4", file.stat().st_size / 1e6, "MB")
        report.attempt("mp4 frames decoded", lambda: report.add("mp4 frames decoded", decoded_frames(file)))


def add_stages(report: Report, clock: StageClock) -> None:
    """Sum, first unit and median of the others, peak memory of every stage."""
    for stage, seconds in clock.seconds.items():
        report.add(f"{stage}, {len(seconds)} units", sum(seconds), "s")
        report.add(f"{stage}, first unit", seconds[0], "s")
        if len(seconds) > 1:
            report.add(f"{stage}, other units, median", statistics.median(seconds[1:]), "s")
        report.add(f"{stage}, peak memory", clock.peak_gb[stage], "GB")
    report.add("denoise, each step", [round(s, 4) for s in clock.seconds["denoise"]], "s")


@contextmanager
def video_file(report: Report, file: Path, shapes: Shapes) -> Iterator[Write | None]:
    """What writes frames to an mp4; None on a machine without PyAV."""
    if importlib.util.find_spec("av") is None:
        report.add("mp4", "missing: PyAV is not installed here, so no file was written")
        yield None
        return
    from rushes.stages.video_encode import VideoWriter

    video = shapes.video
    size = {"width": video.width, "height": video.height, "fps": video.fps}
    with VideoWriter(file, **size, num_frames=video.num_frames) as writer:
        yield writer.write


def decoded_frames(file: Path) -> int:
    """How many frames a player gets out of the file."""
    import av

    with av.open(str(file)) as container:
        return sum(1 for _ in container.decode(video=0))
