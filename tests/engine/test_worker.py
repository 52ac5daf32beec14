"""A worker over a store: what jobs become, and what one job's trouble does to others."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_parts import FAST, FixedPlanner, KeptFrames, hold, make_place, stage_of, working

from rushes.engine.client import result
from rushes.errors import (
    CheckpointError,
    DeadlineExceeded,
    JobCancelled,
    OutOfMemory,
    OutputError,
    RushesError,
    StageError,
)
from rushes.types import JobOptions
from tiny_parts import request, tiny_model

SOLVERS = ("euler", "unipc", "dpmpp-2m", "ddim", "lcm")


def alone(model, asked):
    """The frames of a request by the library's own loop."""
    job = model.pipeline.job(asked, _nothing())
    frames = []
    while stage := model.pipeline.current(job):
        stage.run([job])
        frames += [each.frames for each in job.frames]
        job.frames.clear()
    return np.concatenate(frames)


def _nothing():
    from rushes.stages.base import Given

    return Given()


def wait_until(condition, timeout_s=20.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


@pytest.mark.parametrize("max_batch", [1, 8])
def test_clips_are_those_of_the_library(tmp_path, max_batch):
    asked = [request(f"a dog {n}", seed=n, solver=solver) for n, solver in enumerate(SOLVERS)]
    with working(tmp_path, max_batch=max_batch) as place:
        ids = [place.client.submit(each) for each in asked]
        for job_id in ids:
            result(place.client, job_id)
        clips = [place.clip(job_id) for job_id in ids]
    for clip, each in zip(clips, asked, strict=True):
        if max_batch == 1:
            assert np.array_equal(clip, alone(tiny_model(), each))
        else:
            assert np.abs(clip.astype(int) - alone(tiny_model(), each)).max() <= 1


def test_jobs_share_forwards(tmp_path):
    place = make_place(tmp_path)
    ids = [place.client.submit(request(f"a dog {n}", seed=n)) for n in range(4)]
    place.worker.start()
    for job_id in ids:
        result(place.client, job_id)
    place.worker.end()
    assert ("denoise", 4) in place.planner.observed


def test_events_tell_the_whole_way(tmp_path):
    with working(tmp_path) as place:
        job_id = place.client.submit(request(), JobOptions(preview_every=1))
        events = list(place.client.events(job_id))
        record = place.client.status(job_id)
    kinds = [event.kind for event in events]
    assert kinds[:2] == ["queued", "started"]
    assert kinds[-1] == "completed"
    assert kinds.count("preview") == 3
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    frames = [event.data for event in events if event.kind == "frames"]
    assert [each["start"] for each in frames] == [0, 1, 3]
    assert sum(each["num_frames"] for each in frames) == 5
    told = events[-1].data
    assert told["seed"] == 0
    assert [timing["stage"] for timing in told["timings"]] == ["text_encode", "denoise", "vae_decode"]
    assert record.status == "completed"
    assert record.actual_s == told["actual_s"] > 0


def test_a_cancelled_job_is_free_after_one_unit(tmp_path):
    model = tiny_model()
    entered, goes_on = hold(model, "denoise")
    with working(tmp_path, model=model) as place:
        job_id = place.client.submit(request(steps=50))
        assert entered.wait(20)
        job = place.worker.runs[job_id].job
        place.client.cancel(job_id)
        wait_until(lambda: place.worker.runs[job_id].ending is not None)  # the heartbeat hears of it
        goes_on.set()
        with pytest.raises(JobCancelled):
            result(place.client, job_id)
        assert job.text is job.denoise is job.decode is None
        assert not job.latents
        assert place.outlets[job_id].is_aborted
        assert job.timings["denoise"].units <= 2


def cannot_be_written(frames):
    raise OutputError("the disk is full")


@pytest.mark.parametrize("ending", ["completed", "cancelled", "failed", "not delivered"])
def test_what_a_job_held_goes_when_it_ends(tmp_path, ending):
    model, opened = tiny_model(), []
    entered, goes_on = hold(model, "denoise")

    def outlet(record):
        kept = KeptFrames(cannot_be_written if ending == "not delivered" else None)
        opened.append(weakref.ref(kept))
        return kept

    gc.disable()  # so that it goes by itself: a worker's garbage is seldom looked through
    try:
        with working(tmp_path, model=model, outlet=outlet) as place:
            job_id = place.client.submit(request())
            assert entered.wait(20)
            if ending == "cancelled":
                place.client.cancel(job_id)
                wait_until(lambda: place.worker.runs[job_id].ending is not None)
            if ending == "failed":
                Faults(model, "vae_decode", caused_error(), prompts=[request().prompt], times=99)
            goes_on.set()
            status = "failed" if ending == "not delivered" else ending
            wait_until(lambda: place.store.get(job_id).status == status)
            wait_until(lambda: opened[0]() is None)
    finally:
        gc.enable()


def caused_error():
    """One that came of another, as a loader's do."""
    try:
        raise OSError("truncated")
    except OSError as cause:
        error = ValueError("broken")
        error.__cause__ = cause
        return error


def test_a_failing_load_holds_nothing_of_the_job(tmp_path):
    model, opened, made = tiny_model(), [], []

    def outlet(record):
        kept = KeptFrames()
        opened.append(weakref.ref(kept))
        return kept

    def prepare(job):
        weights = torch.zeros(8)
        made.append(weakref.ref(weights))
        try:
            raise OSError("truncated")
        except OSError as error:
            raise CheckpointError("cannot be read") from error

    stage_of(model, "denoise").prepare = prepare
    gc.disable()
    try:
        with working(tmp_path, model=model, outlet=outlet) as place:
            job_id = place.client.submit(request())
            wait_until(lambda: place.store.get(job_id).status == "failed")
            wait_until(lambda: opened[0]() is None and made[0]() is None)
    finally:
        gc.enable()


def test_a_job_that_is_late_when_it_is_taken_is_not_begun(tmp_path):
    opened = []
    place = make_place(tmp_path, outlet=opened.append)
    job_id = place.client.submit(request(), JobOptions(deadline_s=0.01))
    time.sleep(0.05)
    place.worker.start()
    with pytest.raises(DeadlineExceeded, match=r"not begun within 0\.01 s"):
        result(place.client, job_id)
    assert not opened
    place.worker.end()


def test_an_outlet_that_cannot_even_be_given_up_ends_its_job(tmp_path):
    class Stubborn(KeptFrames):
        def abort(self):
            raise ValueError("no")

    model = tiny_model()
    entered, goes_on = hold(model, "denoise")
    with working(tmp_path, model=model, outlet=lambda record: Stubborn()) as place:
        job_id = place.client.submit(request())
        assert entered.wait(20)
        place.client.cancel(job_id)
        goes_on.set()
        with pytest.raises(JobCancelled):
            result(place.client, job_id)
        wait_until(lambda: not place.worker.runs)


def test_a_bug_on_a_thread_of_the_worker_is_told(tmp_path):
    place = make_place(tmp_path)
    place.planner.__class__ = type("Broken", (FixedPlanner,), {"most_bytes": property(lambda _: 1 / 0)})
    place.worker.start()
    assert place.worker.failed.wait(20)
    place.worker.abandon()
    place.store.close()


@pytest.mark.parametrize("times", [1, 2])
def test_memory_that_is_missing_when_a_job_is_taken_up_is_asked_for_twice(tmp_path, times):
    model = tiny_model()
    left, job = [NO_MEMORY] * times, model.pipeline.job

    def make(*args, **kwargs):
        if left:
            raise left.pop()
        return job(*args, **kwargs)

    model.pipeline.job = make
    with working(tmp_path, model=model) as place:
        job_id = place.client.submit(request())
        if times == 1:
            result(place.client, job_id)
        else:
            with pytest.raises(OutOfMemory, match="no memory to take it up, tried twice"):
                result(place.client, job_id)


def test_a_queued_job_is_cancelled_at_once(tmp_path):
    place = make_place(tmp_path)
    job_id = place.client.submit(request())
    assert place.client.cancel(job_id).status == "cancelled"
    assert [event.kind for event in place.client.events(job_id)] == ["queued", "cancelled"]


class Faults:
    """Makes a stage raise for chosen jobs."""

    def __init__(self, model, stage, error, *, prompts, times):
        self.left = times
        found = stage_of(model, stage)
        run = found.run

        def faulty(jobs):
            if self.left and any(job.request.prompt in prompts for job in jobs):
                self.left -= 1
                raise error
            run(jobs)

        found.run = faulty


NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("stage", ["text_encode", "denoise", "vae_decode"])
def test_out_of_memory_once_costs_nobody_anything(tmp_path, stage):
    model = tiny_model()
    place = make_place(tmp_path, model=model)
    Faults(model, stage, NO_MEMORY, prompts=("b",), times=1)
    ids = [place.client.submit(request(prompt, seed=1)) for prompt in "abc"]
    place.worker.start()
    for job_id, prompt in zip(ids, "abc", strict=True):
        result(place.client, job_id)
        clip, wanted = place.clip(job_id), alone(tiny_model(), request(prompt, seed=1))
        assert np.abs(clip.astype(int) - wanted).max() <= 1
    place.worker.end()


def test_out_of_memory_alone_fails_that_job_and_the_next_runs(tmp_path):
    model = tiny_model()
    faults = Faults(model, "denoise", NO_MEMORY, prompts=("b",), times=10**6)
    with working(tmp_path, model=model) as place:
        bad, good = place.client.submit(request("b")), place.client.submit(request("c"))
        with pytest.raises(OutOfMemory, match="even alone on the device: CUDA out of memory"):
            result(place.client, bad)
        result(place.client, good)
        after = place.client.submit(request("d"))
        result(place.client, after)
        assert np.array_equal(place.clip(after), alone(tiny_model(), request("d")))
    assert 10**6 - faults.left <= 3, "one batch, one retry alone, one more at most"


def test_an_unexpected_error_fails_one_job_of_a_batch(tmp_path):
    model = tiny_model()
    place = make_place(tmp_path, model=model)
    Faults(model, "denoise", RuntimeError("boom"), prompts=("b",), times=10**6)
    ids = {prompt: place.client.submit(request(prompt)) for prompt in "abc"}
    place.worker.start()
    with pytest.raises(StageError, match="denoise: unexpected RuntimeError: boom"):
        result(place.client, ids["b"])
    for prompt in "ac":
        result(place.client, ids[prompt])
    place.worker.end()


def test_a_slow_consumer_delays_nobody(tmp_path):
    goes_on = threading.Event()

    with working(tmp_path) as place:
        slow = place.client.submit(request("slow"))
        wait_until(lambda: slow in place.outlets)
        place.outlets[slow].on_write = lambda frames: goes_on.wait(20)
        others = [place.client.submit(request(f"b{n}")) for n in range(2)]
        for job_id in others:
            result(place.client, job_id)
        assert place.client.status(slow).status == "running"
        goes_on.set()
        result(place.client, slow)


def test_a_full_disk_fails_the_job_that_writes(tmp_path):
    def full(frames):
        raise OutputError("x.mp4: No space left on device")

    with working(tmp_path, on_write=full) as place:
        job_id = place.client.submit(request())
        with pytest.raises(RushesError, match="No space left on device"):
            result(place.client, job_id)
        assert place.client.status(job_id).error_kind == "OutputError"
        assert place.outlets[job_id].is_aborted


def test_a_deadline_ends_a_job(tmp_path):
    with working(tmp_path) as place:
        job_id = place.client.submit(request(steps=400), JobOptions(deadline_s=0.3))
        with pytest.raises(DeadlineExceeded, match=r"not finished within 0\.3 s"):
            result(place.client, job_id)


def test_what_does_not_fit_is_refused_and_the_rest_waits_for_room(tmp_path):
    planner = FixedPlanner(room=1, max_frames=5)
    with working(tmp_path, planner=planner) as place:
        too_long = place.client.submit(request(frames=9))
        ids = [place.client.submit(request(f"a {n}")) for n in range(3)]
        with pytest.raises(OutOfMemory, match="num_frames: 9"):
            result(place.client, too_long)
        for job_id in ids:
            result(place.client, job_id)
    assert all(num == 1 for _, num in planner.observed)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("mode", ["full", "causal"])
def test_a_drained_job_goes_on_elsewhere_with_the_same_bytes(tmp_path, solver, mode):
    asked = request(steps=6, solver=solver, mode=mode)
    database = tmp_path / "jobs.sqlite"
    first = make_place(tmp_path / "blobs", database=database, max_batch=1)
    job_id = first.client.submit(asked)
    first.worker.start()
    wait_until(lambda: sum(e.kind == "progress" for e in first.store.events(job_id)) >= 4)
    first.worker.drain()
    record = first.store.get(job_id)
    first.store.close()
    if record.status == "completed":
        pytest.fail("the job was over before it was drained: give it more steps")
    assert (record.status, record.deaths) == ("queued", 0)
    with working(tmp_path / "blobs", database=database, max_batch=1) as second:
        result(second.client, job_id)
        resumed = [event for event in second.store.events(job_id) if event.kind == "resumed"]
        assert resumed[0].data["steps"] >= 1
        assert np.array_equal(second.clip(job_id), alone(tiny_model(), asked))
    assert not any((tmp_path / "blobs").iterdir()), "a finished job leaves no checkpoint"


def test_a_corrupt_checkpoint_costs_its_steps_only(tmp_path):
    asked, database = request(steps=6), tmp_path / "jobs.sqlite"
    first = make_place(tmp_path / "blobs", database=database, max_batch=1)
    job_id = first.client.submit(asked)
    first.worker.start()
    wait_until(lambda: sum(e.kind == "progress" for e in first.store.events(job_id)) >= 3)
    first.worker.drain()
    first.store.close()
    (file,) = (tmp_path / "blobs").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with working(tmp_path / "blobs", database=database, max_batch=1) as second:
        result(second.client, job_id)
        assert np.array_equal(second.clip(job_id), alone(tiny_model(), asked))


def test_a_worker_that_lost_its_lease_writes_nothing(tmp_path):
    model = tiny_model()
    entered, goes_on = hold(model, "denoise")
    # As if the machine had stopped the process for a while.
    suspended = replace(FAST, lease_s=0.2, listen_s=1.0, max_active=1, interactive_reserve=0)
    place = make_place(tmp_path, model=model, policy=suspended)
    job_id = place.client.submit(request())
    place.worker.start()
    assert entered.wait(20)
    time.sleep(0.3)
    (taken,) = place.store.lease("other", pipelines=("toy",), limit=1, ttl_s=60)
    goes_on.set()
    wait_until(lambda: not place.worker.runs)
    record = place.store.get(job_id)
    assert (record.status, record.token, record.deaths) == ("running", taken.token, 1)
    told = [event.data["stage"] for event in place.store.events(job_id) if event.kind == "progress"]
    assert told == ["text_encode"], "what came after the other worker took it is not told"
    place.worker.end()


def test_five_hundred_jobs_leave_nothing_behind(tmp_path):
    """Mixed sizes; live tensors are counted, as the bytes of a process say little."""

    def num_tensors():
        gc.collect()
        return sum(type(thing) is torch.Tensor for thing in gc.get_objects())

    counts = []
    with working(tmp_path, policy=replace(FAST, checkpoint_every=0)) as place:
        for _ in range(5):
            ids = [
                place.client.submit(request(f"a {n}", frames=1 + 4 * (n % 3), steps=1 + n % 3, seed=n))
                for n in range(100)
            ]
            for job_id in ids:
                result(place.client, job_id)
            wait_until(lambda: not place.worker.runs)
            place.outlets.clear()
            counts.append(num_tensors())
    assert max(counts[1:]) <= counts[0], counts


def test_what_a_busy_courier_has_to_tell_goes_to_the_store_together(tmp_path):
    """Every event is there, in the order of the units, but more of them share a write than not."""
    with working(tmp_path, on_write=lambda frames: time.sleep(0.02)) as place:
        job_id = place.client.submit(request(frames=17))
        events = list(place.client.events(job_id))
    kinds = [event.kind for event in events]
    progress = [(event.data["stage"], event.data["units"]) for event in events if event.kind == "progress"]
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    stages = ("text_encode", "denoise", "vae_decode")
    assert progress == sorted(progress, key=lambda each: (stages.index(each[0]), each[1]))
    assert progress[-1] == ("vae_decode", 9)
    assert kinds[-1] == "completed"
    assert sum(event.data["num_frames"] for event in events if event.kind == "frames") == 17
    assert len({event.at for event in events}) < len(events) - 3, "those of one write have one time"
