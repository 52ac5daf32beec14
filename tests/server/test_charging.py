"""A job is submitted at its caller's expense, or not at all."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rushes.engine.admission import Accept
from rushes.errors import IdempotencyConflict, QueueFull, QuotaExceeded, StoreError, TooManyJobs
from rushes.server.auth import LOCAL, Caller
from rushes.server.charging import submit_charged
from rushes.server.limits import Limits
from rushes.stores.accounts import AccountStore
from rushes.stores.api_keys import KeyLimits
from rushes.stores.sqlite import SqliteJobStore
from rushes.types import GenerateRequest, JobOptions, SamplingParams, VideoSpec

REQUEST = GenerateRequest(
    prompt="a dog",
    negative_prompt="",
    pipeline="toy",
    video=VideoSpec(width=64, height=32, num_frames=5, fps=16),
    sampling=SamplingParams(
        num_inference_steps=4, solver="euler", flow_shift=3.0, guidance_high=1.0, guidance_low=1.0, seed=1
    ),
)
OTHER = replace(REQUEST, prompt="a cat")

GATEWAY = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_charging import OPTIONS, REQUEST, caller
from rushes.errors import TooManyJobs
from rushes.server.charging import submit_charged
from rushes.server.limits import Limits
from rushes.stores.accounts import AccountStore
from rushes.stores.sqlite import SqliteJobStore

folder = Path(sys.argv[1])
jobs, limits = SqliteJobStore(folder / "jobs"), Limits(AccountStore(folder / "accounts"))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(10):
    try:
        submit_charged(jobs, None, limits, caller(concurrent_jobs=5), REQUEST, OPTIONS)
    except TooManyJobs:
        pass
"""

OPTIONS = JobOptions()


@dataclass
class Promise:
    """An admission that promises so many seconds of a smaller clip, or refuses."""

    predicted_s: float = 8.0
    is_full: bool = False

    def admit(self, request: GenerateRequest, options: JobOptions) -> Accept | None:
        if self.is_full:
            raise QueueFull("full", retry_after_s=9.0)
        return Accept(request=request, predicted_s=self.predicted_s, eta_s=9.0, peak_bytes=1)


def caller(**limits: float) -> Caller:
    return replace(LOCAL, key_id="k", limits=KeyLimits(**limits))  # type: ignore[arg-type]


@pytest.fixture
def accounts(tmp_path: Path) -> Iterator[AccountStore]:
    accounts = AccountStore(tmp_path / "accounts")
    yield accounts
    accounts.close()


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[SqliteJobStore]:
    jobs = SqliteJobStore(tmp_path / "jobs")
    yield jobs
    jobs.close()


@pytest.fixture
def limits(accounts: AccountStore) -> Limits:
    return Limits(accounts)


def test_what_is_promised_is_charged(jobs: SqliteJobStore, limits: Limits, accounts: AccountStore) -> None:
    asking = caller(gpu_seconds_per_day=10)
    job_id = submit_charged(jobs, Promise(), limits, asking, REQUEST, OPTIONS)
    charge = accounts.charges.get(job_id)
    assert charge is not None
    assert (charge.key_id, charge.predicted_s) == ("k", 8.0)
    with pytest.raises(QuotaExceeded):
        submit_charged(jobs, Promise(), limits, asking, REQUEST, OPTIONS)
    assert jobs.count() == 1
    submit_charged(jobs, None, limits, asking, REQUEST, OPTIONS)


def test_a_job_that_is_refused_takes_nothing(jobs: SqliteJobStore, limits: Limits) -> None:
    asking = caller(concurrent_jobs=1)
    with pytest.raises(QueueFull):
        submit_charged(jobs, Promise(is_full=True), limits, asking, REQUEST, OPTIONS)
    submit_charged(jobs, Promise(), limits, asking, REQUEST, OPTIONS)


def test_a_repeated_call_gets_its_job_though_the_limit_is_used_up(
    jobs: SqliteJobStore, limits: Limits
) -> None:
    asking, options = caller(concurrent_jobs=1), JobOptions(idempotency_key="key")
    ids = {submit_charged(jobs, Promise(), limits, asking, REQUEST, options) for _ in range(3)}
    assert len(ids) == 1
    with pytest.raises(IdempotencyConflict):
        submit_charged(jobs, Promise(), limits, asking, OTHER, options)
    with pytest.raises(TooManyJobs):
        submit_charged(jobs, Promise(), limits, asking, OTHER, OPTIONS)


def test_a_store_that_fails_gives_the_slot_back(tmp_path: Path, jobs: SqliteJobStore, limits: Limits) -> None:
    asking = caller(concurrent_jobs=1)
    closed = SqliteJobStore(tmp_path / "closed")
    closed.close()
    with pytest.raises(StoreError):
        submit_charged(closed, Promise(), limits, asking, REQUEST, OPTIONS)
    submit_charged(jobs, Promise(), limits, asking, REQUEST, OPTIONS)


def test_gateways_race_for_the_last_slots(
    tmp_path: Path, jobs: SqliteJobStore, accounts: AccountStore
) -> None:
    command = [sys.executable, "-c", GATEWAY, str(tmp_path), str(Path(__file__).parent)]
    gateways = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for gateway in gateways:
        assert gateway.stdout is not None
        assert gateway.stdout.readline() == "ready\n"
    for gateway in gateways:
        assert gateway.stdin is not None
        gateway.stdin.write("go\n")
        gateway.stdin.flush()
    assert [gateway.communicate(timeout=60) and gateway.returncode for gateway in gateways] == [0, 0, 0]
    assert jobs.count() == 5
    assert sorted(accounts.charges.open_jobs()) == sorted(record.id for record in jobs.jobs())
