"""Parts of `benchmarks.engine_gpu`: an urgent job, a batch of two, jobs side by side, 24 GB, eight toys."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from benchmarks.engine_gpu_models import CAP_BYTES, PROMPT, Bench, Clip
from benchmarks.engine_gpu_session import Session, Submitted, jobs_of, judge, peak_bytes, reset_peak, seconds
from benchmarks.gpu_report import Report

from rushes.engine.tickets import Policy
from rushes.models.checkpoint_report import memory_need
from rushes.models.device_memory import free_device_bytes
from rushes.pipelines.base import run
from rushes.pipelines.device import PUBLISHED, host_memory
from rushes.pipelines.model import Model
from rushes.stages.base import Given
from rushes.trace import Span
from rushes.types import Frames, GenerateRequest

GB = 1e9
SLACK_S = 0.05
"""What the host may take between two units."""


def warm_up(bench: Bench, session: Session, *sizes: tuple[int, int]) -> None:
    """A short clip of each size: libraries are loaded, kernels chosen."""
    for width, height in sizes:
        session.run(bench.request(bench.clip(width, height, 9), 2))


def preempt(report: Report, bench: Bench) -> None:
    """An interactive 480p job arrives while a 720p job of the batch lane is in its first step."""
    with Session(bench.model("a14b")) as session:
        warm_up(bench, session, (832, 480))
        long = bench.request(bench.clip(1280, 720, 81), 80 if bench.tiny else 4)
        short = bench.request(bench.clip(832, 480, 81), 4, seed=8)
        if not session.planner.fits(short, [long]):
            judge(report, "preempt", "skipped: the two do not fit together here", "", None)
            return
        batch = session.submit(long)
        session.until(lambda: session.units.is_running("denoise", batch.id), batch)
        time.sleep(0.3 * session.planner.forecast(long).unit_s("denoise", 0) * (not bench.tiny))
        first_frames: list[int] = []
        urgent = session.submit(
            short, lane="interactive", on_frames=lambda frames: first_frames.append(time.perf_counter_ns())
        )
        session.wait(urgent)
        session.until_denoised(2, batch)  # the displaced job goes on
        session.cancel(batch)
        _tell_preemption(report, session, batch, urgent, first_frames[0])


def _tell_preemption(
    report: Report, session: Session, batch: Submitted, urgent: Submitted, first_frame_ns: int
) -> None:
    theirs, ours = (session.units.over("denoise", job.id) for job in (batch, urgent))
    running = [unit for unit in theirs if unit.start_ns <= urgent.at_ns < unit.end_ns]
    step_s = running[0].seconds if running else max(unit.seconds for unit in theirs)
    waited_s = (ours[0].start_ns - urgent.at_ns) / 1e9
    report.add("the displaced job's step", step_s, "s")
    report.add("the urgent job's step, median", statistics.median(unit.seconds for unit in ours), "s")
    report.add("submitted in the displaced job's step", len(running) == 1)
    report.add("from submit to the first step's begin", waited_s, "s")
    report.add("from submit to the first step's end", (ours[0].end_ns - urgent.at_ns) / 1e9, "s")
    report.add("from submit to the first frame", (first_frame_ns - urgent.at_ns) / 1e9, "s")
    if running:
        report.add(
            "from the end of the step in work to the first step",
            (ours[0].start_ns - running[0].end_ns) / 1e9,
            "s",
        )
    between = [unit for unit in theirs if ours[0].start_ns < unit.start_ns < ours[-1].start_ns]
    report.add("steps of the displaced job between the urgent one's", len(between))
    report.add("steps of the displaced job afterwards", sum(u.start_ns > ours[-1].start_ns for u in theirs))
    goal = f"<= one step of the displaced job, {step_s:.2f} s"
    is_met = waited_s <= step_s + SLACK_S
    judge(report, "preempt: the urgent job's first step begins after", f"{waited_s:.2f} s", goal, is_met)


def batch_of_two(report: Report, bench: Bench) -> None:
    """Two 480p jobs of two steps, one after the other and in one batch."""
    model = bench.model("a14b")
    requests = [bench.request(bench.clip(832, 480, 81), 2, seed=seed) for seed in (1, 2)]
    hold = bench.request(bench.clip(832, 480, 5), 4)
    with Session(model) as session:
        warm_up(bench, session, (832, 480))
        predicted_row = session.planner.memory.needed_bytes(requests[:1])
        reset_peak(bench.device)
        row: list[Span] = []
        for request in requests:
            job = session.submit(request)
            session.until_denoised(2, job)
            session.cancel(job)
            row += session.units.over("denoise", job.id)
        row_peak = peak_bytes(bench.device)
    with Session(model, max_batch=2) as session:
        session.run(hold)
        predicted = session.planner.memory.needed_bytes(requests)
        reset_peak(bench.device)
        jobs = session.denoise_together(requests, hold)
        peak = peak_bytes(bench.device)
        units = session.units.over("denoise", *(job.id for job in jobs))
    report.add("in a row, each step", [round(unit.seconds, 3) for unit in row], "s")
    report.add("in one batch, each step", [round(unit.seconds, 3) for unit in units], "s")
    report.add("steps that were shared", sum(len(jobs_of(unit)) == 2 for unit in units))
    report.add("in a row, peak memory: measured, predicted", _both_gb(row_peak, predicted_row), "GB")
    report.add("in one batch, peak memory: measured, predicted", _both_gb(peak, predicted), "GB")
    shared = [unit.seconds for unit in units if len(jobs_of(unit)) == 2] or [0.0]
    ratio = min(shared) / (2 * min(unit.seconds for unit in row))
    judge(report, "batch2: a step of two over two steps", f"{ratio:.3f}", "", None)


def _both_gb(measured: int, predicted: int) -> list[float]:
    return [round(measured / GB, 2), round(predicted / GB, 2)]


def overlap(report: Report, bench: Bench) -> None:
    """Two 5B jobs at once against one after the other, in turn; then a slow reader.

    The first of each pair takes three steps, and longer in the VAE. The other one is equal, or a draft whose
    steps are so small that the host can hardly launch them as fast as the device runs them.
    """
    with Session(bench.model("ti2v-5b")) as session:
        warm_up(bench, session, (1280, 704), (480, 288))
        long, middle = bench.clip(1280, 704, 121), bench.clip(1280, 704, 45)
        draft = bench.clip(480, 288, 37)

        def job(clip: Clip, seed: int, steps: int = 3, *, guided: bool = False) -> GenerateRequest:
            return bench.request(clip, steps, guided=guided, seed=seed, prompt=f"{PROMPT} {seed}")

        pairs = {
            "a clip beside a draft of 40 guided steps": (
                (job(long, 1), job(draft, 2, 4 if bench.tiny else 40, guided=True)),
            ),
            "two equal clips": ((job(long, 1), job(long, 2)), (job(middle, 1), job(middle, 2))),
        }
        for name, kinds in pairs.items():
            ratios = [_overlap_of(report, session, pair, turn=n) for n, pair in enumerate(kinds)]
            shown = " ".join(f"{ratio:.3f}" for ratio in ratios)
            judge(report, f"overlap: {name}, at once / in a row", shown, "<= 0.9, each", max(ratios) <= 0.9)
        slow_reader(report, bench, session)


def overlap_exact(report: Report, bench: Bench) -> None:
    """Two equal 5B clips of three steps, at once and in a row, by the passes of the plan exact."""
    sizes = ((256, 160, 21), (480, 288, 37), (640, 384, 61), (1280, 704, 121))
    with Session(bench.model("ti2v-5b-exact")) as session:
        for size in sizes:
            clip = bench.clip(*size)
            pair = [bench.request(clip, 3, seed=seed, prompt=f"{PROMPT} {seed}") for seed in (1, 2)]
            _at_once(session, pair)  # compiles
            ratio = _overlap_of(report, session, pair, rounds=1 if size[0] == 1280 else 7)
            name = f"overlap-exact: two clips of {clip.name}, at once / in a row"
            judge(report, name, f"{ratio:.3f}", "<= 0.9", ratio <= 0.9)


def _overlap_of(
    report: Report,
    session: Session,
    pair: Sequence[GenerateRequest],
    *,
    turn: int = 0,
    rounds: int = 1,
) -> float:
    orders = ((_in_a_row, _at_once), (_at_once, _in_a_row))
    found = [{way: way(session, pair) for way in orders[(turn + n) % 2]} for n in range(rounds)]
    wall_s, row_s = (statistics.median(each[way][1] for each in found) for way in (_at_once, _in_a_row))
    jobs, ratio = found[-1][_at_once][0], wall_s / row_s
    videos = [each.video for each in pair]
    first, second = (Clip(width=v.width, height=v.height, num_frames=v.num_frames).name for v in videos)
    name = first if first == second else f"{first} and {second}"
    report.add(f"{name}, in a row", row_s, "s")
    report.add(f"{name}, at once", wall_s, "s")
    report.add(f"{name}, at once / in a row", ratio)
    _tell_intervals(report, session, jobs, name)
    return ratio


def _at_once(session: Session, pair: Sequence[GenerateRequest]) -> tuple[list[Submitted], float]:
    begin = time.perf_counter()
    jobs = [session.submit(request) for request in pair]
    session.wait(*jobs)
    return jobs, time.perf_counter() - begin


def _in_a_row(session: Session, pair: Sequence[GenerateRequest]) -> tuple[list[Submitted], float]:
    begin = time.perf_counter()
    jobs = [session.run(request) for request in pair]
    return jobs, time.perf_counter() - begin


def _tell_intervals(report: Report, session: Session, jobs: Sequence[Submitted], name: str) -> None:
    """When the stages of both ran, and how many decodes of one lie within a step of the other."""
    start = jobs[0].at_ns
    stages = {}
    for number, job in enumerate(jobs, 1):
        for stage in ("denoise", "vae_decode"):
            units = session.units.over(stage, job.id)
            stages[number, stage] = units
            ends = [round((at - start) / 1e9, 3) for at in (units[0].start_ns, units[-1].end_ns)]
            report.add(f"{name}, job {number}, {stage} from, to", ends, "s")
            report.add(f"{name}, job {number}, {stage}, all units", seconds(units), "s")
    inside = sum(
        any(step.start_ns <= unit.start_ns and unit.end_ns <= step.end_ns for step in stages[2, "denoise"])
        for unit in stages[1, "vae_decode"]
    )
    report.add(f"{name}, decodes of job 1 within a step of job 2", inside)


def slow_reader(report: Report, bench: Bench, session: Session) -> None:
    """The first job's reader sleeps at every delivery: the second job must not notice."""
    clip = bench.clip(1280, 704, 33)
    nap_s = 0.02 if bench.tiny else 0.4
    pair = [bench.request(clip, 3, seed=seed) for seed in (3, 4)]
    ends = {}
    for name, nap in (("quick", 0.0), ("slow", nap_s)):
        naps = _Naps(nap)
        first = session.submit(pair[0], on_frames=naps)
        second = session.submit(pair[1])
        session.wait(second)
        ends[name] = (time.perf_counter_ns() - first.at_ns) / 1e9
        session.wait(first)
        report.add(
            f"{name} reader: second job's end, first job's end",
            [round(ends[name], 3), round((time.perf_counter_ns() - first.at_ns) / 1e9, 3)],
            "s",
        )
    ratio = ends["slow"] / ends["quick"]
    judge(
        report, "overlap: a job beside a slow reader / a quick one", f"{ratio:.3f}", "<= 1.05", ratio <= 1.05
    )


