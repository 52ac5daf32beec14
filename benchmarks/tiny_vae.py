"""The toy's tiny decoder beside its whole one, on the same latents: time, PSNR, and what the judge reads.

    python -m benchmarks.tiny_vae --prompts 24

Figures go to `$OUT/tiny_vae.json` (default benchmarks/results). Latents are those of the judge's prompts.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu_report import about_machine, synchronize
from benchmarks.judge_clips import Bench, denoised, open_bench, read, to_video
from benchmarks.judge_report import JOINT, count_right
from torch import Tensor
from training.clips import labels_of
from training.world.prompts import Prompts, evaluation_prompts

from rushes.models.wan_vae import to_uint8
from rushes.passes.vae import TINY_TOY, VaeTiny

ASSETS = Path("src/rushes/assets")
CPU = torch.device("cpu")


@torch.no_grad()
def latents_of(bench: Bench, prompts: Prompts, fields: dict[str, Any]) -> list[Tensor]:
    """Of every prompt, in batches."""
    found = []
    for start in range(0, len(prompts.texts), bench.batch):
        rows = range(start, min(start + bench.batch, len(prompts.texts)))
        jobs = [bench.model.job(prompts.texts[i], seed=prompts.seeds[i], **fields) for i in rows]
        found.append(denoised(bench, jobs))
    return found


@torch.no_grad()
def decode_all(bench: Bench, latents: Sequence[Tensor]) -> tuple[list[Tensor], float]:
    """uint8 clips batch by batch, and median seconds of a clip decoded alone."""
    clips = [to_uint8(bench.vae.decode(batch)) for batch in latents]
    times = []
    for _ in range(3):
        synchronize(bench.device)
        begin = time.perf_counter()
        bench.vae.decode(latents[0][:1])
        synchronize(bench.device)
        times.append(time.perf_counter() - begin)
    return clips, statistics.median(times)


def judged(bench: Bench, clips: Sequence[Tensor], prompts: Prompts) -> dict[str, float]:
    """Shares of clips in which the judge reads what was asked for."""
    found = [read(bench, to_video(batch, bench.device)) for batch in clips]
    joined = {name: torch.cat([each[name] for each in found]).cpu() for name in found[0]}
    figures = count_right(joined, labels_of(prompts.scenes, CPU), bench.judge.config.classes)
    return {name: round(figure.share, 4) for name, figure in figures.items()}


def psnr(ours: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Mean over clips, in dB."""
    values = []
    for a, b in zip(ours, reference, strict=True):
        squared = ((a.float() - b.float()) / 255).square().flatten(1).mean(1)
        values.append(-10 * squared.clamp_min(1e-10).log10())
    return float(torch.cat(values).mean())


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="the tiny decoder beside the whole one")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--weights", default=TINY_TOY, help="a file, or the shipped one")
    parser.add_argument("--batch", type=int)
    args = parser.parse_args(argv)
    bench = open_bench(ASSETS, args.batch)
    prompts = evaluation_prompts(args.prompts)
    fields = {"preset": args.preset}
    latents = latents_of(bench, prompts, fields)
    rows: dict[str, dict[str, Any]] = {}
    whole, seconds = decode_all(bench, latents)
    rows["whole"] = {"seconds a clip": seconds, "judge": judged(bench, whole, prompts)}
    VaeTiny(weights=args.weights).apply(bench.vae)
    tiny, seconds = decode_all(bench, latents)
    rows["tiny"] = {"seconds a clip": seconds, "judge": judged(bench, tiny, prompts)}
    rows["tiny"]["PSNR against whole [dB]"] = round(psnr(tiny, whole), 2)
    about = {"prompts": args.prompts, **fields, **about_machine(bench.device)}
    file = Path(os.environ.get("OUT", "benchmarks/results")) / "tiny_vae.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**about, "decoders": rows}, indent=1) + "\n")
    for name, row in rows.items():
        print(f"{name}: {row['seconds a clip']:.3f} s a clip, joint {row['judge'][JOINT]:.3f}, {row}")


if __name__ == "__main__":
    main()
