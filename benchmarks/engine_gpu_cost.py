"""Parts of `benchmarks.engine_gpu`: the cost model against the device, and how many clips a card makes."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.engine_gpu_models import PIPELINES, PROMPT, Bench
from benchmarks.engine_gpu_session import (
    Session,
    Submitted,
    jobs_of,
    judge,
    peak_bytes,
    reset_peak,
    seconds,
)
from benchmarks.gpu_report import Report

from rushes.engine.memory import DeviceMemory, weights_bytes
from rushes.engine.planner import CostPlanner
from rushes.types import GenerateRequest

GB = 1e9
STAGES = ("text_encode", "denoise", "vae_decode")
PUBLISHED_BATCH, PUBLISHED_QPS = 4, 30.0
MOST = 4096

WARM_FRAMES = 9
"""Of the clip that is run once at every size of a picture before it is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One clip of the cost model's test."""

    width: int
    height: int
    num_frames: int
    steps: int
    guided: bool = False


def _asked(*rows: tuple[int, int, int, int, bool]) -> tuple[Asked, ...]:
    return tuple(Asked(width=w, height=h, num_frames=f, steps=s, guided=g) for w, h, f, s, g in rows)


CALIBRATION: Mapping[str, tuple[Asked, ...]] = {
    "a14b": _asked(
        (480, 272, 17, 3, True), (640, 368, 33, 2, False), (768, 432, 49, 1, False), (1280, 704, 13, 1, False)
    ),
    "ti2v-5b": _asked(
        (512, 320, 25, 3, True), (768, 448, 41, 2, False), (1024, 576, 57, 2, False), (1216, 704, 17, 2, True)
    ),
}
"""Neither size nor frames of any test."""

TESTS: Mapping[str, tuple[Asked, ...]] = {
    "a14b": _asked(
        (832, 480, 81, 1, False),
        (832, 480, 61, 1, False),
        (832, 480, 29, 1, True),
        (832, 480, 21, 3, False),
        (480, 832, 37, 1, False),
        (960, 544, 25, 1, False),
        (704, 400, 45, 2, False),
        (512, 288, 65, 1, True),
        (1280, 720, 21, 1, False),
        (624, 352, 25, 3, True),
        (400, 400, 9, 4, True),
    ),
    "ti2v-5b": _asked(
        (1280, 704, 121, 1, False),
        (1280, 704, 49, 2, False),
        (1280, 704, 21, 3, True),
        (704, 1280, 33, 2, False),
        (832, 480, 81, 3, False),
        (832, 480, 33, 3, True),
        (960, 544, 45, 3, False),
        (640, 352, 65, 4, False),
        (480, 288, 37, 3, True),
        (1088, 608, 29, 2, False),
        (512, 512, 53, 3, False),
    ),
}

CLIPS = {"a14b": (832, 480, 81), "ti2v-5b": (1280, 704, 121)}
STEPS = {"a14b": 4, "ti2v-5b": 3}
"""Of the distilled presets."""


def cost(report: Report, bench: Bench, kind: str) -> None:
    """Predicted against measured seconds and peak memory of clips that the cost model has not seen.

    The engine learns from the calibration as from any jobs. Predictions are those made before the first
    test; "online" ones are made right before each test, by which time the engine has learned from the tests
    before.
    """
    of_kind = TESTS[kind][:5] if bench.tiny else TESTS[kind]
    with Session(bench.model(kind)) as session:
        begin = time.perf_counter()
        for number, asked in enumerate(CALIBRATION[kind]):
            session.run(_request(bench, asked, f"{PROMPT} {number}"))
        report.add("calibration", time.perf_counter() - begin, "s")
        tests = [_request(bench, asked, f"{PROMPT}, test {n}") for n, asked in enumerate(of_kind)]
        before = [_predicted(session.planner, request) for request in tests]
        begin = time.perf_counter()
        rows, warm = [], set[tuple[int, int]]()
        for asked, request, predicted in zip(of_kind, tests, before, strict=True):
            if not session.planner.memory.fits(request):
                report.add(f"{asked}", "skipped: does not fit here")
                continue
            if (asked.width, asked.height) not in warm:
                warm.add((asked.width, asked.height))
                session.run(_request(bench, replace(asked, num_frames=WARM_FRAMES, steps=1, guided=False)))
            rows.append(_measured(bench, session, request, predicted))
        report.add("tests", time.perf_counter() - begin, "s")
    report.content.setdefault("cost", {})[kind] = rows
    errors = [abs(row["error"]) for row in rows]
    judge(report, f"cost: {kind}, p90 error of a job's seconds", _percent(_quantile(errors, 0.9)), "", None)


def _request(bench: Bench, asked: Asked, prompt: str = PROMPT) -> GenerateRequest:
    clip = bench.clip(asked.width, asked.height, asked.num_frames)
    return bench.request(clip, asked.steps, guided=asked.guided, prompt=prompt)


