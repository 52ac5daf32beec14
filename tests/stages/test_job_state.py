"""A job killed after any unit and taken up by another process ends as if nothing had happened; bytes that are
not this job's are refused."""

import random
import re
from dataclasses import replace
from hashlib import blake2b

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from rushes.errors import ResumeError, StoreError
from rushes.pipelines.base import run
from rushes.sampling.solvers import SOLVERS
from rushes.stages.base import Given
from rushes.stages.job_state import VERSION, from_bytes, pack, to_bytes, unpack
from rushes.stages.sealed import request_digest
from rushes.stages.video_encode import VideoWriter
from rushes.types import Timing
from tiny_parts import CPU, TinyParts, request, tiny_model

REUSE = {"step_cache": 0.8, "guidance_gate": 0.4}


def new_job(model, **fields):
    return model.job("a dog", seed=3, **{"num_inference_steps": 4, **fields})


def frames_of(job):
    return [(event.start, event.frames.tobytes()) for event in job.frames]


def stored(job, model):
    """What another process would read."""
    return from_bytes(to_bytes(pack(job), job.request, model.identity), job.request, model.identity)


def resumed(model, packed, **fields):
    """A job of a process that has just begun, where `packed` stands."""
    fresh = tiny_model(model.parts)
    job = new_job(fresh, **fields)
    unpack(job, packed, CPU)
    return fresh, job


def finish(model, job):
    for _ in run(model.pipeline, job):
        pass
    return job


def check_resumes(model, **fields):
    """Kill after every unit; the number of units."""
    whole = finish(model, new_job(model, **fields))
    whole_latents = torch.cat(whole.latents, dim=2)
    job, num_units = new_job(model, **fields), 0
    for _ in run(model.pipeline, job):
        num_units += 1
        fresh, other = resumed(model, stored(job, model), **fields)
        assert other.num_delivered == job.num_frames
        finish(fresh, other)
        assert torch.equal(torch.cat(other.latents, dim=2), whole_latents), num_units
        assert frames_of(other) == frames_of(whole), num_units
        assert other.forwards == whole.forwards, num_units
        assert other.timings["denoise"].units == whole.timings["denoise"].units, num_units
    return num_units


@pytest.mark.parametrize("fields", [{}, REUSE], ids=["plain", "reuse"])
@pytest.mark.parametrize("solver", SOLVERS.names())
def test_killed_after_any_unit_it_ends_the_same(solver, fields):
    units = check_resumes(tiny_model(), solver=solver, num_inference_steps=10, **fields)
    assert units == 1 + 10 + 3


@pytest.mark.parametrize("solver", ["unipc", "dpmpp-2m"])
def test_across_the_expert_boundary_too(solver):
    model = tiny_model(TinyParts(boundary=0.7), boundary=0.7)
    units = check_resumes(model, solver=solver, num_inference_steps=10, **REUSE)
    assert units == 14


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("solver", SOLVERS.names())
def test_a_causal_clip_too(solver, guidance):
    units = check_resumes(tiny_model(), mode="causal", solver=solver, guidance_high=guidance)
    assert units == 1 + 3 * 4 + 3


def test_killed_again_and_again_at_random():
    model, source = tiny_model(), random.Random(1)
    for mode, fields in (("full", {"num_inference_steps": 12, **REUSE}), ("causal", {})):
        whole = finish(model, new_job(model, mode=mode, **fields))
        current, job = model, new_job(model, mode=mode, **fields)
        for _ in range(200):
            for _ in range(source.randint(1, 4)):
                if stage := current.pipeline.current(job):
                    stage.run([job])
            if current.pipeline.current(job) is None:
                break
            current, job = resumed(current, stored(job, current), mode=mode, **fields)
        assert frames_of(job)[-1] == frames_of(whole)[-1]
        assert torch.equal(torch.cat(job.latents, dim=2), torch.cat(whole.latents, dim=2))
        assert job.forwards == whole.forwards