class _Naps:
    """Sleeps whenever frames come."""

    def __init__(self, nap_s: float) -> None:
        self._nap_s = nap_s

    def __call__(self, frames: Frames) -> None:
        time.sleep(self._nap_s)


def cap24(report: Report, bench: Bench) -> None:
    """5B at its own clip where the process may take 24 GB of the device, 2 of them to be spared."""
    bench.free()
    with bench.capped(CAP_BYTES):
        need = memory_need(PUBLISHED["wan2.2-ti2v-5b"], "bfloat16")
        residency = "streamed"
        if not bench.tiny:
            residency = str(need.fits(free_device_bytes(bench.device), host_memory()))
        report.add("what the rule at load says", residency)
        model = bench.model("ti2v-5b-streamed" if "streamed" in residency else "ti2v-5b")
        try:
            _run_capped(report, bench, model)
        finally:
            bench.free()


def _run_capped(report: Report, bench: Bench, model: Model) -> None:
    one = bench.request(bench.clip(1280, 704, 121), 2)
    pair = [bench.request(bench.clip(1280, 704, 33), 2, seed=seed) for seed in (1, 2)]
    with Session(model, max_batch=2) as session:
        memory = session.planner.memory
        if bench.tiny:  # no cap on a CPU: room for one job
            memory.budget_bytes = memory.needed_bytes([one])
        report.add("weights on the device, predicted", memory.weights_bytes / GB, "GB")
        report.add("budget, reserve", [round(memory.budget_bytes / GB, 2), memory.reserve_bytes / GB], "GB")
        reset_peak(bench.device)
        job = session.run(one)
        peak = peak_bytes(bench.device)
        for stage in ("text_encode", "denoise", "vae_decode"):
            report.add(f"{stage}, all units", seconds(session.units.over(stage, job.id)), "s")
        report.add("peak memory: measured, predicted", _both_gb(peak, memory.needed_bytes([one])), "GB")
        if bench.device.type == "cuda":
            report.add("peak reserved", torch.cuda.max_memory_reserved(bench.device) / GB, "GB")
        spare = (CAP_BYTES - peak) / GB
        is_met = spare >= 2 if bench.device.type == "cuda" else None  # a CPU's peak is not known
        judge(report, "cap24: 5B 704p121 runs, spare of 24 GB", f"{spare:.2f} GB", ">= 2 GB", is_met)
        report.add("the two fit together, predicted", memory.fits(pair[0], pair[1:]))
        jobs = [session.submit(request) for request in pair]
        session.wait(*jobs)
        lives = [_life(session, job) for job in jobs]
        is_apart = lives[0][1] <= lives[1][0] or lives[1][1] <= lives[0][0]
        report.add("peak memory with two submitted", peak_bytes(bench.device) / GB, "GB")
    how = "one after the other" if is_apart else "side by side"
    judge(report, "cap24: a batch of two", f"both completed, {how}", "refused or one by one", is_apart)


