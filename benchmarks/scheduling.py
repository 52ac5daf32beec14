"""Scheduling by solver step against whole jobs first come first served: `make bench-scheduling`.

    python -m benchmarks.scheduling

Simulates one H200 (see `benchmarks.scheduling_simulation`) at 0.5, 0.8, 1.0 and 2.0 times its capacity, with
5,000 jobs for each of 5 seeds; prints a table and the goals, writes every figure to
benchmarks/results/scheduling.json, and ends with status 1 when a goal falls short.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.scheduling_capacity import Capacity, capacities, lines
from benchmarks.scheduling_simulation import (
    KINDS,
    NUM_TENANTS,
    SPREAD,
    SimulatedJob,
    arrivals,
    mean_job_s,
    run_fcfs,
    run_rushes,
    units_of,
)

from rushes.types import Lane

LOADS = (0.5, 0.8, 1.0, 2.0)
NUM_JOBS, NUM_SEEDS = 5000, 5
RESULTS = Path(__file__).parent / "results" / "scheduling.json"

STUDENT_T = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}
"""Two-sided 95 % quantiles for the mean of so many samples."""

Figures = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A figure at a load and what it must be, in the mean over the seeds."""

    load: float
    figure: str
    least: float = -math.inf
    most: float = math.inf

    def is_met(self, value: float) -> bool:
        """Whether `value` lies within."""
        return self.least <= value <= self.most

    @property
    def bounds(self) -> str:
        """In words."""
        if self.least == -math.inf:
            return f"<= {self.most:g}"
        return f">= {self.least:g}" if self.most == math.inf else f"{self.least:g} to {self.most:g}"


