"""What a worker announces is what a client predicts by."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from rushes.engine.announcements import (
    ANNOUNCE_S,
    FRESH_S,
    Announcement,
    Elsewhere,
    StoreAdmission,
    announce,
    everybody,
    withdraw,
    workers,
)
from rushes.engine.client import StoreClient
from rushes.engine.planner import calibrate, planner_for
from rushes.errors import InvalidRequest, QueueFull, StoreError
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


def test_the_files_of_other_workers_are_read_once_between_two_of_their_words(planner, folder):
    clock = [100.0]
    elsewhere = Elsewhere(folder, "toy", "a", clock=lambda: clock[0])
    assert elsewhere() == 0
    announce(folder, word_of(planner, owner="b", at=time.time(), budget_bytes=500, reserve_bytes=100))
    assert elsewhere() == 0, "not read again"
    clock[0] += ANNOUNCE_S
    assert elsewhere() == 400


def test_workers_of_every_pipeline_can_be_asked_for(planner, folder):
    for owner, pipeline in (("a", "toy"), ("b", "wan2.2-t2v-a14b")):
        announce(folder, word_of(planner, owner=owner, at=time.time(), pipeline=pipeline))
    announce(folder, word_of(planner, owner="dead", at=time.time() - 60))
    assert [word.owner for word in everybody(folder)] == ["a", "b"]
