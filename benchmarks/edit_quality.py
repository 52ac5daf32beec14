"""What an edit by few-step weights changes and keeps, by the noise level at which it takes a clip up.

    python -m benchmarks.edit_quality --clips 32                       # a sample on a CPU
    python -m benchmarks.edit_quality --clips 512 -o benchmarks/results/edit_quality_h200.json    # a GPU

Pairs of the toy's held-out scenes that differ in background and colour, as `benchmarks.reuse_quality` has
them under `edit`. A clip of the old prompt is made, and edited by the new one as a gateway does by default:
its finished latents, noised again with its own seed, through the preset of the model's edits. Told are the
attributes of the new prompt that the judge finds, how like the old clip it is (PSNR), and how many forwards
were run; beside it the same of clips made anew with the same seed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.judge_clips import Bench, denoised, joined, open_bench, read, to_video
from benchmarks.judge_report import count_right
from benchmarks.reuse_quality import ASSETS, CPU, old_prompts
from torch import Tensor
from training.clips import labels_of
from training.world.prompts import evaluation_prompts

from rushes.models.wan_vae import to_uint8
from rushes.profiling.bench.about import about
from rushes.profiling.output import write_json
from rushes.profiling.quality.pixels import psnr_db
from rushes.server.edit_ways import Way, cost_of, sampling_of, source_of
from rushes.stages.base import Given, Job
from rushes.stages.source import SourceLatents

LEVELS = (1.0, 0.98, 0.97, 0.96, 0.94)
"""1 is a clip made anew with the same seed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line a row and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--old-preset", default="quality", help="of the clips that are edited")
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS)
    parser.add_argument("--batch", type=int, help="clips made at a time; 64 on a GPU, else 2")
    parser.add_argument("--device")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args(argv)
    bench = open_bench(ASSETS, args.batch, device=args.device)
    facts = {**about(bench.device), "old preset": args.old_preset, "preset": bench.model.rules.edit_preset}
    for rows in measured(bench, args.clips, args.old_preset, args.levels):
        if args.output is not None:
            write_json(args.output, {**facts, "rows": rows}, indent=1)
    return 0


def measured(
    bench: Bench, num_clips: int, old_preset: str, levels: Sequence[float]
) -> Iterator[dict[str, Any]]:
    """A row a level over all clips so far, batch by batch."""
    new = evaluation_prompts(num_clips)
    old = old_prompts(new)["edit"]
    asked = labels_of(new.scenes, CPU)
    answers: dict[str, list[dict[str, Tensor]]] = {}
    likeness: dict[str, list[float]] = {}
    forwards: dict[str, int] = {}
    for start in range(0, num_clips, bench.batch):
        batch = range(start, min(start + bench.batch, num_clips))
        finished = denoised(
            bench, [bench.model.job(old.texts[row], seed=old.seeds[row], preset=old_preset) for row in batch]
        )
        before = decoded(bench, finished)
        for level in levels:
            name = "anew" if level == 1 else f"{level:g}"
            jobs = [
                edit_of(bench, new.texts[row], old.seeds[row], level, latents)
                for row, latents in zip(batch, finished.split(1), strict=True)
            ]
            clips = decoded(bench, denoised(bench, jobs))
            answers.setdefault(name, []).append(read(bench, to_video(clips, bench.device)))
            squared = (clips.float() - before.float()).square().flatten(1).mean(1)
            likeness.setdefault(name, []).extend(psnr_db(mse) for mse in squared.tolist())
            sampling = jobs[0].request.sampling
            forwards[name] = cost_of(sampling, sampling.num_inference_steps - jobs[0].first_step)
        so_far = {name: labels[: batch.stop] for name, labels in asked.items()}
        rows: dict[str, Any] = {}
        for name, found in answers.items():
            right = count_right(joined(found), so_far, bench.judge.config.classes)
            rows[name] = {
                "num_clips": batch.stop,
                "forwards": forwards[name],
                "right": {attribute: figure.right for attribute, figure in right.items()},
                "psnr_db of the old clip": round(float(np.mean(likeness[name])), 2),
            }
            print(name, rows[name], flush=True)
        yield rows


@torch.no_grad()
def decoded(bench: Bench, latents: Tensor) -> Tensor:
    """uint8 [B, T, H, W, 3]."""
    return to_uint8(bench.vae.decode(latents))


def edit_of(bench: Bench, prompt: str, seed: int, level: float, finished: Tensor) -> Job:
    """As a gateway and a worker make it; at level 1 a new clip of the preset."""
    rules = bench.model.rules
    way = Way(preset=rules.edit_preset, strength=level)
    fresh = bench.model.job(prompt, seed=seed, preset=way.preset)
    sampling = sampling_of(rules, way, fresh.request)
    source = source_of(rules, way, sampling, "memory", mask=None)
    request = replace(fresh.request, sampling=sampling, source=source)
    if source is None:
        return bench.model.pipeline.job(request, Given())
    given = SourceLatents(sigma=0.0, latents=finished, clean=finished)
    return bench.model.pipeline.job(request, Given(source=given))


if __name__ == "__main__":
    sys.exit(main())