GOALS = (
    Goal(load=0.8, figure="first frame p95, ours / FCFS", most=0.2),
    Goal(load=0.8, figure="batch goodput, ours / FCFS", least=0.97),
    Goal(load=2.0, figure="interactive, took / ETA p99", most=1.3),
    Goal(load=2.0, figure="batch, took / ETA p99", most=1.3),
    Goal(load=2.0, figure="goodput / capacity", least=0.9),
    Goal(load=2.0, figure="interactive, took / ETA median", least=0.75, most=1.1),
    Goal(load=2.0, figure="batch, took / ETA median", least=0.75, most=1.1),
)


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed; nan for none."""
    ordered = sorted(values)
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else math.nan


def goodput_s(jobs: Iterable[SimulatedJob], until: float, lane: Lane | None = None) -> float:
    """Device seconds of jobs that were finished in time."""
    return sum(
        job.seconds
        for job in jobs
        if job.finished_at is not None and job.finished_at <= until and lane in (None, job.kind.lane)
    )


def figures_of(load: float, num_jobs: int, seed: int) -> Figures:
    """One simulation. Work counts as done when its job is finished before the last arrival."""
    jobs = arrivals(load, num_jobs, seed)
    until = jobs[-1].arrived_at
    rivals, ours = run_fcfs(jobs), run_rushes(jobs)
    figures: Figures = {"jobs": len(jobs), "units": sum(job.units_done for job in ours)}
    p95 = [
        quantile((j.first_frame_s for j in run if j.kind.lane == "interactive" and j.first_frame_at), 0.95)
        for run in (ours, rivals)
    ]
    figures["first frame p95, ours [s]"], figures["first frame p95, FCFS [s]"] = p95
    figures["first frame p95, ours / FCFS"] = p95[0] / p95[1]
    figures["batch goodput, ours / FCFS"] = goodput_s(ours, until, "batch") / goodput_s(
        rivals, until, "batch"
    )
    figures["goodput / capacity"] = goodput_s(ours, until) / until
    for lane in ("interactive", "batch"):
        figures |= _promises(lane, [job for job in ours if job.kind.lane == lane])
    return figures


def _promises(lane: str, jobs: Sequence[SimulatedJob]) -> Figures:
    taken = [job for job in jobs if job.eta_s is not None]
    lateness = [job.lateness for job in taken]
    offered_s, taken_s = (sum(job.seconds for job in some) for some in (jobs, taken))
    return {
        f"{lane}, took / ETA median": quantile(lateness, 0.5),
        f"{lane}, took / ETA p99": quantile(lateness, 0.99),
        f"{lane}, took / ETA largest": max(lateness),
        f"{lane}, mean ETA [s]": statistics.fmean(job.eta_s or 0.0 for job in taken),
        f"{lane}, refused jobs": 1 - len(taken) / len(jobs),
        f"{lane}, refused seconds": 1 - taken_s / offered_s,
    }


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, STUDENT_T[len(values)] * statistics.stdev(values) / math.sqrt(len(values))


def simulate(num_jobs: int, num_seeds: int, num_processes: int) -> dict[float, list[Figures]]:
    """The figures of every seed, by load."""
    tasks = list(product(LOADS, range(1, num_seeds + 1)))
    with ProcessPoolExecutor(num_processes) as pool:
        futures = [pool.submit(figures_of, load, num_jobs, seed) for load, seed in tasks]
        found = [future.result() for future in futures]
    return {load: [f for (of, _), f in zip(tasks, found, strict=True) if of == load] for load in LOADS}


def table(found: dict[float, list[Figures]]) -> Iterator[str]:
    """One row a figure, one column a load: mean over the seeds and its 95 % interval."""
    yield f"{'':36}" + "".join(f"{f'load {load:g}':>20}" for load in LOADS)
    for name in found[LOADS[0]][0]:
        cells = (interval([figures[name] for figures in found[load]]) for load in LOADS)
        yield f"{name:36}" + "".join(f"{f'{mean:.5g} ±{half:.2g}':>20}" for mean, half in cells)


def verdicts(found: dict[float, list[Figures]]) -> list[tuple[Goal, float, bool]]:
    """Every goal with the mean over the seeds, and whether it is met."""
    means = [interval([figures[goal.figure] for figures in found[goal.load]])[0] for goal in GOALS]
    return [(goal, mean, goal.is_met(mean)) for goal, mean in zip(GOALS, means, strict=True)]


def content_of(
    found: dict[float, list[Figures]], rows: Sequence[Capacity], num_jobs: int, seconds: float
) -> dict[str, Any]:
    """What is written."""
    return {
        "what": "simulation of one H200; stage times from facts/h200.md (plain diffusers, eager bf16)",
        "mix": {
            kind.name: {
                "share": kind.share,
                "lane": kind.lane,
                "seconds": sum(u.seconds for u in units_of(kind)),
            }
            for kind in KINDS
        },
        "mean_job_s": mean_job_s(),
        "tenants": NUM_TENANTS,
        "service_spread": SPREAD,
        "jobs_per_seed": num_jobs,
        "seconds": round(seconds, 1),
        "goals": [
            {"load": goal.load, "figure": goal.figure, "goal": goal.bounds, "mean": mean, "is_met": is_met}
            for goal, mean, is_met in verdicts(found)
        ],
        "loads": {str(load): rows for load, rows in found.items()},
        "capacity_predicted": [row.to_json() for row in rows],
    }


def report(
    found: dict[float, list[Figures]], rows: Sequence[Capacity], seconds: float, show: Callable[[str], None]
) -> bool:
    """Show the tables and, last, what they come to; whether every goal is met."""
    for line in (*lines(rows), "", *table(found), ""):
        show(line)
    goals = verdicts(found)
    for goal, mean, is_met in goals:
        show(
            f"load {goal.load:g}: {goal.figure} {mean:.3f}, goal {goal.bounds}{'' if is_met else '  MISSED'}"
        )
    refused = statistics.fmean(f["batch, refused seconds"] for f in found[2.0])
    num_missed = sum(not is_met for _, _, is_met in goals)
    values = {(goal.load, goal.figure): mean for goal, mean, _ in goals}
    show(
        f"at 0.8: first frame {1 / values[0.8, 'first frame p95, ours / FCFS']:.0f}x sooner than FCFS (p95),"
        f" batch goodput {values[0.8, 'batch goodput, ours / FCFS']:.3f}; at 2.0: took/ETA p99"
        f" {values[2.0, 'batch, took / ETA p99']:.2f}, goodput {values[2.0, 'goodput / capacity']:.3f},"
        f" {refused:.0%} of the seconds refused"
    )
    show(f"{num_missed or 'no'} goals missed, {seconds:.0f} s")
    return num_missed == 0


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every goal is met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=NUM_JOBS, help="a seed and load")
    parser.add_argument("--seeds", type=int, default=NUM_SEEDS, choices=range(1, 6))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    begin = time.perf_counter()
    found = simulate(options.jobs, options.seeds, options.processes)
    seconds = time.perf_counter() - begin
    rows = list(capacities())
    content = content_of(found, rows, options.jobs, seconds)
    options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return 0 if report(found, rows, seconds, print) else 1


if __name__ == "__main__":
    sys.exit(main())
