"""What admission and batches read: open work, promises of completed jobs, tallies of numbered keys."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from store_parts import REQUEST, Bench, with_seed

from rushes.stores import job_sums, sqlite_leases
from rushes.stores.base import KeptPromise, OpenWork, Tally
from rushes.stores.sqlite import SqliteJobStore
from rushes.stores.sqlite_schema import JOBS
from rushes.types import JobOptions

NOW = JobOptions(lane="interactive")
BATCH = JobOptions(lane="batch", tenant="a")


def test_open_work_is_that_of_the_jobs_that_have_not_ended(bench: Bench):
    store = bench.store
    assert not store.open_work()
    ended = store.create(REQUEST, NOW, predicted_s=100.0)
    store.cancel(ended.id)
    running = store.create(REQUEST, NOW, predicted_s=2.0)
    bench.lease()
    unknown = store.create(with_seed(1), NOW)
    for seconds in (3.0, 4.0):
        store.create(REQUEST, BATCH, predicted_s=seconds)
    found = {(work.lane, work.tenant): work for work in store.open_work()}
    assert store.get(running.id).status == "running"
    assert found == {
        ("interactive", "default"): OpenWork(
            pipeline="toy", lane="interactive", tenant="default", seconds=2.0, unknown=(unknown.id,)
        ),
        ("batch", "a"): OpenWork(pipeline="toy", lane="batch", tenant="a", seconds=7.0),
    }


@pytest.mark.parametrize("query", [job_sums._WORK, job_sums._UNKNOWN, job_sums._DEPTHS])
def test_open_work_is_read_from_its_index_alone(query: str):
    """Admission adds it up at every submission."""
    with closing(sqlite3.connect(":memory:")) as connection:
        JOBS.bring_up_to_date(connection, "")
        steps = [row[-1] for row in connection.execute("EXPLAIN QUERY PLAN " + query)]
    assert steps[0] == "SCAN jobs USING COVERING INDEX jobs_work"
    assert len(steps) == 1 + (query == job_sums._DEPTHS), "nothing else is sorted"


class Explaining(sqlite3.Connection):
    """Tells how it would answer a query."""

    def execute(self, query: str, values: Any = ()) -> sqlite3.Cursor:  # type: ignore[override]
        return super().execute("EXPLAIN QUERY PLAN " + query, values)


@pytest.mark.parametrize("pipelines", [["a"], ["a", "b"]])
def test_jobs_are_taken_in_the_order_of_their_index(tmp_path: Path, pipelines: list[str]):
    """So that the first one that is found is taken, however many wait."""
    SqliteJobStore(tmp_path / "jobs.sqlite").close()
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite", factory=Explaining)) as connection:
        steps = [row[-1] for row in sqlite_leases.takeable(connection, pipelines, [], 0.0, 1, None)]
    assert steps == ["SEARCH jobs USING INDEX jobs_open (is_interactive=?)"]


def completed(bench: Bench, eta_s: float | None) -> str:
    record = bench.store.create(REQUEST, NOW, eta_s=eta_s)
    (lease,) = bench.lease()
    bench.clock.now += 1
    bench.store.finish(lease, result="x", actual_s=1.0)
    return record.id


def test_promises_of_completed_jobs_come_in_the_order_of_their_ends(bench: Bench):
    store, begin = bench.store, bench.clock.now
    first, _, second, third = (completed(bench, eta_s) for eta_s in (5.0, None, 6.0, 7.0))
    store.create(REQUEST, NOW, eta_s=1.0)
    found = store.kept_promises(since=0.0, limit=10)
    assert [kept.job_id for kept in found] == [first, second, third]
    assert found[0] == KeptPromise(
        job_id=first,
        pipeline="toy",
        lane="interactive",
        created_at=begin,
        eta_s=5.0,
        finished_at=begin + 1,
    )
    assert [kept.job_id for kept in store.kept_promises(since=begin + 4, limit=10)] == [third]
    assert [kept.job_id for kept in store.kept_promises(since=0.0, limit=2)] == [second, third]


def test_tallies_are_of_numbered_keys(bench: Bench):
    store = bench.store

    def create(key: str | None, tenant: str = "a", predicted_s: float | None = 0.5) -> str:
        options = JobOptions(tenant=tenant, idempotency_key=key)
        return store.create(REQUEST, options, predicted_s=predicted_s).id

    ids = [create(f"b/{number}", predicted_s=number) for number in range(1, 13)]
    others = ("b/", "b/x", "b", "c/1", "b0", "B/1", None)
    for key in others:
        create(key)
    create("b/1", tenant="other")
    (lease,) = bench.lease()
    store.finish(lease, result="x", actual_s=1.5)
    store.cancel(ids[1])
    store.forget(ids[1])
    store.cancel(ids[2])
    create("b/20", predicted_s=None)
    found = {tally.status: tally for tally in store.tallies("a", "b/", most=11, without=[4, 5, 99])}
    assert lease.job_id == ids[0]
    assert found == {
        "completed": Tally(status="completed", jobs=1, predicted_s=1.0, actual_s=1.5),
        "cancelled": Tally(status="cancelled", jobs=1, predicted_s=3.0, actual_s=0.0),
        "queued": Tally(status="queued", jobs=6, predicted_s=6.0 + 7 + 8 + 9 + 10 + 11, actual_s=0.0),
    }
    (queued,) = store.tallies("a", "b/", most=99, without=range(1, 13))
    assert queued == Tally(status="queued", jobs=1, predicted_s=0.0, actual_s=0.0), "nobody predicted it"
    assert store.tallies("a", "d/", most=99, without=()) == ()