def _predicted(planner: CostPlanner, request: GenerateRequest) -> dict[str, float]:
    """Numbers, which no later lesson changes."""
    forecast = planner.forecast(request)
    found = {stage: forecast.stages[stage].total_s for stage in STAGES}
    return {**found, "job": forecast.total_s, "peak": planner.memory.needed_bytes([request])}


def _measured(
    bench: Bench, session: Session, request: GenerateRequest, predicted: Mapping[str, float]
) -> dict[str, Any]:
    online = _predicted(session.planner, request)
    reset_peak(bench.device)
    job = session.run(request)
    peak = peak_bytes(bench.device)
    actual = {stage: seconds(session.units.over(stage, job.id)) for stage in STAGES}
    actual["job"] = sum(actual.values())
    video, sampling = request.video, request.sampling
    row: dict[str, Any] = {
        "clip": f"{video.width}x{video.height}x{video.num_frames}",
        "steps": sampling.num_inference_steps,
        "guided": sampling.guidance_high != 1.0,
        "seconds": {name: round(value, 4) for name, value in actual.items()},
        "predicted": {name: round(predicted[name], 4) for name in actual},
        "error": predicted["job"] / actual["job"] - 1,
        "denoise error": predicted["denoise"] / actual["denoise"] - 1,
        "decode error": predicted["vae_decode"] / actual["vae_decode"] - 1,
        "online error": online["job"] / actual["job"] - 1,
        "peak": peak,
        "predicted peak": predicted["peak"],
        "weights": session.planner.memory.weights_bytes,
    }
    print(f"    {row['clip']:14} {sampling.num_inference_steps} steps: {_row(row)}", flush=True)
    return row


def _row(row: Mapping[str, Any]) -> str:
    took = row["seconds"]
    errors = ", ".join(f"{name} {row[name]:+.1%}" for name in ("error", "denoise error", "decode error"))
    peaks = f"peak {row['peak'] / GB:.2f} GB, predicted {row['predicted peak'] / GB:.2f}"
    stages = f"denoise {took['denoise']:.2f}, decode {took['vae_decode']:.2f}"
    return f"{took['job']:.2f} s ({stages}), {errors}, {peaks}"


def cost_of_all(report: Report, bench: Bench) -> None:
    """The errors over the tests of both models."""
    rows = [row for of_kind in report.content.get("cost", {}).values() for row in of_kind]
    report.add("shapes", len(rows))
    if not rows:
        return
    for name in ("error", "denoise error", "decode error", "online error"):
        errors = [abs(row[name]) for row in rows]
        report.add(f"{name}: p50, p90", [_percent(_quantile(errors, share)) for share in (0.5, 0.9)])
    p90 = _quantile([abs(row["error"]) for row in rows], 0.9)
    judge(
        report,
        f"cost: p90 error of a job's seconds, {len(rows)} shapes",
        _percent(p90),
        "<= 15 %",
        p90 <= 0.15,
    )
    if bench.device.type != "cuda":
        report.add("peak memory", "not known on a CPU")
        return
    off = max(abs(row["predicted peak"] / row["peak"] - 1) for row in rows)
    beside = max(abs((row["predicted peak"] - row["peak"]) / (row["peak"] - row["weights"])) for row in rows)
    report.add("worst error of peak memory, weights aside", _percent(beside))
    under = max((row["peak"] - row["predicted peak"]) / GB for row in rows)
    judge(report, "cost: worst error of peak memory", _percent(off), "<= 10 %", off <= 0.1)
    judge(report, "cost: most above the predicted peak", f"{under:.2f} GB", "<= 1 GB", under <= 1.0)


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _percent(share: float) -> str:
    return f"{share:.1%}"


