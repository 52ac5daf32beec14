"""What a worker announces is what a client predicts by."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from rushes.engine.announcements import (
    FRESH_S,
    Announcement,
    Elsewhere,
    Roster,
    StoreAdmission,
    announce,
    metrics_urls,
    withdraw,
    workers,
)
from rushes.engine.client import StoreClient
from rushes.engine.planner import calibrate, planner_for
from rushes.errors import InvalidRequest, QueueFull, StoreError
from rushes.stores.base import Lease
from rushes.stores.disk import BlobFolder
from rushes.stores.sqlite import SqliteJobStore
from rushes.types import JobOptions
from tiny_parts import request, tiny_model


@pytest.fixture(scope="module")
def planner():
    model = tiny_model()
    planner = planner_for(model)
    calibrate(planner, model)
    return planner


@pytest.fixture
def folder(tmp_path):
    return BlobFolder(tmp_path)


def word_of(planner, **changes):
    return replace(planner.announcement("a"), **{"at": 1000.0, **changes})


def test_an_announcement_survives_its_bytes(planner):
    word = word_of(planner)
    assert Announcement.from_bytes(word.to_bytes()) == word
    with pytest.raises(StoreError, match="cannot be read"):
        Announcement.from_bytes(b'{"owner": 1}')


def test_the_dead_are_not_heard(planner, folder):
    announce(folder, word_of(planner))
    announce(folder, word_of(planner, owner="other", pipeline="wan2.2-t2v-a14b"))
    assert [word.owner for word in workers(folder, "toy", clock=lambda: 1000.0 + FRESH_S)] == ["a"]
    assert not workers(folder, "toy", clock=lambda: 1001.0 + FRESH_S)
    assert not folder.names(), "nobody needs a dead worker's word"
    announce(folder, word_of(planner))
    withdraw(folder, "a")
    assert not folder.names()


def admission(planner, folder, **changes):
    announce(folder, word_of(planner, **changes))
    store = SqliteJobStore(":memory:")
    return store, StoreAdmission(store, folder, clock=lambda: 1001.0)


def test_calibration_makes_the_first_promise_realistic(planner, folder):
    _, admits = admission(planner, folder)
    promise = admits.admit(request(), JobOptions())
    assert 0 < promise.predicted_s < 10


def test_a_promise_grows_with_the_backlog(planner, folder):
    store, admits = admission(planner, folder)
    first = admits.admit(request(), JobOptions())
    assert first.predicted_s > 0
    assert first.eta_s >= first.predicted_s
    store.create(request(), JobOptions(), predicted_s=100.0)
    assert admits.admit(request(), JobOptions()).eta_s >= first.eta_s + 100
    store.close()


def test_two_workers_share_the_backlog(planner, folder):
    store, admits = admission(planner, folder)
    store.create(request(), JobOptions(), predicted_s=100.0)
    alone = admits.admit(request(), JobOptions()).eta_s
    announce(folder, word_of(planner, owner="b"))
    assert admits.admit(request(), JobOptions()).eta_s < 0.6 * alone
    store.close()


def test_a_full_queue_says_when_to_come_again(planner, folder):
    store, admits = admission(planner, folder)
    store.create(request(), JobOptions(lane="interactive"), predicted_s=500.0)
    with pytest.raises(QueueFull) as refused:
        admits.admit(request(), JobOptions(lane="interactive"))
    assert refused.value.retry_after_s > 100
    store.close()


def test_what_cannot_fit_is_refused_with_what_would(planner, folder):
    _, admits = admission(planner, folder, budget_bytes=planner.memory.weights_bytes + 2 * 10**9 + 10**6)
    with pytest.raises(InvalidRequest, match="would fit"):
        admits.admit(request(frames=4001), JobOptions())


def test_without_a_worker_nothing_is_promised(folder):
    store = SqliteJobStore(":memory:")
    assert StoreAdmission(store, folder).admit(request(), JobOptions()) is None
    store.close()


def test_the_least_worker_that_can_hold_a_job_promises_it(planner, folder):
    needed = planner.needed_bytes(request(frames=401))
    announce(folder, word_of(planner, owner="small", budget_bytes=needed - 1, reserve_bytes=0))
    store, admits = admission(planner, folder, budget_bytes=needed, reserve_bytes=0)
    promise = admits.admit(request(frames=401), JobOptions())
    assert (promise.peak_bytes, promise.changes) == (needed, ())
    job_id = StoreClient(store, admits).submit(request(frames=401), JobOptions())
    leases = [
        store.lease("w", pipelines=["toy"], limit=1, ttl_s=9, most_bytes=most)
        for most in (needed - 1, needed)
    ]
    assert [[record.id for record in leased] for leased in leases] == [[], [job_id]]
    store.close()


def test_the_largest_other_worker(planner, folder):
    now = time.time()

    def most_elsewhere(folder, pipeline, owner):
        return Elsewhere(folder, pipeline, owner)()

    assert most_elsewhere(folder, "toy", "a") == 0
    for owner, budget in (("a", 900), ("b", 500), ("c", 700)):
        announce(folder, word_of(planner, owner=owner, at=now, budget_bytes=budget, reserve_bytes=100))
    assert most_elsewhere(folder, "toy", "a") == 600
    assert most_elsewhere(folder, "toy", "b") == 800
    assert most_elsewhere(folder, "wan2.2-t2v-a14b", "b") == 0


def test_workers_tell_where_their_metrics_are(planner, folder):
    urls = {"host-12": "http://127.0.0.1:1/metrics"}
    now = time.time()
    announce(folder, word_of(planner, owner="host-12-abc", metrics_url=urls["host-12"], at=now))
    announce(folder, word_of(planner, owner="host-13-abd", at=now))
    announce(folder, word_of(planner, owner="host-14-abe", metrics_url="http://x/", at=now - 60))
    assert metrics_urls(folder) == urls
    older = json.loads(word_of(planner, owner="old", at=now).to_bytes())
    del older["metrics_url"]
    folder.write("worker-old.json", json.dumps(older).encode())
    assert metrics_urls(folder) == urls, "a worker of an earlier version is no trouble"


def test_a_roster_looks_again_after_a_while_only(planner, folder):
    announce(folder, word_of(planner))
    now = 1000.0
    seldom = Roster(folder, look_s=1000.0, clock=lambda: now)
    always = Roster(folder, clock=lambda: now)
    assert [word.owner for word in seldom.words] == ["a"]
    announce(folder, word_of(planner, owner="b"))
    assert [word.owner for word in seldom.of("toy")] == ["a"]
    assert [word.owner for word in always.of("toy")] == ["a", "b"]
    now = 1001.0 + FRESH_S
    assert not seldom.words, "what it remembers grows old too"


def test_jobs_that_nobody_predicted_count(planner, folder):
    store, admits = admission(planner, folder)
    first = admits.admit(request(), JobOptions())
    queued = [store.create(request(), JobOptions()) for _ in range(3)]
    behind = admits.admit(request(), JobOptions())
    assert behind.eta_s > 3 * first.eta_s
    for record in queued:
        store.cancel(record.id)
    assert admits.admit(request(), JobOptions()).eta_s < behind.eta_s
    store.close()


def test_every_kept_promise_is_learned_from_once(planner, folder):
    """A margin is set anew after 40 jobs: what took a tenth of its promise shortens the next ones, and jobs
    of an earlier look do not count a second time."""
    announce(folder, word_of(planner))
    clock = 1000.0
    store = SqliteJobStore(":memory:", clock=lambda: clock)
    admits = StoreAdmission(store, folder, clock=lambda: 1001.0)
    first = admits.admit(request(), JobOptions())
    for number in range(39):
        job = store.create(request(), JobOptions(), predicted_s=1.0, eta_s=10.0)
        (record,) = store.lease("w", pipelines=["toy"], limit=1, ttl_s=9)
        assert record.id == job.id
        clock += 0.01
        store.finish(Lease(job_id=job.id, owner="w", token=record.token), result="x", actual_s=1.0)
        if number % 10 == 0:
            admits.admit(request(), JobOptions())
    assert admits.admit(request(), JobOptions()).eta_s == pytest.approx(first.eta_s, rel=0.2)
    store.create(request(), JobOptions(), predicted_s=1e-9, eta_s=10.0)
    (record,) = store.lease("w", pipelines=["toy"], limit=1, ttl_s=9)
    store.finish(Lease(job_id=record.id, owner="w", token=record.token), result="x", actual_s=1.0)
    assert admits.admit(request(), JobOptions()).eta_s < 0.5 * first.eta_s
    store.close()


def test_the_files_of_other_workers_are_not_read_at_every_look(planner, folder):
    seldom = Elsewhere(folder, "toy", "a", look_s=1000.0)
    assert seldom() == 0
    announce(folder, word_of(planner, owner="b", at=time.time(), budget_bytes=500, reserve_bytes=100))
    assert seldom() == 0, "not read again"
    assert Elsewhere(folder, "toy", "a")() == 400


def test_workers_of_every_pipeline_can_be_asked_for(planner, folder):
    for owner, pipeline in (("a", "toy"), ("b", "wan2.2-t2v-a14b")):
        announce(folder, word_of(planner, owner=owner, at=time.time(), pipeline=pipeline))
    announce(folder, word_of(planner, owner="dead", at=time.time() - 60))
    assert [word.owner for word in Roster(folder).words] == ["a", "b"]
