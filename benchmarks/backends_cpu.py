"""The toy in other engines on this CPU, beside eager PyTorch, in turn: time of a clip, its stages, and PSNR.

`python -m benchmarks.backends_cpu` (needs `pip install 'rushes[export]'`; minutes, most of them compilation).
Each contender is compared with eager PyTorch in the same dtype; bfloat16 only where the chip has it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import rushes
from rushes.ops.packed import can_pack
from rushes.passes.base import Pass
from rushes.passes.plan import Plan, make_pass
from rushes.pipelines.model import Model
from rushes.profiling.bench.ours import Rushes
from rushes.profiling.bench.quality import difference, make_clip
from rushes.types import Done, GenerateRequest

SAMPLE = {"width": 128, "height": 96, "num_frames": 9, "num_inference_steps": 4, "seed": 7}
PROMPT = "a red dog running in the park"
ROUNDS = 4
"""Each contender runs twice a round."""
EAGER, INDUCTOR, PACKED = "eager", "inductor", "packed"
CONTENDERS = {
    "float32": {
        "openvino": ("openvino", "openvino"),
        "onnxruntime": ("onnxruntime", "onnxruntime"),
        INDUCTOR: (INDUCTOR, INDUCTOR),
        PACKED: (PACKED, INDUCTOR),
    },
    "bfloat16": {INDUCTOR: (INDUCTOR, INDUCTOR), PACKED: (PACKED, INDUCTOR)},
}
"""By dtype: what runs the transformer's blocks, and what the VAE's decode step."""
RESULT = Path("benchmarks/results/backends_cpu.json")
BAR = 2.0


def passes_of(blocks: str, step: str) -> tuple[Pass, Pass]:
    """The passes that move the two parts."""
    names = {INDUCTOR: "compile", PACKED: PACKED}
    return (
        make_pass(names[blocks]) if blocks in names else make_pass("backend", engine=blocks),
        make_pass("vae-compile") if step == INDUCTOR else make_pass("vae-backend", engine=step),
    )


def measure(dtype: str) -> dict[str, dict[str, Any]]:
    """All contenders of a dtype and eager PyTorch in turn, forwards and backwards, so that a drift of the
    machine hits all alike."""
    plain = rushes.load("toy", device="cpu", dtype=dtype)
    request = plain.job(PROMPT, **SAMPLE).request
    models, ready_s = {EAGER: plain}, {EAGER: 0.0}
    for name, parts in CONTENDERS[dtype].items():
        started = time.perf_counter()
        models[name] = rushes.load("toy", device="cpu", dtype=dtype, plan=Plan(passes=passes_of(*parts)))
        stages(models[name], request)
        ready_s[name] = time.perf_counter() - started
    stages(plain, request)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        for name in (*models, *reversed(models)):
            runs[name].append(stages(models[name], request))
    medians = {
        name: {stage: statistics.median(run[stage] for run in found) for stage in found[0]}
        for name, found in runs.items()
    }
    eager, clip = medians[EAGER], make_clip(Rushes(plain), request)
    rows = {EAGER: {"seconds": _rounded(eager)}}
    for name in CONTENDERS[dtype]:
        ours = medians[name]
        apart = difference([clip], [make_clip(Rushes(models[name]), request)])
        rows[name] = {
            "ratio": round(eager["total"] / ours["total"], 3),
            "ratios": _rounded({stage: eager[stage] / ours[stage] for stage in eager}),
            "seconds": _rounded(ours),
            "load_and_first_clip_s": round(ready_s[name], 1),
            "psnr_db": round(min(apart.comparison.psnr_db, 999.0), 2),
        }
    return rows


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}


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
    rows: dict[str, dict[str, Any]] = {}
    for dtype in CONTENDERS:
        if not can_pack(torch.empty(0, dtype=getattr(torch, dtype))):
            print(f"{dtype}: not on this chip")
            continue
        for name, found in measure(dtype).items():
            rows[f"{name}, {dtype}"] = found
            if name != EAGER:
                ratios = ", ".join(f"{stage} {ratio:.2f}x" for stage, ratio in found["ratios"].items())
                print(f"{name + ', ' + dtype:<30} {ratios}; PSNR {found['psnr_db']:.1f} dB", flush=True)
    best = max(found["ratio"] for found in rows.values() if "ratio" in found)
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
    asked.output.write_text(json.dumps(report) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