def _life(session: Session, job: Submitted) -> tuple[int, int]:
    """When a job's tensors were on the device."""
    stages = ("text_encode", "denoise", "vae_decode")
    units = [unit for stage in stages for unit in session.units.over(stage, job.id)]
    return min(unit.start_ns for unit in units), max(unit.end_ns for unit in units)


def toy8(report: Report, bench: Bench) -> None:
    """Eight toy clips at once against one after another, by the engine and by the library's own loop."""
    model = bench.model("toy")
    size = {"width": 64, "height": 64, "num_frames": 5} if bench.tiny else {}
    with Session(model, scheduling=Policy()) as session:
        for preset in ("few-step-4", "quality"):
            steps = 2 if bench.tiny and preset == "quality" else None
            asked = [
                model.job(f"{n + 1} red dogs spin", preset=preset, seed=n, **_given(size, steps)).request
                for n in range(2 if bench.tiny else 8)
            ]
            ratio = _eight(report, session, asked, preset, 1 if bench.tiny else 3)
            goal = "<= 0.35"
            judge(report, f"toy8: eight at once / in a row, {preset}", f"{ratio:.3f}", goal, ratio <= 0.35)


def _given(size: dict[str, int], steps: int | None) -> dict[str, int]:
    return size if steps is None else {**size, "num_inference_steps": steps}


