"""How soon an edit shows its first frame, beside a fresh clip: `python -m benchmarks.reuse_edits`.

A gateway and a worker with the embedded model, as they are shipped; a client watches. Every pair is a fresh
clip and then edits of it, one after another, so that nothing waits in a queue: as they are made by default,
by the clip's own settings, and of the last frames only, whose first ones are known; and a fresh clip of the
preset `fast`. Seconds are from sending the request to
the event that tells of the first frames; device seconds of the stages stand beside. The first pair warms the
worker up and does not count.

Beside it, what a decoder loses that begins within a clip: PSNR of the frames of each latent frame behind it
against those of a whole decode, by how many latent frames warm it up.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from benchmarks.judge_clips import denoised, open_bench
from benchmarks.service_processes import Service
from torch import Tensor

from rushes.client import Client, Clip
from rushes.models.wan_vae import to_uint8
from rushes.pipelines.rules import load_rules
from rushes.profiling.bench.about import about
from rushes.profiling.output import write_json
from rushes.profiling.quality.pixels import psnr_db
from rushes.server.edit_ways import OWN, way_of

GOAL = 0.40
ASSETS = Path("src/rushes/assets")
OUTPUT = Path("benchmarks/results/reuse_edits_cpu.json")
EDITS: dict[str, dict[str, Any]] = {
    "default": {},
    "own settings": {"preset": OWN},
    "frames 17-": {"strength": 1.0, "mask_frames": "17-"},
}
"""What is sent beside the prompt, by row."""

FAST = "fresh, fast"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One clip.

    Attributes:
        first_frame_s, whole_s: from the request to its first frames and to its end.
        stages: device seconds by stage.
        steps: solver steps that were run.
    """

    first_frame_s: float
    whole_s: float
    stages: dict[str, float]
    steps: int
    seconds_saved: float


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line a row and write the JSON. Status 1 where the goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=int, default=3, help="that count")
    parser.add_argument("--preset", default="quality")
    parser.add_argument("--size", default="192x128", help="of the clips")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    args = parser.parse_args(argv)
    load = os.getloadavg()
    with tempfile.TemporaryDirectory(prefix="reuse-edits-") as folder, Service(Path(folder)) as service:
        _, url = service.start_gateway()
        service.start_worker()
        with Client(url) as client:
            runs = measured(client, args.pairs, preset=args.preset, size=args.size)
    rows = report(runs)
    ratio = rows["default"]["first frame of fresh"]
    content = {
        **about(torch.device("cpu")),
        "pairs": args.pairs,
        "preset": args.preset,
        "size": args.size,
        "default": asdict(way_of(load_rules("toy"), None, None, has_lora=True)),
        "load average at the start, at the end": [
            [round(each, 1) for each in one] for one in (load, os.getloadavg())
        ],
        "rows": rows,
        "psnr db behind so many latent frames": warming(),
        "goal": GOAL,
        "is met by default": ratio <= GOAL,
    }
    write_json(args.output, content, indent=1)
    for name, row in rows.items():
        share = row["first frame of fresh"]
        of_fast = row["first frame of fast"]
        print(
            f"{name:<14} first frame {row['first frame s']:6.2f} s: {share:5.1%} of fresh,"
            f" {of_fast:5.1%} of fast"
        )
    return 0 if ratio <= GOAL else 1


def measured(client: Client, pairs: int, **asked: Any) -> dict[str, list[Run]]:
    """Clips by row; of the pair that warms up none."""
    found: dict[str, list[Run]] = defaultdict(list)
    for pair in range(pairs + 1):
        fresh, run = watched(client, None, "a red dog runs in a park", seed=pair, **asked)
        rows = {"fresh": run}
        for name, fields in EDITS.items():
            _, rows[name] = watched(client, fresh, "a red dog runs in snow", **fields)
        _, rows[FAST] = watched(
            client, None, "a red dog runs in a park", seed=pair, **asked | {"preset": "fast"}
        )
        for name, run in rows.items():
            print(f"pair {pair}: {name:<14} first frame {run.first_frame_s:6.2f} s", flush=True)
            if pair:
                found[name].append(run)
    return found


def watched(client: Client, parent: Clip | None, prompt: str, **fields: Any) -> tuple[Clip, Run]:
    """Make one, and see when it came."""
    begin = time.perf_counter()
    if parent is None:
        clip = client.create(prompt, cache="off", **fields)
    else:
        clip = client.remix(parent.id, prompt, **fields)
    first_s = None
    for event in clip.events():
        if event.kind == "frames" and first_s is None:
            first_s = time.perf_counter() - begin
        if event.kind == "completed":
            done: Any = event.data
    assert first_s is not None, "a clip has frames"
    run = Run(
        first_frame_s=first_s,
        whole_s=time.perf_counter() - begin,
        stages={timing["stage"]: timing["seconds"] for timing in done["timings"]},
        steps=done["forwards"]["conditional"],
        seconds_saved=clip.refresh().video["cache"]["seconds_saved"] or 0.0,
    )
    return clip, run


@torch.no_grad()
def warming() -> dict[str, list[float]]:
    """Of one small clip, decoded from its last third on."""
    bench = open_bench(ASSETS, 1, device="cpu")
    job = bench.model.job("a red dog runs in a park", seed=1, preset="fast", width=96, height=64)
    latents = denoised(bench, [job])
    num = latents.shape[2]
    begin = num - num // 3

    def frames(first: int) -> list[Tensor]:
        state, found = None, []
        for latent in latents[:, :, first:].split(1, dim=2):
            video, state = bench.vae.decode_step(latent, state)
            found.append(to_uint8(video).float())
        return found[begin - first :]

    whole = frames(0)
    return {
        str(warm): [
            round(min(99.9, psnr_db(float((one - other).square().mean()))), 1)
            for one, other in zip(frames(begin - warm), whole, strict=True)
        ]
        for warm in range(1, begin)
    }


def report(runs: dict[str, list[Run]]) -> dict[str, dict[str, Any]]:
    """Medians of each row, and of what fresh clips took."""
    fresh_s = median(run.first_frame_s for run in runs["fresh"])
    fast_s = median(run.first_frame_s for run in runs[FAST])
    fresh_whole_s = median(run.whole_s for run in runs["fresh"])
    return {
        name: {
            "first frame s": round(median(run.first_frame_s for run in found), 3),
            "first frame of fresh": round(median(run.first_frame_s for run in found) / fresh_s, 3),
            "first frame of fast": round(median(run.first_frame_s for run in found) / fast_s, 3),
            "whole s": round(median(run.whole_s for run in found), 3),
            "whole of fresh": round(median(run.whole_s for run in found) / fresh_whole_s, 3),
            "steps": found[0].steps,
            "stages s": {
                stage: round(median(run.stages.get(stage, 0.0) for run in found), 3)
                for stage in found[0].stages
            },
            "seconds saved, as told": round(median(run.seconds_saved for run in found), 3),
        }
        for name, found in runs.items()
    }


if __name__ == "__main__":
    sys.exit(main())