def capacity(report: Report, bench: Bench, kind: str, bound_s: float) -> None:
    """The largest batch of the model's own clip that fits, a step of it, and the clips a second that follow.

    Args:
        bound_s: a batch whose step is expected to take longer is measured at a smaller size.
    """
    model = bench.model(kind)
    width, height, num_frames = CLIPS[kind]
    request, steps = bench.request(bench.clip(width, height, num_frames), 1), STEPS[kind]
    hold = bench.request(bench.clip(width, height, 5), 40 if kind == "ti2v-5b" else 8)
    with Session(model) as session:
        session.run(hold)
        step_s, decode_s = _alone(session, request)
        fitting, missing = _largest_batch(session.planner, kind, request, hold)
    report.add("one clip: step, decode", [round(step_s, 3), round(decode_s, 3)], "s")
    report.add("largest batch that fits, predicted", fitting)
    size = max(1, min(fitting, 3 if bench.tiny else int(bound_s / step_s)))
    requests = [replace(request, sampling=replace(request.sampling, seed=n)) for n in range(size)]
    with Session(model, max_batch=size, max_active=size + 2) as session:
        reset_peak(bench.device)
        jobs = session.denoise_together(requests, hold)
        peak = peak_bytes(bench.device) + missing
        predicted = session.planner.memory.needed_bytes(requests) + missing
        units = session.units.over("denoise", *(job.id for job in jobs))
    unit = max(units, key=lambda unit: len(jobs_of(unit)))
    together = len(jobs_of(unit))
    report.add("measured batch, its step", [together, round(unit.seconds, 3)], "jobs, s")
    report.add("its peak memory: measured, predicted", [round(peak / GB, 2), round(predicted / GB, 2)], "GB")
    per_clip_s = steps * unit.seconds / together
    speeds = {
        "one at a time": 1 / (steps * step_s + decode_s),
        f"batch of {together}": 1 / (per_clip_s + decode_s),
    }
    for way, speed in speeds.items():
        report.add(f"clips of {steps} steps a second, {way}", speed)
    _tell_capacity(report, kind, f"{fitting}, {together} measured", max(speeds.values()))


def _alone(session: Session, request: GenerateRequest) -> tuple[float, float]:
    """Seconds of the clip's only step, and of its whole decode as its first units tell."""
    job = session.submit(request)
    stride = session.model.rules.temporal_stride
    num_units = (request.video.num_frames - 1) // stride + 1
    seen = min(5, num_units)
    session.until(lambda: len(session.units.over("vae_decode", job.id)) >= seen, job)
    session.cancel(job)
    decodes = [unit.seconds for unit in session.units.over("vae_decode", job.id)]
    rest_s = statistics.median(decodes[1:]) * (num_units - 1)
    return seconds(session.units.over("denoise", job.id)), decodes[0] + rest_s


def _largest_batch(
    planner: CostPlanner, kind: str, request: GenerateRequest, hold: GenerateRequest
) -> tuple[int, int]:
    """Jobs of one batch that fit beside the weights of both noise experts, and the bytes of the one that is
    not here. `hold` must fit too, since the measurement needs it."""
    shape = planner.cost.shape(PIPELINES.get(kind, kind))
    true = replace(shape, is_swapped=False)
    fitting = 0
    for size in (*range(1, 65), *(2**n for n in range(7, MOST.bit_length()))):
        memory = DeviceMemory(
            {request.pipeline: true},
            planner.memory.budget_bytes,
            reserve_bytes=planner.memory.reserve_bytes,
            max_batch=size,
        )
        if not memory.fits(request, [*[request] * (size - 1), hold]):
            break
        fitting = size
    return fitting, weights_bytes(true) - weights_bytes(shape)


def _tell_capacity(report: Report, kind: str, batch: str, speed: float) -> None:
    cards = PUBLISHED_QPS / speed
    shown = f"batch {batch}; {speed:.3g} clips/s; {PUBLISHED_QPS:g} a second take {cards:.1f} cards"
    judge(
        report, f"capacity: {kind}", shown, f"published: batch {PUBLISHED_BATCH}, {PUBLISHED_QPS:g} QPS", None
    )


def toy_capacity(report: Report, bench: Bench) -> None:
    """Whole clips of the toy, many at once."""
    model = bench.model("toy")
    num = 2 if bench.tiny else 64
    size = {"width": 64, "height": 64, "num_frames": 5} if bench.tiny else {}
    asked = [
        model.job(f"{n} blue cats spin", preset="few-step-4", seed=n, **size).request for n in range(num)
    ]
    with Session(model, max_batch=num, max_active=num) as session:
        fitting, _ = _largest_batch(session.planner, "toy", asked[0], asked[0])
        report.add(f"largest batch that fits, predicted, {MOST} at most", fitting)
        _all_at_once(session, asked[:8])
        reset_peak(bench.device)
        jobs, wall_s = _all_at_once(session, asked)
        peak = peak_bytes(bench.device)
        units = session.units.over("denoise", *(job.id for job in jobs))
        largest = max(len(jobs_of(unit)) for unit in units)
        for stage in STAGES:
            spent = session.units.over(stage, *(job.id for job in jobs))
            report.add(f"{num} clips, {stage}: units, seconds", [len(spent), round(seconds(spent), 3)])
        report.add(f"{num} clips at once", wall_s, "s")
        report.add("peak memory", peak / GB, "GB")
    _tell_capacity(report, "toy", f"{fitting}, {largest} measured", num / wall_s)


def _all_at_once(session: Session, asked: Sequence[GenerateRequest]) -> tuple[list[Submitted], float]:
    begin = time.perf_counter()
    jobs = [session.submit(request) for request in asked]
    session.wait(*jobs)
    return jobs, time.perf_counter() - begin
