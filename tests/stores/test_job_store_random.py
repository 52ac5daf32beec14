"""Random lives of jobs, on two stores of one file, against a model in plain Python."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from job_model import ENDED, JobModel, ModelJob
from store_parts import Clock, with_seed

from rushes.errors import IdempotencyConflict, LeaseLost, UnknownJob
from rushes.stores.base import Lease
from rushes.stores.sqlite import SqliteJobStore
from rushes.types import JobOptions

OWNERS = st.sampled_from(["alice", "bob"])
TTLS = st.sampled_from([10.0, 30.0])
NEEDS = st.sampled_from([None, 10, 20])
PICKS = st.integers(0, 10**6)


class JobStoreMachine(RuleBasedStateMachine):
    """Every lease that was ever given goes on writing; only the latest of a running job may succeed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.clock = Clock()
        self.model = JobModel()
        self.leases: list[Lease] = []
        self.stores = [self.open(), self.open()]
        self.num_names = 0
        self.swept: list[str] = []

    def open(self) -> SqliteJobStore:
        return SqliteJobStore(self.folder / "jobs.db", clock=self.clock)

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        shutil.rmtree(self.folder)

    @property
    def store(self) -> SqliteJobStore:
        """The other one each time."""
        self.stores.reverse()
        return self.stores[0]

    def name(self) -> str:
        self.num_names += 1
        return f"file {self.num_names}"

    @initialize()
    def a_few_jobs(self) -> None:
        for seed in (1, 2):
            self.create("batch", seed, None)

    @rule(
        lane=st.sampled_from(["batch", "interactive"]),
        seed=st.integers(0, 1),
        key=st.sampled_from([None, "a", "b"]),
        needs=NEEDS,
    )
    def create(self, lane: str, seed: int, key: str | None, needs: int | None = None) -> None:
        options = JobOptions(lane=lane, idempotency_key=key)  # type: ignore[arg-type]
        earlier, earlier_seed = self.model.keys.get(key or "", (None, seed))
        if seed != earlier_seed:
            with pytest.raises(IdempotencyConflict):
                self.store.create(with_seed(seed), options)
            return
        record = self.store.create(with_seed(seed), options, needs_bytes=needs)
        if earlier is None:
            assert record.id not in self.model.jobs
            self.model.add(record.id, lane == "interactive", seed, key, needs)
        else:
            assert record.id == earlier

    @rule(owner=OWNERS, limit=st.integers(0, 3), ttl_s=TTLS, most=NEEDS)
    def lease(self, owner: str, limit: int, ttl_s: float, most: int | None) -> None:
        records = self.store.lease(owner, pipelines=["toy", "wan"], limit=limit, ttl_s=ttl_s, most_bytes=most)
        expected = self.model.lease(owner, limit, self.clock.now, ttl_s, most)
        assert [(record.id, record.token) for record in records] == expected
        self.leases += [Lease(job_id=record.id, owner=owner, token=record.token) for record in records]

    @precondition(lambda self: self.leases)
    @rule(picks=st.lists(PICKS, max_size=4), owner=OWNERS, ttl_s=TTLS)
    def heartbeat(self, picks: list[int], owner: str, ttl_s: float) -> None:
        leases = {self.leases[pick % len(self.leases)] for pick in picks}
        heard = self.store.heartbeat(owner, leases, ttl_s=ttl_s)
        held = [(lease, self.model.held(lease)) for lease in leases]
        for _, job in held:
            if job:
                job.until, job.ttl_s = self.clock.now + ttl_s, ttl_s
        assert heard.lost == {lease.job_id for lease, job in held if not job}
        assert heard.cancelled == {lease.job_id for lease, job in held if job and job.wants_cancel}

    @precondition(lambda self: self.leases)
    @rule(picks=st.lists(PICKS, max_size=4))
    def hear(self, picks: list[int]) -> None:
        leases = {self.leases[pick % len(self.leases)] for pick in picks}
        heard = self.store.hear(leases)
        held = [(lease, self.model.held(lease)) for lease in leases]
        assert heard.lost == {lease.job_id for lease, job in held if not job}
        assert heard.cancelled == {lease.job_id for lease, job in held if job and job.wants_cancel}

    @precondition(lambda self: self.leases)
    @rule(
        pick=PICKS,
        what=st.sampled_from(
            ["append", "checkpoint", "amend", "finish", "fail", "cancelled", "release", "append"]
        ),
    )
    def write(self, pick: int, what: str) -> None:
        lease = self.leases[-1 - pick % min(len(self.leases), 6)]
        job = self.model.held(lease)
        if job is None:
            with pytest.raises(LeaseLost):
                self.write_as(what, lease, self.name())
        else:
            name = self.name()
            replaced = job.checkpoint if what in ("checkpoint", "amend") else None
            assert self.write_as(what, lease, name) == replaced
            self.tell(what, job, name)

    def write_as(self, what: str, lease: Lease, name: str) -> str | None:
        store = self.store
        if what == "checkpoint":
            return store.checkpoint(lease, name)
        if what == "append":
            store.append(lease, "progress", {"name": name})
        elif what == "amend":
            return store.amend(lease, with_seed(9))
        elif what == "finish":
            store.finish(lease, result=name, actual_s=1)
        elif what == "fail":
            store.fail(lease, error=name, error_kind="StageError")
        else:
            getattr(store, what)(lease)
        return None

    def tell(self, what: str, job: ModelJob, name: str) -> None:
        now = self.clock.now
        if what == "append":
            job.kinds.append("progress")
        elif what == "checkpoint":
            job.checkpoint = name
        elif what == "amend":
            job.seed, job.checkpoint, job.needs = 9, None, None
        elif what == "release":
            self.model.release(job, now)
        else:
            job.result = name if what == "finish" else None
            job.end({"finish": "completed", "fail": "failed"}.get(what, what), now)

    @precondition(lambda self: self.model.jobs)
    @rule(pick=PICKS)
    def cancel(self, pick: int) -> None:
        job = list(self.model.jobs.values())[pick % len(self.model.jobs)]
        record = self.store.cancel(job.id)
        self.model.cancel(job, self.clock.now)
        assert (record.status, record.wants_cancel) == (job.status, job.wants_cancel)

    @rule(seconds=st.sampled_from([10.0, 30.0, 0.5, -4 * 3600.0, 4 * 3600.0, -10.0]))
    def time_passes_or_jumps(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(ttl_s=st.sampled_from([0.0, 20.0, 3600.0]), max_jobs=st.integers(0, 4))
    def sweep(self, ttl_s: float, max_jobs: int) -> None:
        gone = set(self.model.jobs)
        swept = self.store.sweep(ttl_s=ttl_s, max_jobs=max_jobs)
        checkpoints, results = self.model.sweep(ttl_s, max_jobs, self.clock.now)
        gone -= set(self.model.jobs)
        assert (sorted(swept.checkpoints), sorted(swept.results)) == (sorted(checkpoints), sorted(results))
        assert swept.jobs == len(gone)
        self.swept += [*swept.checkpoints, *swept.results]
        assert len(set(self.swept)) == len(self.swept)
        for job_id in gone:
            with pytest.raises(UnknownJob):
                self.store.get(job_id)

    @rule()
    def restart(self) -> None:
        self.stores[1].close()
        self.stores[1] = self.open()

    @invariant()
    def no_job_is_lost_and_each_is_as_it_should_be(self) -> None:
        store = self.store
        newest_first = sorted(self.model.jobs.values(), key=lambda job: -job.number)
        records = store.jobs(limit=1000)
        assert [record.id for record in records] == [job.id for job in newest_first]
        for record, job in zip(records, newest_first, strict=True):
            for name in ("status", "token", "deaths", "checkpoint", "result", "wants_cancel"):
                assert getattr(record, name) == getattr(job, name), name
            assert record.request == with_seed(job.seed)
            assert (record.finished_at is not None) == (record.status in ENDED)
            events = [(event.number, event.kind) for event in store.events(job.id)]
            assert events == list(enumerate(job.kinds, start=1))


TestJobStoreMachine = JobStoreMachine.TestCase
TestJobStoreMachine.settings = settings(
    max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
