"""A batch is told as its rows are, one by one, whatever became of their jobs; but none of them is read."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from running_service import SMALL

from rushes.engine.announcements import StoreAdmission
from rushes.engine.workplace import Workplace
from rushes.errors import InvalidRequest, StoreError, UnknownJob
from rushes.server.auth import LOCAL, Caller
from rushes.server.batch_asks import read_batch
from rushes.server.batch_runner import BatchRunner
from rushes.server.batches import COUNTS, BatchDesk
from rushes.server.wishes import Wish
from rushes.stores.accounts import AccountStore
from rushes.stores.base import JobRecord, Lease
from rushes.stores.batches import BatchRecord
from rushes.stores.sqlite import SqliteJobStore
from rushes.types import FINAL, GenerateRequest, JobOptions


class Watched(SqliteJobStore):
    """Counts the jobs that are read one by one."""

    num_read = 0

    def get(self, job_id: str) -> JobRecord:
        self.num_read += 1
        return super().get(job_id)


class Lives:
    """Two tenants' batches, in which everything happens that can."""

    def __init__(self, place: Workplace, accounts: AccountStore, seed: int) -> None:
        self.random, self.accounts = random.Random(seed), accounts
        self.jobs = Watched(":memory:")
        admission = StoreAdmission(self.jobs, place.workers)
        self.desk = BatchDesk(accounts.batches, self.jobs, admission, lambda: ("toy",))
        self.callers = {
            tenant: Caller(key_id="k", tenant=tenant, scopes=LOCAL.scopes, limits=LOCAL.limits)
            for tenant in ("a", "b")
        }
        self.runner = BatchRunner(
            self.desk, self.jobs, self.submit, lambda record: self.callers[record.tenant], window=6
        )

    def submit(self, request: GenerateRequest, options: JobOptions, caller: Caller, wish: Wish) -> JobRecord:
        """Few different clips, so that many are twins or taken from an earlier job; some rows can have no
        job, and sometimes the process dies before the row is noted."""
        chance = self.random.random()
        if chance < 0.1:
            raise InvalidRequest("width", "fits no worker")
        predicted_s = self.random.choice((None, 1.5, 2.25))
        key = str(request.sampling.seed) if chance < 0.7 else None
        made = self.jobs.create(
            request, options, predicted_s=predicted_s, exact_key=key, joins=key is not None
        )
        if chance > 0.95:
            raise StoreError("the accounts are away")
        if chance > 0.9:  # by whatever made it before the row's key became that of another request
            raise InvalidRequest("prompt", "the key belongs to another job")
        return made

    def step(self) -> None:
        """One thing happens."""
        act = self.random.choice(("ask", "queue", "queue", "finish", "finish", "fail", "cancel", "forget"))
        if act == "ask":
            rows = [{"seed": self.random.randrange(3)} for _ in range(self.random.randint(1, 15))]
            ask = read_batch({"template": "a dog", "rows": rows, **SMALL})
            self.desk.create(ask, self.random.choice(list(self.callers.values())))
        elif act == "queue":
            self.runner.step()
        elif act in ("finish", "fail"):
            self.work(act)
        else:
            self.end(act)

    def work(self, act: str) -> None:
        """A worker ends a job, or holds it."""
        for record in self.jobs.lease("w", pipelines=["toy"], limit=self.random.randint(1, 3), ttl_s=60):
            lease = Lease(job_id=record.id, owner="w", token=record.token)
            if act == "fail":
                self.jobs.fail(lease, error="e", error_kind="k")
            elif self.random.random() < 0.8:
                self.jobs.finish(lease, result=f"{record.id}.mp4", actual_s=self.random.choice((0.5, 3.0)))

    def end(self, act: str) -> None:
        """A user cancels a batch or a job, or deletes one."""
        jobs, batches = self.jobs.jobs(limit=100), self.accounts.batches.list()
        if act == "cancel" and batches and self.random.random() < 0.3:
            record = self.random.choice(batches)
            self.desk.cancel(record.id, self.callers[record.tenant])
        elif jobs:
            record = self.random.choice(jobs)
            if act == "cancel":
                self.jobs.cancel(record.id)
            elif record.status in FINAL:
                self.jobs.forget(record.id)

    def told_one_by_one(self, record: BatchRecord) -> tuple[dict[str, int], float, float]:
        """Counts, predicted and actual seconds."""
        rows, counts, sums = self.accounts.batches.rows(record.id), dict.fromkeys(COUNTS, 0), [0.0, 0.0]
        counts["waiting" if record.cancelled_at is None else "cancelled"] = record.total - len(rows)
        for row in rows:
            try:
                job = self.jobs.get(str(row.job_id))
            except UnknownJob:
                counts["expired" if row.error is None else "failed"] += 1
                continue
            counts[job.status] += 1
            sums[0] += job.predicted_s or 0.0
            sums[1] += job.actual_s or 0.0
        return counts, sums[0], sums[1]


@pytest.fixture
def accounts() -> Iterator[AccountStore]:
    found = AccountStore(":memory:")
    yield found
    found.close()


@pytest.fixture
def place(tmp_path: Any) -> Iterator[Workplace]:
    with Workplace(tmp_path / "store") as found:
        yield found


@pytest.mark.parametrize("seed", range(4))
def test_counts_are_those_of_the_rows(place: Workplace, accounts: AccountStore, seed: int) -> None:
    lives, seen, twins, hits = Lives(place, accounts, seed), dict.fromkeys(COUNTS, 0), 0, 0
    for _ in range(200):
        lives.step()
        for record in accounts.batches.list(limit=5):
            counts, predicted_s, actual_s = lives.told_one_by_one(record)
            found = lives.desk.batch(record)
            assert found["counts"] == counts
            assert (found["predicted_s"], found["actual_s"]) == (predicted_s, actual_s)
            seen = {name: seen[name] + counts[name] for name in COUNTS}
        twins += sum(job.twin_of is not None for job in lives.jobs.jobs(statuses=("queued",)))
        hits += sum('"exact"' in (job.reuse or "") for job in lives.jobs.jobs(statuses=("completed",)))
    assert all(seen.values()), "each of them was compared"
    assert twins
    assert hits
    lives.jobs.close()


def test_a_batch_is_told_without_reading_its_jobs(place: Workplace, accounts: AccountStore) -> None:
    lives = Lives(place, accounts, 0)
    ask = read_batch({"template": "a dog", "rows": [{}] * 6, **SMALL})
    made = lives.desk.create(ask, lives.callers["a"])
    lives.runner.step()
    lives.jobs.num_read = 0
    found = lives.desk.batch(accounts.batches.get(made.id))
    assert found["total"] - found["counts"]["waiting"] > 0
    assert lives.jobs.num_read == 0
    lives.jobs.close()
