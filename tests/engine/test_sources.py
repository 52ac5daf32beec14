"""Snapshots that a worker leaves, and jobs that go on from them, also when workers go."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_parts import stage_of, working
from test_worker import alone

from rushes.engine.client import result
from rushes.engine.latent_files import (
    finished_name,
    job_of,
    mask_file,
    names_of,
    owner_of,
    read_mask,
    snapshot_name,
)
from rushes.engine.latent_shelf import LatentShelf
from rushes.errors import ResumeError
from rushes.stages.source import Snapshot, to_bytes
from rushes.stores.disk import BlobFolder
from rushes.types import JobOptions, LatentSource
from tiny_parts import TinyParts, request, tiny_model

LEVELS = (0.9, 0.7)
ASKED = request(steps=8, solver="euler")


@pytest.fixture
def latents(tmp_path):
    return BlobFolder(tmp_path / "latents")


def serving(tmp_path, latents, *, model=None, levels=LEVELS, **options):
    """A worker with a shelf, alone with each job."""
    model = model or tiny_model()
    shelf = LatentShelf(latents, model, levels)
    return working(tmp_path / "blobs", model=model, shelf=shelf, max_batch=1, **options)


def events(place, job_id, kind):
    return [event.data for event in place.store.events(job_id) if event.kind == kind]


def source_of(told, *, is_renoised=False, mask=None):
    """Of the `snapshot` event of an equal schedule."""
    return LatentSource(
        name=told["name"], sigma=told["sigma"], step=told["step"], is_renoised=is_renoised, mask=mask
    )


def made(place):
    """The snapshots of a clip that was just made."""
    job_id = place.client.submit(ASKED)
    result(place.client, job_id)
    return events(place, job_id, "snapshot")


@pytest.mark.parametrize("boundary", [None, 0.6])
def test_a_clip_goes_on_from_what_another_left(tmp_path, latents, boundary) -> None:
    model = tiny_model(TinyParts(boundary=boundary))
    with serving(tmp_path, latents, model=model) as place:
        first = place.client.submit(ASKED)
        result(place.client, first)
        told = events(place, first, "snapshot")
        assert len(told) == 2
        names = {each["name"] for each in told} | {finished_name(first)}
        assert set(latents.names()) == names
        for each in told:
            assert each["name"] == snapshot_name(first, each["step"])
            assert job_of(each["name"]) == first
            assert each["bytes"] == len(latents.read(each["name"]))
            resumed = place.client.submit(replace(ASKED, source=source_of(each)))
            assert result(place.client, resumed).reuse is None
            assert np.array_equal(place.clip(resumed), place.clip(first))
            (progress,) = [
                p for p in events(place, resumed, "progress") if (p["stage"], p["units"]) == ("denoise", 1)
            ]
            assert progress["total"] == 8 - each["step"]


def test_no_levels_no_snapshots(tmp_path, latents) -> None:
    with serving(tmp_path, latents, levels=()) as place:
        assert made(place) == []
        assert latents.names() == ()


def missing(data: bytes) -> bytes | None:
    return None


def truncated(data: bytes) -> bytes:
    return data[:-100]


def not_a_number(data: bytes) -> bytes:
    tensor = torch.full((1, 4, 3, 4, 8), float("nan"))
    return _other(tensor, ASKED)


def of_another_size(data: bytes) -> bytes:
    return _other(torch.zeros(1, 4, 2, 4, 8), ASKED)


def of_another_tenant(data: bytes) -> bytes:
    return _other(torch.zeros(1, 4, 3, 4, 8), ASKED, tenant="other")


def _other(tensor, asked, tenant="default") -> bytes:
    snapshot = Snapshot(step=2, sigma=0.5, latents=tensor, clean=tensor)
    return to_bytes(snapshot, asked, identity="tiny", tenant=tenant)


@pytest.mark.parametrize("how", [missing, truncated, not_a_number, of_another_size, of_another_tenant])
def test_a_source_that_cannot_be_used_is_a_miss(tmp_path, latents, how) -> None:
    with serving(tmp_path, latents) as place:
        told = made(place)[-1]
        spoiled = how(latents.read(told["name"]))
        latents.delete(told["name"])
        if spoiled is not None:
            latents.write(told["name"], spoiled)
        asked = replace(ASKED, prompt="a cat", source=source_of(told, is_renoised=True))
        reuse = '{"kind":"latent","sigma":0.7}'
        job_id = place.store.create(asked, JobOptions(), reuse=reuse).id
        record = result(place.client, job_id)
        (missed,) = events(place, job_id, "source_missed")
        assert json.loads(record.reuse or "") == {"kind": "miss", "reason": missed["reason"]}
        assert np.array_equal(place.clip(job_id), alone(tiny_model(), replace(asked, source=None)))


def test_without_a_shelf_every_source_is_missed(tmp_path) -> None:
    with working(tmp_path, model=tiny_model()) as place:
        source = LatentSource(name="n", sigma=0.5, step=3, is_renoised=True)
        job_id = place.client.submit(replace(ASKED, source=source))
        result(place.client, job_id)
        assert events(place, job_id, "source_missed") == [{"reason": "this worker has no store of latents"}]


def test_only_the_region_is_made_anew(tmp_path, latents) -> None:
    with serving(tmp_path, latents) as place:
        told = made(place)[-1]
        mask = np.zeros((4, 8), np.float32)
        name, data = mask_file(mask)
        latents.write(name, data)
        source = source_of(told, mask=name)
        whole = place.clip(job_of(told["name"])).astype(int)
        clips = []
        for prompt in ("a cat", "a red car"):  # outside of the mask, where all is, no prompt is heard
            job_id = place.client.submit(replace(ASKED, prompt=prompt, source=source))
            result(place.client, job_id)
            assert not events(place, job_id, "source_missed")
            clips.append(place.clip(job_id).astype(int))
        assert np.abs(clips[0] - clips[1]).max() <= 1
        assert np.abs(clips[0] - whole).max() <= 2, "what stays is the finished clip, not its prediction"


@pytest.mark.parametrize("lost", ["mask", "finished latents"])
def test_a_region_without_its_files_is_a_miss(tmp_path, latents, lost) -> None:
    with serving(tmp_path, latents) as place:
        told = made(place)[-1]
        name, data = mask_file(np.ones((4, 8), np.float32))
        latents.write(name, data)
        latents.delete(name if lost == "mask" else finished_name(job_of(told["name"]) or ""))
        job_id = place.client.submit(replace(ASKED, source=source_of(told, mask=name)))
        result(place.client, job_id)
        assert len(events(place, job_id, "source_missed")) == 1


@pytest.mark.parametrize("has_video", [True, False])
def test_frames_before_the_mask_are_not_decoded_again(tmp_path, latents, has_video) -> None:
    """Of 7 latent frames the last two change; the frames of the first five are there at once."""
    asked = replace(ASKED, video=replace(ASKED.video, num_frames=13))
    clips = {}
    model = tiny_model()
    shelf = LatentShelf(
        latents, model, LEVELS, lambda job_id, num: clips[job_id][:num] if has_video else None
    )
    with working(tmp_path / "blobs", model=model, shelf=shelf, max_batch=1) as place:
        first = place.client.submit(asked)
        result(place.client, first)
        clips[first] = place.clip(first)
        mask = np.zeros((7, 4, 8), np.float32)
        mask[5:] = 1
        name, data = mask_file(mask)
        latents.write(name, data)
        source = source_of(events(place, first, "snapshot")[0], mask=name, is_renoised=True)
        sampling = replace(asked.sampling, seed=5)
        job_id = place.client.submit(replace(asked, prompt="a cat", sampling=sampling, source=source))
        result(place.client, job_id)
        clip = place.clip(job_id)
        told = place.store.events(job_id)
    assert clip.shape == clips[first].shape
    close = np.abs(clip.astype(int) - clips[first])
    assert close[:9].max() <= (0 if has_video else 2)
    assert close[9:].max() > 10
    decoded = [
        event.data for event in told if event.kind == "progress" and event.data["stage"] == "vae_decode"
    ]
    assert len(decoded) == decoded[-1]["total"] == (2 if has_video else 7)
    kinds = [event.kind for event in told]
    if has_video:
        assert kinds.index("frames") < kinds.index("progress"), "before a step is run"


@pytest.mark.parametrize("data", [b"", b"no array", np.float32(0.5).tobytes()])
def test_what_is_no_mask_is_said_so(data: bytes) -> None:
    with pytest.raises(ResumeError, match="no mask"):
        read_mask(data)


def test_a_mask_keeps_its_levels() -> None:
    mask = np.array([[0, 0.5, 1]], np.float32)
    assert np.abs(read_mask(mask_file(mask)[1]) - mask).max() <= 0.501 / 255


@pytest.mark.parametrize("is_missed", [False, True])
def test_a_job_that_went_on_changes_hands(tmp_path, latents, is_missed) -> None:
    """Drained after its third step and taken up by another worker: as if nothing had happened. A source that
    was missed is not tried again, though it is back."""
    database = tmp_path / "jobs.sqlite"
    with serving(tmp_path, latents, database=database) as place:
        told = made(place)[0]
        asked = replace(ASKED, prompt="a cat", source=source_of(told, is_renoised=True))
        wanted_id = place.client.submit(replace(asked, source=None) if is_missed else asked)
        result(place.client, wanted_id)
        wanted = place.clip(wanted_id)
    data = latents.read(told["name"])
    if is_missed:
        latents.delete(told["name"])
    model = tiny_model()
    stage = stage_of(model, "denoise")
    run, third = stage.run, threading.Event()

    def slowly(jobs):
        run(jobs)
        if jobs[0].denoise is not None and jobs[0].denoise.step - jobs[0].first_step == 3:
            third.set()
        time.sleep(0.05)

    stage.run = slowly
    with serving(tmp_path, latents, model=model, database=database) as place:
        job_id = place.client.submit(asked)
        assert third.wait(20)
        place.worker.drain()
        assert place.store.get(job_id).status == "queued"
    latents.write(told["name"], data)
    with serving(tmp_path, latents, database=database) as place:
        result(place.client, job_id)
        assert len(events(place, job_id, "source_missed")) == int(is_missed)
        assert np.array_equal(place.clip(job_id), wanted)
        (resumed,) = events(place, job_id, "resumed")
        assert 3 <= resumed["steps"] < 8
        assert events(place, job_id, "snapshot")
        check_names(latents, job_id)


def check_names(latents, job_id):
    """What both workers left is found by its name when the job is forgotten."""
    left = {name for name in latents.names() if owner_of(name) == job_id}
    assert finished_name(job_id) in left
    assert left <= set(names_of(job_id, ASKED.sampling.num_inference_steps))


def test_a_twin_is_completed_by_the_worker_of_its_original(tmp_path, latents) -> None:
    with serving(tmp_path, latents) as place:
        jobs = [place.store.create(ASKED, JobOptions(), exact_key="k", joins=True) for _ in range(3)]
        records = [result(place.client, job.id) for job in jobs]
        assert {record.result for record in records} == {"kept"}
        assert [record.status for record in records] == 3 * ["completed"]
        assert list(place.outlets) == [jobs[0].id], "one was made"
