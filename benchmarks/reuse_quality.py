"""What clips lose that go on from another clip's latents: adherence to the NEW prompt, by noise level.

    python -m benchmarks.reuse_quality --clips 4                       # a sample on a CPU
    python -m benchmarks.reuse_quality --clips 1000 -o benchmarks/results/reuse_quality.json    # needs a GPU

Two kinds of pairs, on the toy. `hit`: the same scene in other words, as the meaning guard lets through.
`edit`: the same scene with another background and colour, as somebody who edits a clip asks for. Every new
prompt is made fresh and then from the latents that a clip of the old prompt, with a seed of its own, had at
each level, noised again with the new clip's seed. Beside adherence: the distance of the set from the fresh
one over the judge's features, and the mean PSNR between two seeds from the same latents, which tells whether
a seed still means something. Seconds are those of denoising, batch by batch.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.judge_clips import Bench, denoised, joined, open_bench, read, to_video
from benchmarks.judge_report import count_right
from numpy.typing import NDArray
from torch import Tensor
from training.clips import labels_of
from training.world.attributes import BACKGROUNDS, COLOURS
from training.world.captions import full_caption
from training.world.prompts import Prompts, evaluation_prompts

from rushes.models.wan_vae import to_uint8
from rushes.profiling.bench.about import about
from rushes.profiling.output import write_json
from rushes.profiling.quality.frechet import frechet_distance
from rushes.profiling.quality.judged import ClipJudge
from rushes.profiling.quality.pixels import psnr_db
from rushes.sampling.levels import LEVELS, schedule_of, steps_at
from rushes.stages.base import Given, Job
from rushes.stages.source import Snapshot, SourceLatents
from rushes.types import LatentSource

ASSETS = Path("src/rushes/assets")
CPU = torch.device("cpu")
OLD_SEEDS, OTHER_SEEDS = 50_000, 90_000
TWO_SEEDS = 64
"""Clips that are made with a second seed too."""


@dataclass(slots=True)
class Set:
    """The clips of one row, as far as they are looked at."""

    features: list[NDArray[np.float64]] = field(default_factory=list)
    read: list[dict[str, Tensor]] = field(default_factory=list)
    few: list[Tensor] = field(default_factory=list)
    seconds: float = 0.0

    def look(self, bench: Bench, clips: Tensor) -> None:
        """Take a batch in: uint8 [B, T, H, W, 3]."""
        self.features.append(ClipJudge(bench.judge, bench.device).features(clips))
        self.read.append(read(bench, to_video(clips, bench.device)))
        if sum(len(some) for some in self.few) < TWO_SEEDS:
            self.few.append(clips.cpu())


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line a row and write the JSON."""
    args = arguments(argv)
    bench = open_bench(args.assets, args.batch, device=args.device)
    new = evaluation_prompts(args.clips)
    content: dict[str, Any] = {**about(bench.device), "clips": args.clips, "preset": args.preset, "kinds": {}}
    for kind, old in old_prompts(new).items():
        rows = measured(bench, old, new, args.preset)
        content["kinds"][kind] = rows
        for name, row in rows.items():
            print(f"{kind:<5} {line(name, row)}", flush=True)
        if args.output is not None:
            write_json(args.output, content, indent=1)
    return 0


def old_prompts(new: Prompts) -> dict[str, Prompts]:
    """The prompts of the clips that are gone on from, by kind of pair."""
    chance = random.Random(17)
    scenes = new.scenes[np.arange(len(new.scenes))]  # a copy
    scenes.background[:] = (scenes.background + 1 + np.arange(len(scenes)) % (len(BACKGROUNDS) - 1)) % len(
        BACKGROUNDS
    )
    scenes.colour[:] = 1 + scenes.colour % (len(COLOURS) - 1)
    seeds = tuple(seed + OLD_SEEDS for seed in new.seeds)
    return {
        kind: replace(
            new, texts=tuple(full_caption(of, row, chance) for row in range(len(of))), scenes=of, seeds=seeds
        )
        for kind, of in (("hit", new.scenes), ("edit", scenes))
    }


