"""`rushes worker` whose stages sleep instead of computing: for figures of the service, not of a model.

    python -m benchmarks.sleeping_worker --step-s 0.2 --store DIR --max-batch 1

All but the networks' work is the production worker: store, leases, checkpoints, announcements, frames and a
real mp4 through the real outlet. Flags that are not listed below are those of `rushes worker`. Frames depend
on the seed and their number only, so a job that was taken up again gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import rushes
from rushes.cli.app import run as run_command
from rushes.models.text import PromptEmbeds
from rushes.pipelines.model import Model
from rushes.pipelines.wan import WanPipeline
from rushes.stages.base import BatchKey, DenoiseState, Job, Stage
from rushes.stages.denoise import start
from rushes.stages.source import Snapshot
from rushes.stages.text_encode import Conditioning, EncodedText
from rushes.types import ForwardCounts, Frames


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds of one unit of each stage, and where to tell of decoded frames.

    Attributes:
        decoded: JSON lines `{"seed", "start", "at"}`, `at` in seconds since the epoch; None for none.
    """

    text_s: float = 0.002
    step_s: float = 0.05
    decode_s: float = 0.02
    decoded: Path | None = None


class SleepingStage:
    """Stands for a stage: the same units and keys, another way to pass the time."""

    def __init__(self, stage: Stage, seconds: float, advance: Callable[[Job], None]) -> None:
        self.name, self.runs_ahead = stage.name, False
        self.key: Callable[[Job], BatchKey] = stage.key
        self.done: Callable[[Job], bool] = stage.done
        self.units: Callable[[Job], int] = stage.units
        self._seconds, self._advance = seconds, advance

    def prepare(self, job: Job) -> None:
        """See `Stage`: there is nothing to load."""

    def run(self, jobs: Sequence[Job]) -> None:
        """See `Stage`; a batch sleeps once."""
        time.sleep(self._seconds)
        for job in jobs:
            self._advance(job)


class SleepingPipeline(WanPipeline):
    """A pipeline that computes nothing but pictures of stripes."""

    def __init__(self, model: Model, pace: Pace) -> None:
        super().__init__(model.rules.name, model.parts, boundary=model.boundary, device=model.device)
        self._pace = pace
        self._width = model.parts.transformer_config.text_dim
        ways = {
            "text_encode": (pace.text_s, self._encode),
            "denoise": (pace.step_s, self._step),
            "vae_decode": (pace.decode_s, self._decode),
        }
        self._asleep = tuple(SleepingStage(stage, *ways[stage.name]) for stage in self._whole)

    def stages(self, job: Job) -> tuple[Stage, ...]:
        """See `WanPipeline.stages`."""
        return self._asleep

    def _encode(self, job: Job) -> None:
        text = EncodedText(PromptEmbeds(states=torch.zeros(1, 1, self._width)))
        job.text = Conditioning(prompt=text, negative=text)

    def _step(self, job: Job) -> None:
        state = job.denoise if isinstance(job.denoise, DenoiseState) else start(job, self._device)
        if state.step in job.snapshot_steps:
            sigma, x = state.sigmas[state.step], state.latents
            job.snapshots.append(Snapshot(step=state.step, sigma=sigma, latents=x, clean=x))
        state = replace(state, step=state.step + 1)
        job.forwards = ForwardCounts(conditional=job.forwards.conditional + 1)
        if state.is_finished:
            job.latents.extend(state.latents.chunk(job.num_latent_frames, dim=2))
            job.denoise = job.text = None
            return
        job.denoise = state
        job.predicted = state.latents if job.wants_preview else None

    def _decode(self, job: Job) -> None:
        frames = stripes(job)
        job.frames.append(Frames(start=job.num_frames, frames=frames))
        if self._pace.decoded is not None:
            told = {"seed": job.request.sampling.seed, "start": job.num_frames, "at": time.time()}
            with self._pace.decoded.open("a") as file:
                file.write(json.dumps(told) + "\n")
        job.num_frames += len(frames)
        job.num_decoded += 1


def stripes(job: Job) -> np.ndarray:
    """The frames of a job's next latent frame, uint8 [n, height, width, 3]: 1, then as many as a stride."""
    video = job.request.video
    stride = (video.num_frames - 1) // max(1, job.num_latent_frames - 1) if job.num_latent_frames > 1 else 1
    num = stride if job.num_decoded else 1
    row = np.arange(video.width, dtype=np.int64)[None, :, None] * 3
    column = np.arange(video.height, dtype=np.int64)[:, None, None]
    colour = np.array([1, 2, 5], dtype=np.int64)[None, None, :] * (1 + job.request.sampling.seed % 17)
    return np.stack(
        [((row + column + 7 * (job.num_frames + n)) * colour % 256).astype(np.uint8) for n in range(num)]
    )


def parse(arguments: Sequence[str]) -> tuple[Pace, list[str]]:
    """The pace, and the flags for `rushes worker`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("text", "step", "decode"):
        parser.add_argument(f"--{name}-s", type=float, default=getattr(Pace(), f"{name}_s"))
    parser.add_argument("--decoded", type=Path, help="append a line for every decoded latent frame")
    known, rest = parser.parse_known_args(arguments)
    return Pace(**vars(known)), rest


def main() -> int:
    pace, rest = parse(sys.argv[1:])
    load = rushes.load
    torch.set_num_threads(1)

    def asleep(*args, **fields) -> Model:
        model = load(*args, **fields)
        model.pipeline = SleepingPipeline(model, pace)
        return model

    rushes.load = asleep  # what `rushes worker` calls
    return run_command(["worker", *rest])


if __name__ == "__main__":
    raise SystemExit(main())
