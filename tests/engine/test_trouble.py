"""What goes wrong around a unit: it is the affair of one job, and of no other."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_parts import FAST, FixedPlanner, hold, make_place, stage_of, working
from test_worker import alone, wait_until

from rushes.engine.client import StoreClient, result
from rushes.engine.local import LocalEngine
from rushes.engine.slots import Slot
from rushes.engine.waiting import MOST_PASSED
from rushes.errors import DeadlineExceeded, EngineError, OutputError, StageError, StoreError
from rushes.types import JobOptions
from tiny_parts import request, tiny_model


def test_a_parked_job_that_is_late_ends_and_the_others_begin(tmp_path):
    model = tiny_model()
    entered, goes_on = hold(model, "denoise")
    with working(tmp_path, model=model, planner=FixedPlanner(room=1)) as place:
        first = place.client.submit(request("a"))
        assert entered.wait(20)
        late = place.client.submit(request("b"), JobOptions(deadline_s=0.2))
        next_one = place.client.submit(request("c"))
        with pytest.raises(DeadlineExceeded):
            result(place.client, late)
        assert place.client.status(first).status == "running", "the deadline is kept while nothing ends"
        goes_on.set()
        for job_id in (first, next_one):
            result(place.client, job_id)


def test_a_job_without_room_is_not_passed_for_ever(tmp_path):
    class Planner(FixedPlanner):
        def fits(self, asked, beside):
            return not beside if asked.prompt == "big" else len(beside) < 2

    with working(tmp_path, planner=Planner(), policy=replace(FAST, max_active=100)) as place:
        small = [place.client.submit(request(f"s{n}", steps=20)) for n in range(4)]
        big = place.client.submit(request("big"))
        small += [place.client.submit(request(f"t{n}")) for n in range(3 * MOST_PASSED)]
        result(place.client, big)
        ended = sum(place.client.status(job_id).status == "completed" for job_id in small)
    assert ended <= len(small[:4]) + MOST_PASSED + 2


@pytest.mark.parametrize("place_of_error", ["preview", "observe", "saved"])
def test_errors_beside_a_unit_stop_nobody_else(tmp_path, place_of_error):
    model, planner = tiny_model(), FixedPlanner()
    place = make_place(tmp_path, model=model, planner=planner)

    def fails(*_):
        raise torch.OutOfMemoryError("no memory")

    if place_of_error == "preview":
        model.preview = fails
    elif place_of_error == "observe":
        planner.observe = fails
    else:
        saved = place.worker._recorder.saved
        place.worker._recorder.saved = lambda run: fails() if run.job.request.prompt == "a" else saved(run)
    options = {"a": JobOptions(preview_every=1), "b": JobOptions()}
    ids = {prompt: place.client.submit(request(prompt), options[prompt]) for prompt in "ab"}
    place.worker.start()
    if place_of_error == "observe":
        result(place.client, ids["a"])
    else:
        with pytest.raises(EngineError):
            result(place.client, ids["a"])
    result(place.client, ids["b"])
    place.worker.end()


def test_a_result_that_is_committed_stays(tmp_path):
    with working(tmp_path) as place:
        blobs = place.worker._recorder._blobs
        blobs.delete = lambda name: (_ for _ in ()).throw(StoreError("no permission"))
        job_id = place.client.submit(request(steps=6))
        result(place.client, job_id)
        wait_until(lambda: not place.worker.runs)
        assert not place.outlets[job_id].is_aborted


def test_a_results_folder_that_is_full_fails_the_job_once(tmp_path):
    def full(frames):
        raise StoreError("results: No space left on device")

    with working(tmp_path, on_write=full) as place:
        job_id = place.client.submit(request())
        with pytest.raises(OutputError, match="No space left"):
            result(place.client, job_id)
        assert place.client.status(job_id).token == 1


def test_events_that_cannot_be_written_cost_no_job(tmp_path):
    with working(tmp_path) as place:
        append = place.store.append

        def full(lease, kind, data):
            if kind in ("progress", "frames", "unsaved"):
                raise StoreError("jobs.sqlite: database or disk is full")
            return append(lease, kind, data)

        place.store.append = full
        job_id = place.client.submit(request())
        result(place.client, job_id)


def test_a_disk_that_is_full_for_checkpoints_costs_no_job(tmp_path):
    with working(tmp_path) as place:
        place.worker._recorder._blobs.write = lambda name, data: (_ for _ in ()).throw(StoreError("full"))
        job_id = place.client.submit(request())
        result(place.client, job_id)
        assert "unsaved" in [event.kind for event in place.store.events(job_id)]


def test_the_end_is_written_as_soon_as_the_store_is_back(tmp_path):
    with working(tmp_path) as place:
        finish, failures = place.store.finish, iter([StoreError("locked"), StoreError("locked")])

        def flaky(*args, **fields):
            for failure in failures:
                raise failure
            finish(*args, **fields)

        place.store.finish = flaky
        job_id = place.client.submit(request())
        result(place.client, job_id)
        assert place.client.status(job_id).deaths == 0


def test_after_no_memory_a_unit_runs_with_nothing_beside_it(tmp_path):
    model = tiny_model()
    running, most, failed = [], [], []
    for name in ("text_encode", "denoise", "vae_decode"):
        stage = stage_of(model, name)

        def counted(jobs, run=stage.run, name=name):
            prompts = [job.request.prompt for job in jobs]
            if name == "denoise" and "b" in prompts and not failed:
                failed.append(1)
                for job in jobs:
                    job.is_crowded = False
                raise torch.OutOfMemoryError("no memory")
            running.append(prompts)
            if failed and prompts == ["b"] and name == "denoise" and len(failed) == 1:
                failed.append(1)
                time.sleep(0.1)
                most.append((len(running), jobs[0].is_crowded))
            run(jobs)
            running.remove(prompts)

        stage.run = counted
    place = make_place(tmp_path, model=model)
    runner = place.worker._runner
    runner.slots = tuple(
        Slot(stages=(name,), device=model.device) for name in ("text_encode", "denoise", "vae_decode")
    )
    runner._threads = [
        threading.Thread(target=runner._work, args=(slot,), daemon=True) for slot in runner.slots
    ]
    ids = [place.client.submit(request(prompt)) for prompt in "abcdef"]
    place.worker.start()
    for job_id in ids:
        result(place.client, job_id)
    place.worker.end()
    assert most == [(1, True)], "nor may it leave work to the device behind its end"


def test_a_bug_of_ours_is_told_and_jobs_go_back_to_the_queue(tmp_path):
    place = make_place(tmp_path)

    def broken(now, stages):
        raise AssertionError("a bug")

    job_id = place.client.submit(request())
    place.worker._runner._scheduler.next = broken
    place.worker.start()
    assert place.worker.failed.wait(20)
    place.worker.drain()
    assert (place.store.get(job_id).status, place.store.get(job_id).deaths) == ("queued", 0)


def test_a_local_engine_that_fails_lets_nobody_wait():
    model = tiny_model()
    with LocalEngine(model) as engine:
        engine._worker._runner._scheduler.next = lambda now, stages: 1 / 0
        job_id = engine.submit(request())
        with pytest.raises(EngineError, match="bug"):
            for _ in engine.events(job_id):
                pass


def test_leaving_a_local_engine_waits_for_no_reader():
    stuck = threading.Event()
    with LocalEngine(tiny_model()) as engine:
        job_id = engine.submit(request(frames=9), on_frames=lambda frames: stuck.wait(0.5))
        for event in engine.events(job_id):
            if event.kind == "progress" and event.data["stage"] == "vae_decode":
                break
        begin = time.monotonic()
    assert time.monotonic() - begin < 2.0, "one write at most is waited for"


def test_an_error_in_on_frames_fails_the_job():
    def refuse(frames):
        raise ValueError("no")

    with LocalEngine(tiny_model()) as engine:
        job_id = engine.submit(request(), on_frames=refuse)
        with pytest.raises(EngineError, match="no"):
            result(engine, job_id)
        other = engine.submit(request())
        result(engine, other)


def test_a_hanging_unit_is_noticed(tmp_path):
    model = tiny_model()
    entered, goes_on = hold(model, "denoise")
    place = make_place(tmp_path, model=model, policy=replace(FAST, hang_floor_s=0.4))
    hung = threading.Event()
    place.worker._on_hang = hung.set
    place.client.submit(request())
    place.worker.start()
    assert entered.wait(20)
    assert hung.wait(5)
    goes_on.set()
    place.worker.end()
    assert place.worker._runner.in_flight == []


def test_a_request_sent_again_is_the_same_job_even_when_the_queue_is_full(tmp_path):
    class Full:
        def admit(self, asked, options):
            raise AssertionError("a job that is there already needs no room")

    place = make_place(tmp_path)
    options = JobOptions(idempotency_key="k")
    first = place.client.submit(request(), options)
    assert StoreClient(place.store, Full()).submit(request(), options) == first


def test_two_workers_share_what_waits(tmp_path):
    database = tmp_path / "jobs.sqlite"
    places = [make_place(tmp_path / "blobs", database=database) for _ in range(2)]
    ids = [places[0].client.submit(request(f"a {n}", steps=8, seed=n)) for n in range(12)]
    for place in places:
        place.worker.start()
    for job_id in ids:
        result(places[0].client, job_id)
    shares = [len(place.outlets) for place in places]
    for place in places:
        place.worker.end()
        place.store.close()
    assert sum(shares) == 12
    assert min(shares) >= 2


def test_what_a_job_reports_is_what_was_predicted_and_taken(tmp_path):
    with working(tmp_path) as place:
        job_id = place.client.submit(request())
        result(place.client, job_id)
        told = list(place.client.events(job_id))[-1].data
        assert told["predicted_s"] == 0.1
        assert told["actual_s"] == pytest.approx(sum(t["seconds"] for t in told["timings"]))
        assert np.array_equal(place.clip(job_id), alone(tiny_model(), request()))


def test_an_unexpected_error_while_a_job_is_taken_ends_that_job(tmp_path):
    with working(tmp_path) as place:
        pipeline = place.model.pipeline
        make = pipeline.job

        def picky(asked, *args, **fields):
            if asked.prompt == "bad":
                raise RuntimeError("boom")
            return make(asked, *args, **fields)

        pipeline.job = picky
        bad, good = place.client.submit(request("bad")), place.client.submit(request("good"))
        with pytest.raises(StageError, match="RuntimeError: boom"):
            result(place.client, bad)
        result(place.client, good)
