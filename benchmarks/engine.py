"""What the engine costs and gains with the toy on this machine, against the library's plain loop.

    python -m benchmarks.engine

1. One job, engine and plain loop in turn (A B B A ...): the engine's overhead is the median of the ratios
   less 1; beside it, the same of CPU seconds, which a busy machine disturbs less, and the share of a job's
   wall time in which the engine ran no unit of it.
2. Eight jobs at once against the same eight one after another, in turn.

Goals: overhead <= 2 %, eight at once in <= 1.0 x serial. Exits with 1 when one falls short.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import rushes
from rushes.engine.client import result
from rushes.engine.local import LocalEngine
from rushes.pipelines.model import Model
from rushes.types import GenerateRequest, JobOptions

SIZE = {"width": 128, "height": 96, "num_frames": 17, "num_inference_steps": 6}
NUM_JOBS = 8
OVERHEAD_GOAL, SERIAL_GOAL = 0.02, 1.0


def requests(model: Model) -> list[GenerateRequest]:
    """Eight clips of one size."""
    return [model.job(f"{n + 1} red dogs spin on the beach", seed=n, **SIZE).request for n in range(NUM_JOBS)]


def plain_s(model: Model, asked: list[GenerateRequest]) -> float:
    """Seconds of the library's loop, job after job."""
    begin = time.perf_counter()
    for each in asked:
        for _ in model.stream(each.prompt, seed=each.sampling.seed, **SIZE):
            pass
    return time.perf_counter() - begin


def engine_s(engine: LocalEngine, asked: list[GenerateRequest]) -> tuple[float, float]:
    """Wall seconds of the engine with all jobs at once, and the device seconds of their units."""
    begin = time.perf_counter()
    ids = [engine.submit(each, JobOptions()) for each in asked]
    records = [result(engine, job_id) for job_id in ids]
    return time.perf_counter() - begin, sum(record.actual_s or 0.0 for record in records)


def with_cpu_s(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and the CPU seconds that this process used for it."""
    begin = time.process_time()
    found = call()
    return found, time.process_time() - begin


def pairs(model: Model, asked: list[GenerateRequest], num: int) -> dict[str, Any]:
    """Engine against plain loop, in turn."""
    ratios, cpu_ratios, idle = [], [], []
    with LocalEngine(model) as engine:
        engine_s(engine, asked[:1])
        plain_s(model, asked[:1])
        for number in range(num):
            loops = [lambda: plain_s(model, asked), lambda: engine_s(engine, asked)]
            order = (1, 0) if number % 2 == 0 else (0, 1)
            figures = {at: with_cpu_s(loops[at]) for at in order}
            (plain_wall_s, plain_cpu_s), ((wall_s, units_s), cpu_s) = figures[0], figures[1]
            ratios.append(wall_s / plain_wall_s)
            cpu_ratios.append(cpu_s / plain_cpu_s)
            idle.append(1 - units_s / wall_s)
            print(f"  {number + 1}: engine {wall_s:.2f} s, ratio {ratios[-1]:.3f}", flush=True)
    return {
        "jobs": len(asked),
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "ratio of CPU seconds": round(statistics.median(cpu_ratios), 4),
        "share of the wall time outside units": round(statistics.median(idle), 4),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/engine_cpu.json"))
    args = parser.parse_args()
    model = rushes.load("toy")
    asked = requests(model)
    print("one job:")
    one = pairs(model, asked[:1], args.pairs)
    print(f"{NUM_JOBS} jobs:")
    eight = pairs(model, asked, max(3, args.pairs // 2))
    about = {
        "device": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "clip": SIZE,
    }
    args.out.write_text(json.dumps({"about": about, "one job": one, "eight jobs": eight}, indent=1) + "\n")
    overhead = one["ratio"] - 1
    print(
        f"scheduling overhead {overhead:+.1%} of a job (goal {OVERHEAD_GOAL:.0%}); "
        f"outside units {one['share of the wall time outside units']:.1%}"
    )
    print(f"{NUM_JOBS} jobs at once: {eight['ratio']:.3f} x serial (goal {SERIAL_GOAL})")
    return int(overhead > OVERHEAD_GOAL or eight["ratio"] > SERIAL_GOAL)


if __name__ == "__main__":
    raise SystemExit(main())
