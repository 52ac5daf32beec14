"""Jobs that do not fit the worker that took them: left to a larger one, made smaller and told, or refused."""

from __future__ import annotations

import time
from dataclasses import replace
from threading import Event

import numpy as np
import pytest
from engine_parts import FAST, FixedPlanner, make_place, stage_of, working
from test_worker import NO_MEMORY, alone, wait_until

from rushes.engine.client import result
from rushes.engine.local import LocalEngine
from rushes.errors import EngineError, OutOfMemory
from rushes.types import FINAL, JobOptions
from tiny_parts import request, tiny_model

DEGRADABLE = JobOptions(degrade=True)


def changes_of(client, job_id):
    return [event.data["changes"] for event in client.events(job_id) if event.kind == "degraded"]


def test_a_job_that_does_not_fit_runs_smaller_and_is_told(tmp_path):
    with working(tmp_path, planner=FixedPlanner(max_frames=9)) as place:
        job_id = place.client.submit(request(frames=17), DEGRADABLE)
        record = result(place.client, job_id)
        assert changes_of(place.client, job_id) == [[["num_frames", 17, 9]]]
        assert record.request.video.num_frames == 9
        assert record.deaths == 0
        assert np.array_equal(place.clip(job_id), alone(tiny_model(), request(frames=9)))


@pytest.mark.parametrize(
    ("frames", "options"), [(17, JobOptions()), (21, DEGRADABLE)], ids=["not allowed", "too far"]
)
def test_what_may_not_be_made_smaller_is_refused(tmp_path, frames, options):
    with working(tmp_path, planner=FixedPlanner(max_frames=9)) as place:
        job_id = place.client.submit(request(frames=frames), options)
        with pytest.raises(OutOfMemory, match=f"num_frames: {frames}"):
            result(place.client, job_id)
        assert not changes_of(place.client, job_id)


def no_memory_from(model, stage, num_frames):
    """The device has none for a stage of clips that are so long."""
    found = stage_of(model, stage)
    run = found.run

    def run_if_small(jobs):
        if any(job.request.video.num_frames >= num_frames for job in jobs):
            raise NO_MEMORY
        run(jobs)

    found.run = run_if_small


@pytest.mark.parametrize("stage", ["denoise", "vae_decode"])
def test_no_memory_even_alone_is_tried_again_smaller(tmp_path, stage):
    """When it is decoded, there is a checkpoint of the larger clip."""
    model = tiny_model()
    no_memory_from(model, stage, 13)
    with working(tmp_path / "blobs", model=model) as place:
        job_id = place.client.submit(request(frames=17), DEGRADABLE)
        result(place.client, job_id)
        assert changes_of(place.client, job_id) == [[["num_frames", 17, 13]], [["num_frames", 17, 9]]]
        assert np.array_equal(place.clip(job_id), alone(tiny_model(), request(frames=9)))
        told = [e.data["start"] for e in place.client.events(job_id) if e.kind == "frames"]
        assert told[0] == 0
        wait_until(lambda: not place.worker.runs)
    assert not any((tmp_path / "blobs").iterdir())


def test_no_memory_ends_a_job_that_cannot_get_smaller(tmp_path):
    model = tiny_model()
    no_memory_from(model, "denoise", 1)
    with working(tmp_path, model=model) as place:
        job_id = place.client.submit(request(frames=9), DEGRADABLE)
        with pytest.raises(OutOfMemory):
            result(place.client, job_id)
        assert changes_of(place.client, job_id) == [[["num_frames", 9, 5]]], "at least half of what was asked"


def test_a_larger_worker_gets_what_a_small_one_took(tmp_path):
    """Nobody had said what it needs; it is left alone from then on, even where it might be degraded."""
    database = tmp_path / "jobs.sqlite"
    small = make_place(
        tmp_path / "a", database=database, planner=FixedPlanner(max_frames=5), most_elsewhere=lambda: 9
    )
    large = make_place(tmp_path / "b", database=database, planner=FixedPlanner(max_frames=9))
    job_id = small.client.submit(request(frames=9), DEGRADABLE)
    small.worker.start()
    wait_until(lambda: small.store.get(job_id).token == 1 and small.store.get(job_id).status == "queued")
    other = small.client.submit(request(frames=5))
    result(small.client, other)
    assert (small.store.get(job_id).status, small.store.get(job_id).token) == ("queued", 1)
    large.worker.start()
    record = result(large.client, job_id)
    assert (record.request.video.num_frames, record.deaths, record.token) == (9, 0, 2)
    for place in (small, large):
        place.worker.end()
        place.store.close()


