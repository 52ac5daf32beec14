"""What profiling costs: clips under the profiler's spans and clips without, taking turns.

    python -m benchmarks.profile_overhead --pairs 10 --steps 4

Prints the median of the ratios of pairs, and what a span costs while nobody listens. The recording of
operators is a run of its own and no part of this.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter, perf_counter_ns, process_time
from typing import Any

import rushes
from rushes.pipelines.base import run
from rushes.pipelines.model import Model
from rushes.profiling.bench.about import about
from rushes.profiling.clip import Ask, run_clip
from rushes.profiling.device import device_for
from rushes.stages.video_encode import VideoWriter
from rushes.trace import span

Seconds = tuple[float, float]
"""Of the wall clock, and of this process's processor time, which other programs do not change much."""


def plain_s(net: Model, ask: Ask) -> Seconds:
    """A clip as `rushes generate` makes it, nobody listening."""
    embeddings = net.pipeline.embeddings
    kept, embeddings.max_bytes = embeddings.max_bytes, 0
    with tempfile.TemporaryDirectory() as folder:
        net.pipeline.synchronize()
        begin, cpu = perf_counter(), process_time()
        job = net.job(ask.prompt, **ask.fields)
        with VideoWriter(Path(folder) / "clip.mp4", **asdict(job.request.video)) as writer:
            for _ in run(net.pipeline, job):
                while job.frames:
                    writer.write(job.frames.popleft().frames)
        net.pipeline.synchronize()
        seconds = perf_counter() - begin, process_time() - cpu
    embeddings.max_bytes = kept
    return seconds


def profiled_s(net: Model, ask: Ask) -> tuple[Seconds, int]:
    """The same under spans, and how many spans there were."""
    device = device_for(net.device)
    begin, cpu = perf_counter(), process_time()
    clip = run_clip(net, ask, device, is_short=False)
    seconds = perf_counter() - begin, process_time() - cpu
    return seconds, len(clip.times)


def span_ns(number: int = 100_000) -> float:
    """Nanoseconds of a span that nobody hears; the fastest of five counts."""

    def count() -> float:
        begin = perf_counter_ns()
        for step in range(number):
            with span("denoise", step=step, expert="high"):
                pass
        return (perf_counter_ns() - begin) / number

    return min(count() for _ in range(5))


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="cost of profiling")
    parser.add_argument("--model", default="toy")
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--height", type=int, default=128)
    return parser.parse_args(argv)


def take_pairs(net: Model, ask: Ask, number: int) -> list[tuple[Seconds, Seconds]]:
    """Clips without and with spans, each going first in turn."""
    pairs = []
    for index in range(number):
        order = (False, True) if index % 2 else (True, False)
        seconds = {is_on: profiled_s(net, ask)[0] if is_on else plain_s(net, ask) for is_on in order}
        pairs.append((seconds[False], seconds[True]))
        (plain, plain_cpu), (profiled, profiled_cpu) = pairs[-1]
        clocks = f"processor {plain_cpu:.3f} and {profiled_cpu:.3f} s"
        print(f"pair {index + 1}: {plain:.3f} s plain, {profiled:.3f} s profiled; {clocks}", flush=True)
    return pairs


def overhead(net: Model, ask: Ask, num_pairs: int) -> dict[str, Any]:
    """Pairs after one of each that warms up, and what follows from them."""
    plain_s(net, ask)
    num_spans = profiled_s(net, ask)[1]
    pairs = take_pairs(net, ask, num_pairs)
    wall, cpu = ([profiled[clock] / plain[clock] for plain, profiled in pairs] for clock in (0, 1))
    off_ns = span_ns()
    return {
        "fields": dict(ask.fields),
        "pairs_s": pairs,
        "ratio_median": statistics.median(wall),
        "processor_ratio_median": statistics.median(cpu),
        "spans_per_clip": num_spans,
        "span_off_ns": off_ns,
        "spans_off_share": num_spans * off_ns / 1e9 / statistics.median(plain[0] for plain, _ in pairs),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the pairs and print one JSON object."""
    asked = arguments(argv)
    net = rushes.load(asked.model)
    sizes = {"width": asked.width, "height": asked.height, "num_frames": asked.frames}
    fields = {**sizes, "num_inference_steps": asked.steps, "seed": 7}
    ask = Ask(prompt="a dog running in the park", fields=fields)
    print(json.dumps({"about": about(net.device), **overhead(net, ask, asked.pairs)}, indent=2))


if __name__ == "__main__":
    main()