def test_the_keys_and_values_of_a_causal_clip_are_written_again_bit_for_bit():
    model = tiny_model()
    job = new_job(model, mode="causal")
    while len(job.latents) < 2 or job.denoise.chunk is None:
        model.pipeline.current(job).run([job])
    fresh, other = resumed(model, stored(job, model), mode="causal")
    while other.denoise.chunk.step == job.denoise.chunk.step:
        fresh.pipeline.current(other).run([other])
    assert [cache.num_frames for cache in other.denoise.caches] == [2, 2]
    for ours, theirs in zip(other.denoise.caches, job.denoise.caches, strict=True):
        for layer in range(2):
            for mine, wanted in zip(ours.past(layer), theirs.past(layer), strict=True):
                assert all(torch.equal(*pair) for pair in zip(mine, wanted, strict=True))


def test_the_state_is_the_same_tensor_by_tensor():
    model = tiny_model()
    job = new_job(model, num_inference_steps=12, solver="unipc", **REUSE)
    for progress in run(model.pipeline, job):
        if progress.stage == "denoise" and progress.units == 6:
            break
    packed = stored(job, model)
    assert set(packed.tensors) == {
        "denoise.latents",
        *(f"denoise.history.{name}" for name in ("clean.0", "clean.1", "last_latents", "order")),
        *(
            f"denoise.step_cache.{name}"
            for name in ("last_latents", "latents", "velocity", "gain", "guidance")
        ),
    }
    _, other = resumed(model, packed, num_inference_steps=12, solver="unipc", **REUSE)
    for name, tensor in pack(job).tensors.items():
        assert torch.equal(tensor, pack(other).tensors[name]), name
    assert (other.denoise.step, other.denoise.sigmas) == (6, job.denoise.sigmas)
    assert other.denoise.step_cache.error == job.denoise.step_cache.error
    assert pack(other).facts == pack(job).facts


def test_a_job_that_has_not_begun_packs_to_nothing():
    model = tiny_model()
    packed = stored(new_job(model), model)
    assert packed.tensors == {}
    fresh, job = resumed(model, packed)
    assert finish(fresh, job).num_frames == 5


def test_a_file_written_from_a_resumed_decode_has_the_same_bytes(tmp_path):
    model = tiny_model()
    fields = {"width": 32, "height": 32}

    def written(model, job, name):
        with VideoWriter(tmp_path / name, width=32, height=32, num_frames=5, fps=8) as writer:
            for _ in run(model.pipeline, job):
                while job.frames:
                    writer.write(job.frames.popleft().frames)
        return (tmp_path / name).read_bytes()

    whole = written(model, new_job(model, **fields), "whole.mp4")
    job = new_job(model, **fields)
    while job.num_decoded < 2:
        model.pipeline.current(job).run([job])
    fresh, other = resumed(model, stored(job, model), **fields)
    assert other.num_delivered == 3
    assert written(fresh, other, "resumed.mp4") == whole


def test_frames_delivered_once_stay_counted_through_a_second_resume():
    model = tiny_model()
    job = finish(model, new_job(model))
    _, other = resumed(model, stored(job, model))
    assert (other.num_frames, other.num_delivered) == (0, 5)
    _, third = resumed(model, stored(other, model))
    assert third.num_delivered == 5


def test_given_latents_and_embeddings_come_from_the_new_job():
    model = tiny_model()
    noise = torch.randn((1, 4, 3, 4, 8), generator=torch.Generator().manual_seed(5))
    fields = {"latents": noise.transpose(3, 4).contiguous().transpose(3, 4)}
    assert check_resumes(model, **fields) == 1 + 4 + 3
    assert check_resumes(model, **fields, mode="causal") == 16


def test_packed_tensors_stay_what_they_were_while_the_job_goes_on():
    model = tiny_model()
    job = new_job(model, num_inference_steps=10, **REUSE)
    for progress in run(model.pipeline, job):
        if progress.stage == "denoise":
            packed = pack(job)
            before = {name: tensor.clone() for name, tensor in packed.tensors.items()}
            model.pipeline.current(job).run([job])
            assert all(torch.equal(tensor, before[name]) for name, tensor in packed.tensors.items())


