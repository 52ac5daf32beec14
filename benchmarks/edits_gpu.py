"""What an edit takes beside a fresh clip on one GPU, in this process: prompt to the first frame at the client
and to the last byte of the mp4.

    python -m benchmarks.edits_gpu --commit $(git rev-parse --short HEAD)

A14B at its true shape with random weights, on the speed table's exact rung: an edit goes on at the last step
of the high-noise expert, as edits do at most. The toy as it is shipped, and as its edits go by default: by
few-step weights, beside a fresh clip by its own settings. Medians of a few runs, warm. `--tiny` runs a tiny
A14B on the CPU, which proves nothing but the code.
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
from benchmarks.gpu_report import Report, about_machine, free_memory
from benchmarks.speed_fleet import A14B, TINY_A14B, Fleet
from benchmarks.speed_rows import PROMPT

import rushes
from rushes.pipelines.base import run
from rushes.pipelines.model import Model
from rushes.profiling.bench.client import Client
from rushes.reuse.levels import known_schedule
from rushes.server.edit_ways import sampling_of, source_of, way_of
from rushes.stages.base import Given
from rushes.stages.source import SourceLatents
from rushes.stages.video_encode import VideoWriter
from rushes.types import GenerateRequest, LatentSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model and setting.

    Attributes:
        step: at which an edit goes on; None for the last one of the high-noise expert.
        by_default: the edit is sampled as a gateway has it where nobody says otherwise; `step` is not read.
        warms_up: not needed where the same forwards have run before.
    """

    name: str
    fields: dict[str, Any]
    rounds: int
    step: int | None = None
    by_default: bool = False
    warms_up: bool = True


A14B_CASES = (
    Case(name="4 steps", fields={"preset": "distilled-4"}, rounds=2),
    Case(
        name="20 steps, guidance",
        fields={"preset": "quality", "num_inference_steps": 20},
        rounds=1,
        warms_up=False,
    ),
)
TOY_CASES = (
    Case(name="20 steps, edit by default", fields={"preset": "quality"}, rounds=5, by_default=True),
    Case(name="few-step-4, 3 of 4 steps", fields={"preset": "few-step-4"}, rounds=5, step=1),
    Case(name="few-step-4, 2 of 4 steps", fields={"preset": "few-step-4"}, rounds=5, step=2),
    Case(name="8 steps, 6 of them", fields={"preset": "fast"}, rounds=5, step=2),
    Case(name="20 steps, 12 of them", fields={"preset": "quality"}, rounds=3, step=8),
)


def edit_of(model: Model, fresh: GenerateRequest, case: Case) -> GenerateRequest:
    """The request of an edit, whose source is made up by `made`."""
    if case.by_default:
        way = way_of(model.rules, None, None, has_lora=True)
        sampling = sampling_of(model.rules, way, fresh)
        source = source_of(model.rules, way, sampling, "bench", mask=None)
        return replace(fresh, sampling=sampling, source=source)
    schedule = known_schedule(fresh.sampling)
    assert schedule is not None
    step = case.step if case.step is not None else last_high_step(fresh, model.boundary or 0.0)
    source = LatentSource(name="bench", sigma=schedule.sigmas[step], step=step, is_renoised=True)
    return replace(fresh, source=source)


def made(model: Model, request: GenerateRequest) -> tuple[float, float]:
    """Seconds to the first frame and to the last byte of a fresh clip, or of an edit."""
    given = Given()
    if request.source is not None:
        clean = torch.randn(1, *model.pipeline.job(replace(request, source=None), Given()).latent_shape)
        given = Given(source=SourceLatents(sigma=request.source.sigma, latents=clean, clean=clean))
    job = model.pipeline.job(request, given)
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
    fresh = model.job(PROMPT, seed=7, **size, **case.fields).request
    requests = {"fresh": fresh, "edit": edit_of(model, fresh, case)}
    steps = [_num_steps(request) for request in requests.values()]
    report.add(f"{case.name}: steps of a fresh clip, of an edit", steps)
    runs: dict[str, list[tuple[float, float]]] = {kind: [] for kind in requests}
    for number in range(1 + case.rounds):
        if number == 0 and not case.warms_up:
            continue
        for kind, request in requests.items():
            taken = made(model, request)
            if number:
                runs[kind].append(taken)
    for at, what in enumerate(("first frame", "whole")):
        alone, edit = (statistics.median(each[at] for each in runs[kind]) for kind in requests)
        report.add(f"{case.name}: {what}, fresh and edit [s]", [round(alone, 4), round(edit, 4)])
        report.add(f"{case.name}: {what} of fresh", round(edit / alone, 3))


def _num_steps(request: GenerateRequest) -> int:
    done = 0 if request.source is None else request.source.step
    return request.sampling.num_inference_steps - done


@torch.no_grad()
def a14b(report: Report, device: torch.device, *, is_tiny: bool) -> None:
    """Both presets."""
    fleet = Fleet(TINY_A14B if is_tiny else A14B, device, is_tiny=is_tiny)
    fleet.warm_up("exact", fleet.kind.latents("480p"))
    free_memory()
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
            expected_s=0 if asked.tiny else 200,
        )
    report.print_table()
    return int(report.has_failed)


if __name__ == "__main__":
    sys.exit(main())
