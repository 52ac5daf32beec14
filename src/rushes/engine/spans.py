"""The engine's spans: a request, and what slots, couriers and whoever saves it do for it on their threads.

A span `request` lasts from a job's arrival, or from the moment a resumed one was taken up, until it has
left; it names the `job`. What is done for one job lies beneath it. A unit that several jobs share has no
parent, and names them all in `jobs`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter_ns

from rushes.engine.run import Run
from rushes.trace import begin, under, waited


def open_request(run: Run, now: float) -> None:
    """A run was added; it waits from now on.

    Args:
        now: by the clock of `Run.arrived_at`.
    """
    is_fresh = run.life == 1 and not run.job.timings
    since_ns = perf_counter_ns() - (int(1e9 * (now - run.arrived_at)) if is_fresh else 0)
    options = run.options
    run.waits_since_ns = since_ns
    run.span = begin(
        "request",
        since_ns=since_ns,
        job=run.id,
        lane=options.lane,
        tenant=options.tenant,
        pipeline=run.job.request.pipeline,
        is_resumed=not is_fresh,
        traceparent=options.traceparent,
    )


def is_waiting(run: Run) -> None:
    """It waits for its next unit, from now on unless it does already."""
    run.waits_since_ns = run.waits_since_ns or perf_counter_ns()


@contextmanager
def work_for(runs: Sequence[Run], stage: str) -> Iterator[None]:
    """The runs have waited for a unit of this stage, which the block runs."""
    for run in runs:
        with under(run.span):
            waited("queue", run.waits_since_ns, job=run.id, stage=stage, lane=run.options.lane)
        run.waits_since_ns = 0
    with under(runs[0].span if len(runs) == 1 else None):
        yield


def job_ids(runs: Sequence[Run]) -> str:
    """The value of a unit's attribute `jobs`."""
    return ",".join(run.id for run in runs)
