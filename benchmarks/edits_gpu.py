"""What an edit takes beside a fresh clip on one GPU, in this process: prompt to the first frame at the client
and to the last byte of the mp4.

    python -m benchmarks.edits_gpu --commit $(git rev-parse --short HEAD)

A14B at its true shape with random weights, on the speed table's exact rung: an edit goes on at the last step
of the high-noise expert, as edits do at most. The toy as it is shipped. Every run follows one that warms up;
medians of the counted ones. `--tiny` runs a tiny A14B on the CPU, which proves nothing but the code.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu_report import Report, about_machine
from benchmarks.speed_fleet import A14B, TINY_A14B, Fleet
from benchmarks.speed_rows import PROMPT, free_cached

import rushes
from rushes.pipelines.base import run
from rushes.pipelines.model import Model
from rushes.profiling.bench.client import Client
from rushes.reuse.levels import known_schedule
from rushes.stages.base import Given
from rushes.stages.source import SourceLatents
from rushes.stages.video_encode import VideoWriter
from rushes.types import GenerateRequest, LatentSource

GOALS = {"a14b, whole of fresh": 0.45, "toy, first frame [s]": 0.2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model and setting.

    Attributes:
        step: at which an edit goes on; None for the last one of the high-noise expert.
    """

    name: str
    fields: dict[str, Any]
    rounds: int
    step: int | None = None


A14B_CASES = (
    Case(name="4 steps", fields={"preset": "distilled-4"}, rounds=2),
    Case(name="20 steps, guidance", fields={"preset": "quality", "num_inference_steps": 20}, rounds=1),
)
TOY_CASES = (
    Case(name="few-step-4, 3 of 4 steps", fields={"preset": "few-step-4"}, rounds=5, step=1),
    Case(name="few-step-4, 2 of 4 steps", fields={"preset": "few-step-4"}, rounds=5, step=2),
    Case(name="8 steps, 6 of them", fields={"preset": "fast"}, rounds=5, step=2),
    Case(name="20 steps, 12 of them", fields={"preset": "quality"}, rounds=3, step=8),
)


def made(model: Model, request: GenerateRequest, step: int | None) -> tuple[float, float]:
    """Seconds to the first frame and to the last byte of a fresh clip, or of an edit from `step` on."""
    source = None
    if step is not None:
        schedule = known_schedule(request.sampling)
        assert schedule is not None
        sigma = schedule.sigmas[step]
        named = LatentSource(name="bench", sigma=sigma, step=step, is_renoised=True)
        request = replace(request, source=named)
        clean = torch.randn(1, *model.pipeline.job(request, Given()).latent_shape)
        source = SourceLatents(sigma=sigma, latents=clean, clean=clean)
    job = model.pipeline.job(request, Given(source=source))
    client, video = Client(), request.video
    size = {"width": video.width, "height": video.height, "fps": video.fps}
    begin = time.perf_counter()
    with VideoWriter(client, format="mp4", num_frames=video.num_frames, **size) as writer:
        for _ in run(model.pipeline, job):
            while job.frames:
                writer.write(job.frames.popleft().frames)
    client.check(video.num_frames)
    assert client.first_frame_at is not None
    assert client.last_byte_at is not None
    return client.first_frame_at - begin, client.last_byte_at - begin


def last_high_step(request: GenerateRequest, boundary: float) -> int:
    """The last step of the high-noise expert."""
    schedule = known_schedule(request.sampling)
    assert schedule is not None
    return max(step for step, sigma in enumerate(schedule.sigmas[:-1]) if sigma >= boundary)


def measure(report: Report, model: Model, case: Case, size: dict[str, int]) -> None:
    """A fresh clip and an edit in turn."""
    request = model.job(PROMPT, seed=7, **size, **case.fields).request
    step = case.step if case.step is not None else last_high_step(request, model.boundary or 0.0)
    report.add(f"{case.name}: steps of a fresh clip, of an edit", _steps(request, step))
    runs: dict[str, list[tuple[float, float]]] = {"fresh": [], "edit": []}
    for number in range(1 + case.rounds):
        for kind, begin in (("fresh", None), ("edit", step)):
            # A long clip of the slow kind is warm after its edit.
            if number == 0 and kind == "fresh" and case.rounds == 1:
                continue
            taken = made(model, request, begin)
            if number:
                runs[kind].append(taken)
    for at, what in enumerate(("first frame", "whole")):
        fresh, edit = (statistics.median(each[at] for each in runs[kind]) for kind in ("fresh", "edit"))
        report.add(f"{case.name}: {what}, fresh and edit [s]", [round(fresh, 4), round(edit, 4)])
        report.add(f"{case.name}: {what} of fresh", round(edit / fresh, 3))


def _steps(request: GenerateRequest, step: int) -> list[int]:
    whole = request.sampling.num_inference_steps
    return [whole, whole - step]


@torch.no_grad()
def a14b(report: Report, device: torch.device, *, is_tiny: bool) -> None:
    """Both presets."""
    fleet = Fleet(TINY_A14B if is_tiny else A14B, device, is_tiny=is_tiny)
    fleet.warm_up("exact", fleet.kind.latents("480p"))
    free_cached(device)
    video = fleet.kind.clips["480p"]
    size = {"width": video.width, "height": video.height, "num_frames": video.num_frames}
    for case in A14B_CASES:
        measure(report, fleet.model("exact"), case, size)


def toy(report: Report, device: torch.device) -> None:
    """As it is shipped."""
    model = rushes.load("toy", device=str(device))
    for case in TOY_CASES:
        measure(report, model, case, {})


def main(argv: Sequence[str] | None = None) -> int:
    """Run both parts; 1 when one of them failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--commit", default="unknown", help="of the code, kept with the figures")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--only", choices=("toy", "a14b"))
    parser.add_argument("--seconds", type=float, default=300.0, help="begin nothing that would end later")
    asked = parser.parse_args(argv)
    device = torch.device("cpu" if asked.tiny else "cuda")
    about = {"commit": asked.commit, "tiny": asked.tiny, **about_machine(device)}
    report = Report(
        Path(os.environ.get("OUT", "benchmarks/results")) / "edits_gpu.json", about, asked.seconds
    )
    if asked.only != "a14b":
        report.part("toy", lambda part: toy(part, device), expected_s=0 if asked.tiny else 25)
    if asked.only != "toy":
        report.part(
            "a14b",
            lambda part: a14b(part, device, is_tiny=asked.tiny),
            expected_s=0 if asked.tiny else 220,
        )
    report.print_table()
    return int(report.has_failed)


if __name__ == "__main__":
    sys.exit(main())
