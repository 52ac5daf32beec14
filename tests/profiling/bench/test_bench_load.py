"""Open-loop load: requests wait for nobody, and what is late counts against the engine."""

from __future__ import annotations

import numpy as np
import pytest
from bench_parts import FakeClock, FakeEngine, make_request

from rushes.errors import EngineError
from rushes.profiling.bench.answers import Call
from rushes.profiling.bench.load import LoadResult, poisson_times, run_load
from rushes.profiling.bench.savings import savings
from rushes.profiling.workloads.base import load_workload
from rushes.types import JobEvent


def load(engine: FakeEngine, times: list[float], prompts: list[str] | None = None) -> LoadResult:
    prompts = prompts or [f"dog {number}" for number in range(len(times))]
    calls = [
        Call(due_s=due_s, request=make_request(prompt)) for due_s, prompt in zip(times, prompts, strict=True)
    ]
    clock = engine.clock
    return run_load(engine, calls, rate=1.0, seed=0, clock=clock, wait=clock.wait)


def test_latency_counts_from_when_a_request_was_due() -> None:
    """One at a time, a second each, ten a second come: a client that waited would see 1 s every time."""
    found = load(FakeEngine(FakeClock(50.0)), [0.0, 0.1, 0.2])
    assert [each.end_to_end_s for each in found.answers] == pytest.approx([1.0, 1.9, 2.8])
    assert [each.queued_s for each in found.answers] == pytest.approx([0.0, 0.9, 1.8])
    assert [each.first_preview_s for each in found.answers] == pytest.approx([0.25, 1.15, 2.05])
    assert [each.first_frame_s for each in found.answers] == pytest.approx([0.5, 1.4, 2.3])
    assert found.wall_s == pytest.approx(3.0)
    assert (found.num_completed, found.completed_rate) == (3, pytest.approx(1.0))
    assert (found.utilization, found.rate_bound) == (pytest.approx(1.0), pytest.approx(1.0))
    assert [each.value for each in found.percentiles["end_to_end_s"]] == pytest.approx([1.9, 2.8, 2.8])


def test_a_slow_submission_counts_too() -> None:
    found = load(FakeEngine(FakeClock(), service_s=0.1, submit_s=0.5), [0.0, 0.1])
    assert [each.submitted_s for each in found.answers] == pytest.approx([0.5, 0.9])
    assert [each.end_to_end_s for each in found.answers] == pytest.approx([0.6, 1.0])


def test_what_is_refused_fails_or_is_cancelled_is_told_and_not_averaged() -> None:
    fates = {"b": "refused", "c": "failed", "d": "cancelled", "e": "degraded"}
    found = load(FakeEngine(FakeClock(), fates=fates), [0.0, 10.0, 20.0, 30.0, 40.0], [*"abcde"])
    assert [each.status for each in found.answers] == [
        "completed",
        "refused",
        "failed",
        "cancelled",
        "completed",
    ]
    assert found.answers[1].error == "the queue is full; try again in 3 s"
    assert found.answers[2].error == "no memory"
    assert [each.degraded for each in found.answers] == [False, False, False, False, True]
    assert [each.end_to_end_s for each in found.answers] == [1.0, None, None, None, 1.0]
    assert found.num_completed == 2
    assert found.percentiles["end_to_end_s"][0].value == 1.0


def test_events_without_an_end_are_a_failure() -> None:
    class Endless(FakeEngine):
        def events(self, job_id: str, *, after: int = 0):  # type: ignore[no-untyped-def]
            yield JobEvent(job_id=job_id, number=1, kind="queued", at=0.0, data={})

    with pytest.raises(EngineError, match="its events end with 'queued'"):
        load(Endless(FakeClock()), [0.0])


def test_arrivals_are_a_poisson_process() -> None:
    times = np.array(poisson_times(4.0, 4001, seed=3))
    gaps = np.diff(times)
    assert (times[0], len(times)) == (0.0, 4001)
    assert gaps.mean() == pytest.approx(0.25, rel=0.05)
    assert gaps.std() == pytest.approx(0.25, rel=0.05), "an exponential's spread is its mean"
    counts = np.histogram(times, np.arange(0, times[-1], 5.0))[0]
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.25)
    assert poisson_times(4.0, 5, seed=3) == tuple(times[:5])
    assert poisson_times(4.0, 5, seed=4) != tuple(times[:5])


def test_reuse_is_seen_from_outside() -> None:
    """An engine that serves exact repeats for nothing, by labels that it never saw."""
    prompts = load_workload("templated-ads").prompts(40)
    engine = FakeEngine(FakeClock())
    found = load(engine, [2.0 * number for number in range(40)], [each.prompt for each in prompts])
    computed = savings(prompts, found.answers)
    assert (computed.full_s, computed.free_share, computed.saved_share) == (1.0, 0.0, 0.0)
    exact = sum(each.kind == "exact" for each in prompts) / 40
    hits = sum(each.kind != "new" for each in prompts) / 40
    assert computed.free_bound == hits > exact > 0.2

    answers = []
    for prompt, answer in zip(prompts, found.answers, strict=True):
        seconds = 0.0 if prompt.kind == "exact" else 1.0
        answers.append(type(answer)(**{**_fields(answer), "device_s": seconds}))
    cached = savings(prompts, answers)
    assert cached.free_share == cached.saved_share == pytest.approx(exact)
    assert cached.saved_bound == hits
    free = [
        type(answer)(**{**_fields(answer), "device_s": float(prompt.kind == "new")})
        for prompt, answer in zip(prompts, found.answers, strict=True)
    ]
    best = savings(prompts, free)
    assert best.free_share == pytest.approx(best.free_bound), "rewordings and edits from what is stored too"
    assert set(cached.p50_s) == {each.kind for each in prompts}
    repeats = [each for each in prompts if each.kind == "exact"]
    assert savings(repeats, answers[: len(repeats)]) is None, "nothing new to compare with"


def _fields(answer: object) -> dict[str, object]:
    return {name: getattr(answer, name) for name in answer.__dataclass_fields__}