def measured(bench: Bench, old: Prompts, new: Prompts, preset: str) -> dict[str, Any]:
    """`fresh`, then each level; every set is of the same new prompts."""
    sets: dict[str, Set] = {}
    again: dict[str, Set] = {}
    first = bench.model.job(new.texts[0], seed=0, preset=preset).request
    steps = steps_at(schedule_of(first.sampling), LEVELS, bench.model.rules.boundary)
    for start in range(0, len(new.texts), bench.batch):
        rows = range(start, min(start + bench.batch, len(new.texts)))
        sources = snapshots(bench, old, rows, preset, steps)
        names = {"fresh": None, **{f"{sigma:.3f}": step for step, sigma in sorted(sources.levels.items())}}
        for name, step in names.items():
            taken = sets.setdefault(name, Set())
            begin = time.perf_counter()
            jobs = [job_of(bench, new, row, preset, sources, step) for row in rows]
            latents = denoised(bench, jobs)
            if bench.device.type == "cuda":
                torch.cuda.synchronize()
            taken.seconds += time.perf_counter() - begin
            with torch.no_grad():
                taken.look(bench, to_uint8(bench.vae.decode(latents)))
            if start < TWO_SEEDS:
                twice = [
                    job_of(bench, new, row, preset, sources, step, seed_from=OTHER_SEEDS)
                    for row in rows[:TWO_SEEDS]
                ]
                with torch.no_grad():
                    clips = to_uint8(bench.vae.decode(denoised(bench, twice)))
                again.setdefault(name, Set()).few.append(clips.cpu())
    asked = labels_of(new.scenes, CPU)
    classes = bench.judge.config.classes
    return {name: figures(found, again[name], sets["fresh"], asked, classes) for name, found in sets.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a batch of old clips left at each step: by row of the prompts, and the step's noise level."""

    by_row: Mapping[int, Mapping[int, Snapshot]]
    levels: Mapping[int, float]


def snapshots(bench: Bench, old: Prompts, rows: range, preset: str, steps: frozenset[int]) -> Sources:
    """Make the old clips and keep them at these steps."""
    jobs = [bench.model.job(old.texts[row], seed=old.seeds[row], preset=preset) for row in rows]
    for job in jobs:
        job.snapshot_steps = steps
    denoised(bench, jobs)
    kept = {row: {each.step: each for each in job.snapshots} for row, job in zip(rows, jobs, strict=True)}
    return Sources(by_row=kept, levels={step: each.sigma for step, each in kept[rows[0]].items()})


def job_of(
    bench: Bench,
    new: Prompts,
    row: int,
    preset: str,
    sources: Sources,
    step: int | None,
    *,
    seed_from: int = 0,
) -> Job:
    """A job of a new prompt: from noise for None, else from what the old clip had before this step."""
    fresh = bench.model.job(new.texts[row], seed=new.seeds[row] + seed_from, preset=preset)
    if step is None:
        return fresh
    kept = sources.by_row[row][step]
    source = LatentSource(name="memory", sigma=kept.sigma, step=step, is_renoised=True)
    given = Given(source=SourceLatents(sigma=kept.sigma, latents=kept.latents, clean=kept.clean))
    return bench.model.pipeline.job(replace(fresh.request, source=source), given)


def figures(
    found: Set, again: Set, fresh: Set, asked: Mapping[str, Tensor], classes: Mapping[str, int]
) -> dict[str, Any]:
    """One row."""
    answers = joined(found.read)
    right = count_right(answers, asked, classes)
    features = np.concatenate(found.features)
    distance = frechet_distance(np.concatenate(fresh.features), features)
    return {
        "num_clips": len(features),
        "right": {name: figure.right for name, figure in right.items()},
        "share": {name: round(figure.right / len(features), 4) for name, figure in right.items()},
        "frechet": {"distance": distance.distance, "corrected": distance.corrected},
        "two_seeds_psnr_db": two_seeds(torch.cat(found.few), torch.cat(again.few)),
        "denoise_s": round(found.seconds, 2),
    }


def two_seeds(one: Tensor, other: Tensor) -> float:
    """Mean PSNR between clips of the same prompts with two seeds."""
    num = min(len(one), len(other), TWO_SEEDS)
    squared = (one[:num].float() - other[:num].float()).square().flatten(1).mean(1)
    return round(float(np.mean([psnr_db(mse) for mse in squared.tolist()])), 2)


def line(name: str, row: Mapping[str, Any]) -> str:
    """Of one row."""
    shares = ", ".join(f"{key} {100 * value:.1f}" for key, value in row["share"].items())
    return (
        f"{name:<6} {shares} % right; Fréchet {row['frechet']['distance']:.1f} from fresh; two seeds"
        f" {row['two_seeds_psnr_db']:.1f} dB; denoising {row['denoise_s']:.1f} s"
    )


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--preset", default="quality")
    parser.add_argument("--batch", type=int, help="clips made at a time; 64 on a GPU, else 2")
    parser.add_argument("--device")
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("-o", "--output", type=Path)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