# Bytes.


def some_bytes():
    model = tiny_model()
    job = new_job(model, num_inference_steps=10, **REUSE)
    for progress in run(model.pipeline, job):
        if progress.units == 5:
            break
    return to_bytes(pack(job), job.request, "model"), job.request


DATA, REQUEST = some_bytes()


def test_the_bytes_are_a_safetensors_file():
    packed = from_bytes(DATA, REQUEST, "model")
    assert set(load(DATA)) == set(packed.tensors)
    assert issubclass(ResumeError, StoreError)


@pytest.mark.parametrize(
    ("wanted", "identity", "words"),
    [
        (replace(REQUEST, prompt="a cat"), "model", "of another request"),
        (replace(REQUEST, sampling=replace(REQUEST.sampling, step_cache=0.1)), "model", "another request"),
        (REQUEST, "other", "of another model: model, needed is other"),
    ],
)
def test_a_state_of_something_else_is_refused_by_name(wanted, identity, words):
    with pytest.raises(ResumeError, match=words):
        from_bytes(DATA, wanted, identity)


def test_a_state_of_another_version_is_refused_by_name():
    old = DATA.replace(f'"version":"{VERSION}"'.encode(), b'"version":"0"')
    digest = re.search(rb'"digest":"([0-9a-f]{64})"', old)[1]
    blank = old.replace(digest, b"0" * 64)
    old = old.replace(digest, blake2b(blank, digest_size=32).hexdigest().encode())
    with pytest.raises(ResumeError, match=f"of another version: 0, needed is {VERSION}"):
        from_bytes(old, REQUEST, "model")


@given(length=st.integers(0, len(DATA) - 1))
@settings(deadline=None)
def test_a_truncated_state_is_refused(length):
    with pytest.raises(ResumeError, match="damaged"):
        from_bytes(DATA[:length], REQUEST, "model")


@given(at=st.integers(0, len(DATA) - 1), flip=st.integers(1, 255))
@settings(deadline=None, max_examples=300)
def test_a_state_with_any_byte_changed_is_refused(at, flip):
    damaged = bytearray(DATA)
    damaged[at] ^= flip
    with pytest.raises(ResumeError, match="damaged"):
        from_bytes(bytes(damaged), REQUEST, "model")


@given(at=st.integers(0, 2000), flip=st.integers(1, 255))
@settings(deadline=None, max_examples=300)
def test_a_state_with_any_byte_of_its_header_changed_is_refused(at, flip):
    damaged = bytearray(DATA)
    damaged[at] ^= flip
    with pytest.raises(ResumeError, match="damaged"):
        from_bytes(bytes(damaged), REQUEST, "model")


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 100, b"not a checkpoint" * 99, save({"x": torch.zeros(2)}), DATA + b"\0"],
    ids=["empty", "zeros", "text", "other safetensors", "longer"],
)
def test_other_bytes_are_refused(data):
    with pytest.raises(ResumeError, match="damaged"):
        from_bytes(data, REQUEST, "model")


def test_equal_requests_have_one_digest_and_others_another():
    first, again = request(), request()
    assert request_digest(first) == request_digest(again)
    others = [request("a cat"), request(seed=1), request(mode="causal"), request(shift=3.0001)]
    assert len({request_digest(each) for each in [first, *others]}) == 5


def test_timings_of_stages_that_start_over_are_not_kept():
    model = tiny_model()
    job = finish(model, new_job(model))
    _, other = resumed(model, stored(job, model))
    assert list(other.timings) == ["denoise"]
    assert other.timings["denoise"] == job.timings["denoise"]
    assert isinstance(other.timings["denoise"], Timing)
    assert np.isfinite(other.timings["denoise"].seconds)


def test_a_job_that_has_begun_takes_no_state():
    model = tiny_model()
    job = finish(model, new_job(model))
    with pytest.raises(AssertionError, match="has begun"):
        unpack(job, pack(job), CPU)
    assert job.given == Given()
