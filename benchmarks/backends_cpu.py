"""The toy in another engine on this CPU, beside PyTorch, in turn: time of a clip, its stages, and PSNR.

`python -m benchmarks.backends_cpu` (needs `pip install 'rushes[export]'`; minutes, most of them export).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import rushes
from rushes.passes.cpu_engines import ENGINES
from rushes.passes.plan import Plan, make_pass
from rushes.pipelines.model import Model
from rushes.profiling.bench.ours import Rushes
from rushes.profiling.bench.quality import difference, make_clip
from rushes.types import Done, GenerateRequest

SAMPLE = {"width": 128, "height": 96, "num_frames": 9, "num_inference_steps": 4, "seed": 7}
PROMPT = "a red dog running in the park"
ROUNDS = 2
"""Of A B B A: each contender runs twice a round."""
RESULT = Path("benchmarks/results/backends_cpu.json")
BAR = 2.0


def measure(plain: Model, engine: str) -> dict[str, Any]:
    """One engine against PyTorch; A B B A, so that a drift of the machine hits both."""
    started = time.perf_counter()
    passes = (make_pass("backend", engine=engine), make_pass("vae-backend", engine=engine))
    moved = rushes.load("toy", device="cpu", dtype="float32", plan=Plan(passes=passes))
    request = plain.job(PROMPT, **SAMPLE).request
    stages(moved, request)
    ready_s = time.perf_counter() - started
    stages(plain, request)
    runs: dict[str, list[dict[str, float]]] = {"eager": [], engine: []}
    for _ in range(ROUNDS):
        for name, model in (("eager", plain), (engine, moved), (engine, moved), ("eager", plain)):
            runs[name].append(stages(model, request))
    apart = difference([make_clip(Rushes(plain), request)], [make_clip(Rushes(moved), request)])
    eager, ours = (
        {stage: statistics.median(run[stage] for run in runs[name]) for stage in runs[name][0]}
        for name in ("eager", engine)
    )
    return {
        "ratio": eager["total"] / ours["total"],
        "ratios": {stage: eager[stage] / ours[stage] for stage in eager},
        "eager_s": eager,
        "seconds": ours,
        "load_and_first_clip_s": ready_s,
        "psnr_db": min(apart.comparison.psnr_db, 999.0),
    }


def stages(model: Model, request: GenerateRequest) -> dict[str, float]:
    """Seconds of a clip by stage, without the text, which is kept between clips, and the video file."""
    for event in Rushes(model).events(request):
        if isinstance(event, Done):
            found = {
                one.stage: one.seconds for one in event.timings if one.stage in ("denoise", "vae_decode")
            }
            return {**found, "total": sum(found.values())}
    raise AssertionError("a clip ends with Done")


def instructions() -> str:
    """The widest vectors that PyTorch uses: what an engine gains depends on them."""
    return str(torch.backends.cpu.get_cpu_capability())


def main(argv: Sequence[str] | None = None) -> int:
    """Print the ratios and write them down."""
    parser = argparse.ArgumentParser(description="the toy in other engines on a CPU")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULT)
    asked = parser.parse_args(argv)
    torch.set_num_threads(asked.threads)
    plain = rushes.load("toy", device="cpu", dtype="float32")
    rows = {}
    for engine in ENGINES:
        rows[engine] = found = measure(plain, engine)
        ratios = ", ".join(f"{stage} {ratio:.2f}x" for stage, ratio in found["ratios"].items())
        print(f"{engine:<12} {ratios}; PSNR {found['psnr_db']:.1f} dB", flush=True)
    best = max(found["ratio"] for found in rows.values())
    verdict = "met" if best >= BAR else "short"
    print(f"best {best:.2f}x of eager, goal {BAR:g}x: {verdict} ({instructions()}, {asked.threads} threads)")
    report = {
        "command": "python -m benchmarks.backends_cpu",
        "cpu": instructions(),
        "machine": platform.machine(),
        "threads": asked.threads,
        "torch": torch.__version__,
        "sample": SAMPLE,
        "best": best,
        "verdict": verdict,
        "rows": rows,
    }
    asked.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
