"""The engine under open-loop load: requests come when they are due, whatever becomes of those before."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter, sleep
from typing import Protocol

from rushes.engine.outlets import Outlet
from rushes.errors import QueueFull
from rushes.profiling.bench.answers import Answer, Call, ClientOutlet, Handed
from rushes.profiling.bench.figures import Percentile, percentile
from rushes.types import GenerateRequest, JobEvent, JobOptions

SHARES = (0.5, 0.95, 0.99)


class LoadEngine(Protocol):
    """What is loaded: `rushes.engine.local.LocalEngine`."""

    def submit(
        self, request: GenerateRequest, options: JobOptions | None = None, *, outlet: Outlet | None = None
    ) -> str:
        """Queue a job whose frames go to `outlet`. Raises `QueueFull`."""

    def events(self, job_id: str, *, after: int = 0) -> Iterator[JobEvent]:
        """Events of a job up to the one that ends it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """A load that is over.

    Attributes:
        rate: requests a second that came, on average.
        answers: in the order in which they were due.
        wall_s: from the first request's due time to the last answer.
        percentiles: p50, p95 and p99 by second, over the completed.
    """

    rate: float
    seed: int
    answers: tuple[Answer, ...]
    wall_s: float
    percentiles: dict[str, tuple[Percentile, ...]] = field(default_factory=dict)

    @property
    def num_completed(self) -> int:
        """Calls that got their clip."""
        return sum(answer.status == "completed" for answer in self.answers)

    @property
    def completed_rate(self) -> float:
        """Clips a second."""
        return self.num_completed / self.wall_s

    @property
    def utilization(self) -> float:
        """Device seconds used over wall seconds; above 1 where stages run beside each other."""
        return sum(answer.device_s or 0.0 for answer in self.answers) / self.wall_s

    @property
    def rate_bound(self) -> float | None:
        """Clips a second that no order of these jobs exceeds, one at a time: the number over their device
        seconds. Batches and stages beside each other may."""
        used = [answer.device_s for answer in self.answers if answer.device_s]
        return len(used) / sum(used) if used else None


def poisson_times(rate: float, num: int, seed: int) -> tuple[float, ...]:
    """Seconds at which `num` requests are due: independent exponential gaps of mean 1 / rate, the first at 0.

    Example:
        >>> [round(at, 2) for at in poisson_times(1.0, 3, seed=0)]
        [0.0, 0.44, 1.69]
    """
    chance = random.Random(f"poisson {seed}")
    gaps = (chance.expovariate(rate) for _ in range(num - 1))
    return tuple(itertools.accumulate(gaps, initial=0.0))


def run_load(
    engine: LoadEngine,
    calls: Sequence[Call],
    *,
    rate: float,
    seed: int,
    clock: Callable[[], float] = perf_counter,
    wait: Callable[[float], object] = sleep,
    say: Callable[[str], None] = lambda line: None,
) -> LoadResult:
    """Hand every call over when it is due, then collect the answers.

    Args:
        rate, seed: of the calls' times, for the record.
        clock: by which the engine dates its events too.
    """
    begin = clock()
    handed = []
    for call in calls:
        wait(max(0.0, begin + call.due_s - clock()))
        handed.append(hand_over(engine, call, begin + call.due_s, clock))
    say(f"{len(calls)} requests are handed over after {clock() - begin:.1f} s; waiting for the answers")
    answers = tuple(
        each.answer([] if each.job_id is None else list(engine.events(each.job_id))) for each in handed
    )
    wall_s = max(
        call.due_s + (answer.end_to_end_s or answer.submitted_s)
        for call, answer in zip(calls, answers, strict=True)
    )
    return LoadResult(
        rate=rate, seed=seed, answers=answers, wall_s=wall_s, percentiles=percentiles_of(answers)
    )


def percentiles_of(answers: Sequence[Answer]) -> dict[str, tuple[Percentile, ...]]:
    """By second, of the completed ones that have it."""
    found = {}
    for name in ("queued_s", "first_preview_s", "first_frame_s", "end_to_end_s"):
        seconds = [getattr(answer, name) for answer in answers if answer.status == "completed"]
        values = [value for value in seconds if value is not None]
        if values:
            found[name] = tuple(percentile(values, share) for share in SHARES)
    return found


def hand_over(engine: LoadEngine, call: Call, due_at: float, clock: Callable[[], float]) -> Handed:
    """Submit one call now."""
    outlet = ClientOutlet(call.request, clock)
    job_id, refusal = None, None
    try:
        job_id = engine.submit(call.request, call.options, outlet=outlet)
    except QueueFull as error:
        refusal = str(error)
    return Handed(
        call=call,
        due_at=due_at,
        submitted_at=clock(),
        client=outlet.client,
        job_id=job_id,
        refusal=refusal,
    )
