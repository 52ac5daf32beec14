"""What the tests of stores share: a request, a clock, a job store with its clock, and other processes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import pytest

from rushes.stores.base import JobRecord, Lease
from rushes.stores.sqlite import SqliteJobStore
from rushes.types import FINAL, GenerateRequest, JobOptions, SamplingParams, VideoSpec

REQUEST = GenerateRequest(
    prompt="a dog, \u00e4 \U0001f415 \udc80\0",
    negative_prompt="",
    pipeline="toy",
    video=VideoSpec(width=64, height=32, num_frames=5, fps=16),
    sampling=SamplingParams(
        num_inference_steps=4,
        solver="euler",
        flow_shift=0.1 + 0.2,
        guidance_high=1.0,
        guidance_low=1.0,
        seed=2**63 - 1,
        timesteps=(1000.0, 1 / 3),
    ),
)
OPTIONS = JobOptions()
TTL_S = 30.0


def with_seed(seed: int) -> GenerateRequest:
    return replace(REQUEST, sampling=replace(REQUEST.sampling, seed=seed))


@dataclass
class Clock:
    """Stands still until it is told."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Bench:
    """A store with its clock."""

    path: str = ":memory:"
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.store = SqliteJobStore(self.path, clock=self.clock, timeout_s=5)

    def create(self, num: int = 1, options: JobOptions = OPTIONS) -> list[JobRecord]:
        return [self.store.create(REQUEST, options) for _ in range(num)]

    def lease(self, owner: str = "worker", limit: int = 1) -> list[Lease]:
        records = self.store.lease(owner, pipelines=["toy"], limit=limit, ttl_s=TTL_S)
        return [Lease(job_id=record.id, owner=owner, token=record.token) for record in records]

    def running(self, owner: str = "worker") -> Lease:
        """A lease of a new job."""
        self.create()
        (lease,) = self.lease(owner)
        return lease

    def kinds(self, job_id: str) -> list[str]:
        return [event.kind for event in self.store.events(job_id)]

    def let_leases_run_out(self) -> None:
        self.clock.now += TTL_S


def check_events(store: SqliteJobStore, job_id: str) -> None:
    """Numbers without a gap; the end comes last, once, and only when the job has ended."""
    events = store.events(job_id)
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    ends = [event.kind for event in events if event.kind in FINAL]
    record = store.get(job_id)
    assert ends == [record.status] * (record.status in FINAL)
    assert not ends or events[-1].kind == ends[0]


def child(code: str, *args: str) -> subprocess.Popen[str]:
    """Another Python that runs `code` with these arguments."""
    command = [sys.executable, "-c", code, *args]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def output_on_small_disk(folder: str, code: str, *args: str) -> str:
    """What `code` prints where `folder` is a tmpfs of 400 KiB, in a name space of the child's own. Skips the
    test where the system does not let anybody have one."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=400k none {folder}"
    if shutil.which("unshare") is None or subprocess.run([*unshare, mount], capture_output=True).returncode:
        pytest.skip("this system gives no name space with a tmpfs")
    command = [*unshare, f'{mount} && exec "$@"', "sh", sys.executable, "-c", code, *args]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout


def output_of(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def outputs_of(processes: Iterable[subprocess.Popen[str]]) -> list[str]:
    return [output_of(process) for process in processes]
