"""What a key may take, from the first request to the end of a job, over a real store of jobs."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rushes.engine.workplace import Workplace
from rushes.errors import QuotaExceeded, RateLimited, StoreError, TooManyJobs
from rushes.server.auth import LOCAL, Authenticator, Caller
from rushes.server.feed import Feed
from rushes.server.gateway import Gateway
from rushes.server.limits import Limits, spent_s
from rushes.server.problems import ProblemError, problem_of
from rushes.server.service import Service as GatewayService
from rushes.server.service import authorized
from rushes.stores.accounts import AccountStore
from rushes.stores.api_keys import KeyLimits
from rushes.stores.base import JobRecord, Lease
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


@dataclass
class Service:
    """Accounts, jobs and limits of one gateway."""

    accounts: AccountStore
    jobs: SqliteJobStore
    ended: list[str]
    limits: Limits
    path: Path

    def create(self, caller: Caller, job_key: str = "key", *, predicted_s: float = 10.0) -> JobRecord:
        """As a gateway does."""
        reservation = self.limits.reserve(caller, job_key, predicted_s)
        options = JobOptions(tenant=caller.tenant, idempotency_key=job_key)
        record = self.jobs.create(REQUEST, options, predicted_s=predicted_s)
        self.limits.bind(reservation, record.id)
        return record

    def lease(self) -> Lease:
        (record,) = self.jobs.lease("w", pipelines=["toy"], limit=1, ttl_s=60)
        return Lease(job_id=record.id, owner="w", token=record.token)

    def finish(self, actual_s: float = 3.0) -> JobRecord:
        lease = self.lease()
        self.jobs.finish(lease, result="r", actual_s=actual_s)
        return self.jobs.get(lease.job_id)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    accounts, jobs = AccountStore(tmp_path / "accounts.sqlite"), SqliteJobStore(tmp_path / "jobs.sqlite")
    ended: list[str] = []
    limits = Limits(accounts, on_end=lambda record: ended.append(record.id))
    yield Service(accounts, jobs, ended, limits, tmp_path / "jobs.sqlite")
    limits.close()
    accounts.close()
    jobs.close()


def caller(key_id: str = "k", **limits: float) -> Caller:
    return replace(LOCAL, key_id=key_id, limits=KeyLimits(**limits))  # type: ignore[arg-type]


def test_requests_a_minute(service: Service) -> None:
    asking = caller(requests_per_minute=3)
    for _ in range(3):
        service.limits.check_rate(asking)
    with pytest.raises(
        RateLimited, match="made 3 requests within the last minute, and it may make 3"
    ) as raised:
        service.limits.check_rate(asking)
    problem = problem_of(raised.value)
    error = problem.content()["error"]
    assert (problem.status, error["code"]) == (429, "rate_limited")
    assert (error["limit"], error["used"], error["remaining"]) == (3, 3, 0)
    assert 1 <= int(problem.headers()["Retry-After"]) <= 61
    for _ in range(100):
        service.limits.check_rate(LOCAL)


def test_a_job_from_its_reservation_to_its_end(service: Service) -> None:
    asking = caller(concurrent_jobs=1, gpu_seconds_per_day=12)
    service.create(asking)
    with pytest.raises(TooManyJobs) as raised:
        service.create(asking, "other")
    assert problem_of(raised.value).content()["error"]["code"] == "too_many_jobs"
    record = service.finish(actual_s=3.0)
    service.limits.ended(record)
    service.limits.ended(record)
    assert service.ended == [record.id]
    with pytest.raises(QuotaExceeded) as refused:
        service.create(asking, "other")
    error = problem_of(refused.value).content()["error"]
    assert (error["code"], error["limit"], error["used"], error["remaining"]) == ("quota_exceeded", 12, 3, 9)
    service.create(asking, "other", predicted_s=9.0)


def test_a_job_that_could_not_be_created_takes_nothing(service: Service) -> None:
    asking = caller(concurrent_jobs=1)
    service.limits.release(service.limits.reserve(asking, "a", 1.0))
    service.create(asking, "b")


def test_the_same_job_again_is_not_refused(service: Service) -> None:
    asking = caller(concurrent_jobs=1)
    assert service.create(asking).id == service.create(asking).id


def test_a_gateway_that_died_before_it_bound_the_job(service: Service) -> None:
    service.limits.reserve(caller(), "key", 10.0)
    service.jobs.create(REQUEST, JobOptions(idempotency_key="key"))
    record = service.finish(actual_s=4.0)
    service.limits.ended(record)
    charge = service.accounts.charges.get(record.id)
    assert charge is not None
    assert (charge.key_id, charge.actual_s) == ("k", 4.0)


def test_ends_that_nobody_heard_are_found(service: Service) -> None:
    asking = caller(concurrent_jobs=3)
    done, running, gone = (service.create(asking, name) for name in "abc")
    service.finish()
    service.lease()
    service.jobs.cancel(gone.id)
    service.jobs.forget(gone.id)
    assert service.limits.reconcile(service.jobs) == 2
    assert service.ended == [done.id]
    assert service.accounts.charges.open_jobs() == (running.id,)
    assert service.limits.reconcile(service.jobs) == 0


def test_an_end_that_could_not_be_told_is_told_again(service: Service) -> None:
    failing = Limits(service.accounts, on_end=_raise)
    service.create(caller())
    record = service.finish()
    with pytest.raises(StoreError, match="full"):
        failing.ended(record)
    assert service.limits.reconcile(service.jobs) == 1
    assert service.ended == [record.id]


def test_a_damaged_record_holds_up_no_other_end(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    damaged, *others = (service.create(caller(), name) for name in "abc")
    for record in (damaged, *others):
        service.jobs.cancel(record.id)
    with sqlite3.connect(service.path) as connection:
        connection.execute("UPDATE jobs SET request = '{' WHERE id = ?", (damaged.id,))
    connection.close()
    assert service.limits.reconcile(service.jobs) == 2
    assert service.ended == [record.id for record in others]
    assert service.accounts.charges.open_jobs() == (damaged.id,)
    assert f"job {damaged.id} will be settled later" in caplog.text


def test_a_deletion_on_a_gateway_that_stops_settles_nothing(tmp_path: Path) -> None:
    """The job that it waits for goes on, and what it took is charged at its end."""
    accounts = AccountStore(tmp_path / "accounts.sqlite")
    ended: list[str] = []
    limits = Limits(accounts, on_end=lambda record: ended.append(record.status))

    async def delete(gateway: Gateway, job_id: str) -> None:
        deleting = asyncio.create_task(gateway.delete(LOCAL.tenant, job_id))
        while not gateway.feed.num_watchers:
            await asyncio.sleep(0.01)
        gateway.drain()
        await deleting

    with Workplace(tmp_path / "store") as place:
        gateway = Gateway(place, Feed(place.jobs), models=("toy",), limits=limits)
        record = gateway.create(REQUEST, JobOptions(tenant=LOCAL.tenant), LOCAL)
        (running,) = place.jobs.lease("w", pipelines=["toy"], limit=1, ttl_s=60)
        with pytest.raises(ProblemError) as raised:
            asyncio.run(delete(gateway, record.id))
        problem = raised.value.problem
        assert (problem.status, problem.code, problem.retry_after_s) == (503, "draining", 5.0)
        charge = accounts.charges.get(record.id)
        assert charge is not None
        assert (charge.ended_at, ended) == (None, [])
        lease = Lease(job_id=record.id, owner="w", token=running.token)
        place.jobs.finish(lease, result="x.mp4", actual_s=123.0)
        limits.ended(place.jobs.get(record.id))
        charge = accounts.charges.get(record.id)
        assert charge is not None
        assert (charge.actual_s, ended) == (123.0, ["completed"])
    accounts.close()


def _raise(record: JobRecord) -> None:
    raise StoreError("full")


def test_what_an_ended_job_took(service: Service) -> None:
    service.create(caller(), "a")
    never_began = service.jobs.cancel(service.create(caller(), "b").id)
    done = service.finish(actual_s=2.5)
    assert (spent_s(done), spent_s(never_began)) == (2.5, 0.0)
    failed = replace(done, status="failed", actual_s=None, started_at=100.0, finished_at=104.0)
    assert spent_s(failed) == 4.0
    assert spent_s(replace(failed, finished_at=9e9)) == 10.0
    assert spent_s(replace(failed, finished_at=50.0)) == 0.0, "a clock that jumped"
    assert spent_s(replace(failed, finished_at=None)) is None


def test_a_job_costs_its_gateway_little(service: Service) -> None:
    """Far above what it takes here (docs/service.md), and far below what anybody would notice."""
    asking = caller(concurrent_jobs=1000, gpu_seconds_per_day=1e9, requests_per_minute=10_000)
    seconds = []
    for i in range(100):
        start = time.perf_counter()
        service.limits.check_rate(asking)
        reservation = service.limits.reserve(asking, f"key {i}", 1.0)
        service.limits.bind(reservation, f"job {i}")
        service.limits.settle(f"job {i}", 1.0)
        seconds.append(time.perf_counter() - start)
    assert sorted(seconds)[50] < 0.02


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_redis_that_says_nothing_stops_nobody_else(tmp_path: Path, is_shared: bool) -> None:
    """The event loop goes on while a request waits to be counted; what is counted here waits for nothing."""
    accounts = AccountStore(tmp_path / "accounts.sqlite")
    _, secret = accounts.keys.create("k", limits=KeyLimits(requests_per_minute=9))

    async def count_ticks(service: GatewayService) -> int:
        num = 0
        asked = asyncio.create_task(authorized(service, f"Bearer {secret}", "videos:read"))
        while not asked.done():
            await asyncio.sleep(0.001)
            num += 1
        assert (await asked).may("videos:read")
        return num

    with socket.create_server(("127.0.0.1", 0)) as listener, Workplace(tmp_path / "store") as place:
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        limits = Limits(accounts, redis=url if is_shared else None)
        gateway = Gateway(place, Feed(place.jobs), models=("toy",), limits=limits)
        service = GatewayService(gateway=gateway, authenticator=Authenticator(accounts), limits=limits)
        num = asyncio.run(count_ticks(service))
        assert num > 10 if is_shared else num == 1
        limits.close()
    accounts.close()
