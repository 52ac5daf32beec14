"""The engine on one GPU, every part through `LocalEngine`: urgent jobs, batches, promises, overlap, memory.

    python -m benchmarks.engine_gpu --commit $(git rev-parse --short HEAD)

Wan at its true shapes with random weights, and the toy. Figures go to `$OUT/engine_gpu.json` (default
benchmarks/results), goals and verdicts into the table printed last. Within five minutes on an H200. `--tiny`
runs every part on the CPU in shapes that prove nothing but the code.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from benchmarks.engine_gpu_models import Bench
from benchmarks.gpu_report import Report, about_machine

from benchmarks import engine_gpu_cost as costs
from benchmarks import engine_gpu_parts as parts

Part = Callable[..., None]
"""Called with the report and `bench`."""


def all_parts() -> dict[str, tuple[Part, float]]:
    """Parts in the order in which they run, by model, with the seconds that each takes on an H200."""
    return {
        "preempt": (parts.preempt, 48.0),
        "batch2": (parts.batch_of_two, 33.0),
        "cost-a14b": (partial(costs.cost, kind="a14b"), 45.0),
        "capacity-a14b": (partial(costs.capacity, kind="a14b", bound_s=19.5), 25.0),
        "cost-5b": (partial(costs.cost, kind="ti2v-5b"), 45.0),
        "overlap": (parts.overlap, 75.0),
        "overlap-exact": (parts.overlap_exact, 110.0),
        "capacity-5b": (partial(costs.capacity, kind="ti2v-5b", bound_s=13.5), 20.0),
        "cost": (costs.cost_of_all, 0.0),
        "cap24": (parts.cap24, 30.0),
        "toy8": (parts.toy8, 15.0),
        "capacity-toy": (costs.toy_capacity, 8.0),
    }


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    names = list(all_parts())
    parser = argparse.ArgumentParser(description="The engine on one GPU, random weights")
    parser.add_argument("--commit", default="unknown", help="of the code, kept with the figures")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--only", action="append", default=[], choices=names, help="may be repeated")
    parser.add_argument("--skip", action="append", default=[], choices=names, help="may be repeated")
    parser.add_argument("--seconds", type=float, default=320.0, help="begin nothing that would end later")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts; 1 when one of them failed. A goal that is missed is a result, not a failure."""
    asked = arguments(argv)
    device = torch.device("cpu" if asked.tiny else "cuda")
    about = {"commit": asked.commit, "tiny": asked.tiny, **about_machine(device)}
    report = Report(
        Path(os.environ.get("OUT", "benchmarks/results")) / "engine_gpu.json", about, asked.seconds
    )
    bench = Bench(device, tiny=asked.tiny)
    for name, (part, expected_s) in all_parts().items():
        if name in asked.skip or (asked.only and name not in asked.only):
            report.skip(name)
        else:
            report.part(name, partial(part, bench=bench), expected_s=0.0 if asked.tiny else expected_s)
    report.print_table()
    print_goals(report)
    return int(report.has_failed)


def print_goals(report: Report) -> None:
    """What was measured against its goal, one row each."""
    print()
    for row in report.content.get("goals", ()):
        print(f"{row['verdict']:8} {row['what']}: {row['measured']}  [{row['goal'] or 'no goal'}]")


if __name__ == "__main__":
    sys.exit(main())