def _eight(
    report: Report, session: Session, asked: list[GenerateRequest], preset: str, num_rounds: int
) -> float:
    for _ in range(min(2, num_rounds)):
        _at_once(session, asked)  # weights, kernels, and what a unit takes
    ways: dict[str, Callable[[], tuple[list[Submitted], float]]] = {
        "at once": lambda: _at_once(session, asked),
        "in a row": lambda: _in_a_row(session, asked),
        "in a row, no engine": lambda: ([], _plain_s(session.model, asked)),
    }
    walls: dict[str, list[float]] = {way: [] for way in ways}
    jobs: list[Submitted] = []
    for _ in range(num_rounds):
        for way, measure in ways.items():
            found, wall_s = measure()
            jobs = found if way == "at once" else jobs
            walls[way].append(wall_s)
    for way, times in walls.items():
        report.add(f"{preset}, {way}, median of {num_rounds}", statistics.median(times), "s")
    for stage in ("text_encode", "denoise", "vae_decode"):
        units = session.units.over(stage, *(job.id for job in jobs))
        report.add(f"{preset}, at once, {stage}: units, seconds", [len(units), round(seconds(units), 3)])
        sizes = [len(jobs_of(unit)) for unit in units]
        report.add(f"{preset}, at once, {stage}: jobs in each unit", sizes)
    serial = min(statistics.median(walls["in a row"]), statistics.median(walls["in a row, no engine"]))
    return statistics.median(walls["at once"]) / serial


def _plain_s(model: Model, asked: Sequence[GenerateRequest]) -> float:
    """Seconds of the library's loop, job after job."""
    begin = time.perf_counter()
    for request in asked:
        job = model.pipeline.job(request, Given())
        for _ in run(model.pipeline, job):
            job.frames.clear()
    return time.perf_counter() - begin
