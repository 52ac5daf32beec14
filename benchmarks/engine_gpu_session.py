"""The real engine over a model, its units recorded, and goals that are met or missed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

import torch
from benchmarks.gpu_report import Report

from rushes.engine.client import result
from rushes.engine.local import LocalEngine
from rushes.engine.planner import CostPlanner
from rushes.engine.tickets import Policy
from rushes.engine.worker import WorkerPolicy
from rushes.pipelines.model import Model
from rushes.stores.base import JobRecord
from rushes.trace import Span, listen
from rushes.types import FINAL, Frames, GenerateRequest, JobOptions, Lane

JOBS = "jobs"
"""What only the spans of the engine's units have."""

POLL_S = 0.002
PATIENCE_S = 180.0


class Units:
    """A trace listener that keeps the engine's units, those that run too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[Span] = []
        self._over: list[Span] = []

    def opened(self, span: Span) -> None:
        """See `rushes.trace.Listener`."""
        if JOBS in span.attributes:
            with self._lock:
                self._running.append(span)

    def closed(self, span: Span) -> None:
        """See `rushes.trace.Listener`."""
        if JOBS in span.attributes:
            with self._lock:
                self._running = [each for each in self._running if each is not span]
                self._over.append(span)

    def over(self, stage: str, *job_ids: str) -> list[Span]:
        """Those that ended, with any of these jobs in them, in order."""
        with self._lock:
            found = [span for span in self._over if _has(span, stage, job_ids)]
        return sorted(found, key=lambda span: span.start_ns)

    def is_running(self, stage: str, job_id: str) -> bool:
        """Whether a unit of this job runs now."""
        with self._lock:
            return any(_has(span, stage, (job_id,)) for span in self._running)


def _has(span: Span, stage: str, job_ids: Sequence[str]) -> bool:
    return span.name == stage and not set(job_ids).isdisjoint(jobs_of(span))


def jobs_of(span: Span) -> list[str]:
    """Ids of a unit's jobs."""
    return str(span.attributes[JOBS]).split(",")


def seconds(spans: Sequence[Span]) -> float:
    """Of all of them together."""
    return sum(span.seconds for span in spans)


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A job, and when it was submitted by `perf_counter_ns`."""

    id: str
    at_ns: int
    request: GenerateRequest


class Session:
    """A `LocalEngine` for the time of a block.

    Args:
        max_batch: jobs in a forward; above 1 they share it whether or not that saves time.
        max_active: jobs held at a time.
        scheduling: instead of what `max_batch` says.
    """

    def __init__(
        self,
        model: Model,
        *,
        max_batch: int = 1,
        max_active: int = 8,
        scheduling: Policy | None = None,
        reserve_bytes: int | None = None,
    ) -> None:
        self.model = model
        self.units = Units()
        self.engine = LocalEngine(
            model,
            policy=WorkerPolicy(checkpoint_every=0, poll_s=0.2, listen_s=0.02, max_active=max_active),
            scheduling=scheduling or Policy(max_batch=max_batch, max_marginal=100.0),
            reserve_bytes=reserve_bytes,
        )
        self._stack = ExitStack()

    def __enter__(self) -> Session:
        self._stack.enter_context(listen(self.units))
        self._stack.enter_context(self.engine)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def planner(self) -> CostPlanner:
        """Of the engine."""
        return self.engine.planner

    def submit(
        self,
        request: GenerateRequest,
        *,
        lane: Lane = "batch",
        on_frames: Callable[[Frames], None] = lambda frames: None,
    ) -> Submitted:
        """Queue a job."""
        at_ns = time.perf_counter_ns()
        job_id = self.engine.submit(request, JobOptions(lane=lane), on_frames=on_frames)
        return Submitted(id=job_id, at_ns=at_ns, request=request)

    def wait(self, *jobs: Submitted) -> list[JobRecord]:
        """Until these are completed; raises what one failed with."""
        return [result(self.engine, job.id) for job in jobs]

    def run(self, request: GenerateRequest) -> Submitted:
        """One job from end to end."""
        job = self.submit(request)
        self.wait(job)
        return job

    def until(self, condition: Callable[[], bool], *jobs: Submitted) -> bool:
        """Wait for the condition; False when all of these jobs ended before it held. Raises what one failed
        with, and `TimeoutError`."""
        begin = looked_at = time.perf_counter()
        while not condition():
            time.sleep(POLL_S)
            now = time.perf_counter()
            if now - begin > PATIENCE_S:
                raise TimeoutError(f"nothing happened for {PATIENCE_S:.0f} s")
            if now - looked_at > 0.1:
                looked_at = now
                if all(self._has_ended(job) for job in jobs):
                    return condition()
        return True

    def until_denoised(self, steps: int, *jobs: Submitted) -> None:
        """Wait for so many steps of each."""
        self.until(lambda: all(len(self.units.over("denoise", job.id)) >= steps for job in jobs), *jobs)

    def cancel(self, *jobs: Submitted) -> None:
        """End these and wait until they have let go of their memory."""
        for job in jobs:
            self.engine.cancel(job.id)
        for job in jobs:
            for _ in self.engine.events(job.id):
                pass

    def denoise_together(self, requests: Sequence[GenerateRequest], hold: GenerateRequest) -> list[Submitted]:
        """Take these through their steps in one batch, and cancel them then. `hold` is a short job that keeps
        the denoiser until all of them are encoded; its prompt is theirs."""
        holding = self.submit(hold)
        self.until(lambda: self.units.is_running("denoise", holding.id), holding)
        jobs = [self.submit(request) for request in requests]
        self.until_denoised(requests[0].sampling.num_inference_steps, *jobs)
        self.cancel(holding, *jobs)
        return jobs

    def _has_ended(self, job: Submitted) -> bool:
        record = self.engine.status(job.id)
        if record.status == "failed":
            self.wait(job)
        return record.status in FINAL


def reset_peak(device: torch.device) -> None:
    """Forget the most that was allocated."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Most that tensors held since `reset_peak`; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def judge(report: Report, what: str, shown: str, goal: str, is_met: bool | None) -> None:
    """Keep a row of the last table: what was measured against its goal; None where it has none."""
    verdict = "no goal" if is_met is None else "met" if is_met else "MISSED"
    rows = report.content.setdefault("goals", [])
    rows.append({"what": what, "measured": shown, "goal": goal, "verdict": verdict})
    report.add(what, f"{shown} (goal {goal}: {verdict})" if goal else shown)