@pytest.mark.parametrize(("frames", "options"), [(9, DEGRADABLE), (9, JobOptions()), (17, JobOptions())])
def test_a_job_left_to_a_larger_worker_is_not_left_to_nobody(tmp_path, frames, options):
    """Neither when that worker dies nor when it turns out to be too small as well."""
    sizes = [17]
    place = make_place(
        tmp_path / "a",
        database=tmp_path / "jobs.sqlite",
        planner=FixedPlanner(max_frames=5),
        most_elsewhere=lambda: sizes[0],
    )
    job_id = place.client.submit(request(frames=frames), options)
    place.worker.start()
    wait_until(lambda: place.store.get(job_id).token == 1 and place.store.get(job_id).status == "queued")
    result(place.client, place.client.submit(request(frames=5)))
    assert place.store.get(job_id).token == 1, "left alone while the larger worker lives"
    sizes[0] = 5  # it is gone; another that is no larger remains
    if options.degrade:
        assert result(place.client, job_id).request.video.num_frames == 5
    else:
        with pytest.raises(OutOfMemory):
            result(place.client, job_id)
    place.worker.end()
    place.store.close()


def test_what_no_worker_can_hold_is_refused(tmp_path):
    options = {"planner": FixedPlanner(max_frames=5), "most_elsewhere": lambda: 8}
    with working(tmp_path, **options) as place:
        job_id = place.client.submit(request(frames=9))
        with pytest.raises(OutOfMemory, match="num_frames: 9"):
            result(place.client, job_id)


class CountedStore:
    """A store that counts words of life."""

    def __init__(self, store):
        self._store = store
        self.num_beats = 0

    def __getattr__(self, name):
        return getattr(self._store, name)

    def heartbeat(self, *args, **fields):
        self.num_beats += 1
        return self._store.heartbeat(*args, **fields)


def test_heartbeats_follow_the_lease_and_not_the_polls(tmp_path):
    place = make_place(tmp_path, policy=replace(FAST, lease_s=600.0))
    store = place.worker._store = CountedStore(place.store)
    ids = [place.client.submit(request(f"a {n}", steps=8)) for n in range(4)]
    place.worker.start()
    for job_id in ids:
        result(place.client, job_id)
    place.worker.end()
    assert store.num_beats <= 1, "a third of ten minutes has not passed"


def test_a_clock_that_jumps_asks_for_a_heartbeat(tmp_path):
    now = [1000.0]
    place = make_place(tmp_path, policy=replace(FAST, lease_s=600.0), clock=lambda: now[0])
    store = place.worker._store = CountedStore(place.store)
    dues = []
    for jump in (0.0, 100.0, 99.0, 3600.0, -7200.0, 0.0):
        now[0] += jump
        dues.append(place.worker._beat_if_due())
    assert dues == [True, False, False, True, True, False]
    assert store.num_beats == 0, "it holds nothing"


def test_a_local_engine_can_be_left_while_a_unit_hangs():
    model, goes_on = tiny_model(), Event()
    denoise = stage_of(model, "denoise")
    denoise.run = lambda jobs: goes_on.wait(60)
    policy = replace(FAST, checkpoint_every=0, hang_floor_s=0.2)
    begin = time.monotonic()
    with pytest.raises(EngineError, match="a unit hangs"), LocalEngine(model, policy=policy) as engine:
        list(engine.events(engine.submit(request())))
    assert time.monotonic() - begin < 30
    assert not engine._worker._recorder.leases
    goes_on.set()


def test_a_local_engine_hears_of_a_cancellation_at_once():
    """Its store is in memory: it is told, and does not wait for its next look."""
    policy = replace(FAST, listen_s=30.0, poll_s=30.0, checkpoint_every=0)
    with LocalEngine(tiny_model(), policy=policy) as engine:
        job_id = engine.submit(request(steps=2000))
        for event in engine.events(job_id):
            if event.kind == "progress":
                break
        engine.cancel(job_id)
        last = list(engine.events(job_id))[-1]
    assert last.kind == "cancelled"
    assert last.kind in FINAL
