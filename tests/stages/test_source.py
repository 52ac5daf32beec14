"""Clips that go on from another's latents, in the library's own loop."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rushes.errors import InvalidRequest, ResumeError
from rushes.pipelines.base import run
from rushes.sampling.levels import schedule_of, steps_at
from rushes.sampling.noise import initial_noise
from rushes.sampling.solvers import SOLVERS
from rushes.stages.base import Given
from rushes.stages.denoise import start
from rushes.stages.job_state import from_bytes as state_of
from rushes.stages.job_state import pack, unpack
from rushes.stages.job_state import to_bytes as state_bytes
from rushes.stages.source import from_bytes, mask_tensor, on_host, to_bytes
from rushes.types import LatentSource
from tiny_parts import CPU, TinyParts, request, tiny_model

BOUNDARIES = pytest.mark.parametrize("boundary", [None, 0.5])
SOLVER_NAMES = pytest.mark.parametrize("solver", SOLVERS.names())
IDENTITY = {"identity": "tiny", "tenant": "t"}


def model_of(boundary=None):
    return tiny_model(TinyParts(boundary=boundary))


def denoised(model, asked, *, source=None, levels=()):
    """The latents of a clip, and its job."""
    job = model.pipeline.job(asked, Given(source=source), wants_video=False)
    job.snapshot_steps = steps_at(schedule_of(asked.sampling), levels, model.boundary)
    for _ in run(model.pipeline, job):
        pass
    return torch.cat(job.latents, dim=2), job


def going_on(asked, snapshot, *, is_renoised=False, **changes):
    """The request that goes on from a snapshot."""
    source = LatentSource(
        name="n", sigma=snapshot.sigma, step=snapshot.step, is_renoised=is_renoised, **changes
    )
    return replace(asked, source=source)


def stored(snapshot, asked, shape):
    """A snapshot to bytes and back."""
    return from_bytes(to_bytes(on_host(snapshot), asked, **IDENTITY), **IDENTITY, latent_shape=shape)


@BOUNDARIES
@pytest.mark.parametrize("solver", ["euler", "ddim", "lcm"])
def test_the_same_prompt_comes_out_bit_for_bit(boundary, solver) -> None:
    """With solvers that have no past."""
    model, asked = model_of(boundary), request(steps=10, solver=solver)
    whole, job = denoised(model, asked, levels=(0.9, 0.7, 0.6))
    assert len(job.snapshots) >= 2
    for snapshot in job.snapshots:
        source = stored(snapshot, asked, job.latent_shape)
        again, second = denoised(model, going_on(asked, snapshot), source=source)
        assert torch.equal(again, whole)
        assert second.timings["denoise"].units == 10 - snapshot.step
        assert second.forwards.conditional == 10 - snapshot.step


@SOLVER_NAMES
def test_a_solver_with_a_past_begins_anew_without_one(solver) -> None:
    model, asked = model_of(), request(steps=10, solver=solver)
    whole, job = denoised(model, asked, levels=(0.9,))
    (snapshot,) = job.snapshots
    again, _ = denoised(model, going_on(asked, snapshot), source=stored(snapshot, asked, job.latent_shape))
    assert (again - whole).abs().max() < 0.05 * whole.abs().max()


def test_the_prediction_is_what_the_step_saw() -> None:
    model, asked = model_of(), request(steps=10, solver="euler")
    _, job = denoised(model, asked, levels=(0.7,))
    (snapshot,) = job.snapshots
    sigmas = schedule_of(asked.sampling).sigmas
    _, next_job = denoised(model, asked, levels=(sigmas[snapshot.step + 1],))
    after = next_job.snapshots[0].latents
    velocity = (snapshot.latents - snapshot.clean) / snapshot.sigma
    step = sigmas[snapshot.step + 1] - snapshot.sigma
    assert torch.allclose(after, snapshot.latents + step * velocity, atol=1e-5)


def test_what_a_step_cache_and_guidance_remember_is_dropped() -> None:
    model = model_of()
    asked = request(steps=12, solver="euler", cache=0.5, gate=0.5)
    _, job = denoised(model, asked, levels=(0.6,))
    (snapshot,) = job.snapshots
    resumed = going_on(asked, snapshot)
    source = stored(snapshot, asked, job.latent_shape)
    state = start(model.pipeline.job(resumed, Given(source=source)), CPU)
    assert (state.step, state.history) == (snapshot.step, None)
    assert state.step_cache is not None
    assert (state.step_cache.velocity, state.step_cache.guidance) == (None, None)
    latents, second = denoised(model, resumed, source=source)
    assert torch.isfinite(latents).all()
    assert second.forwards.unconditional >= 1, "the difference of the branches is computed once more"


@SOLVER_NAMES
@BOUNDARIES
def test_renoised_with_its_own_seed(solver, boundary) -> None:
    model, asked = model_of(boundary), request(steps=10, solver=solver)
    _, job = denoised(model, asked, levels=(0.7,))
    (snapshot,) = job.snapshots
    source = stored(snapshot, asked, job.latent_shape)
    other = replace(asked, sampling=replace(asked.sampling, seed=5))
    state = start(model.pipeline.job(going_on(other, snapshot, is_renoised=True), Given(source=source)), CPU)
    noise = initial_noise((1, *job.latent_shape), 5)
    wanted = (1 - snapshot.sigma) * source.clean + snapshot.sigma * noise
    assert torch.allclose(state.latents, wanted, atol=1e-5)


def test_seeds_keep_their_meaning() -> None:
    """Two seeds of a renoised clip differ about as much as two seeds of a fresh one."""
    model, asked = model_of(), request(steps=10, solver="euler")
    _, job = denoised(model, asked, levels=(0.9,))
    (snapshot,) = job.snapshots
    source = stored(snapshot, asked, job.latent_shape)

    def clip(seed, goes_on):
        seeded = replace(asked, prompt="a cat", sampling=replace(asked.sampling, seed=seed))
        if not goes_on:
            return denoised(model, seeded)[0]
        return denoised(model, going_on(seeded, snapshot, is_renoised=True), source=source)[0]

    def psnr(goes_on):
        errors = [(clip(seed, goes_on) - clip(seed + 1, goes_on)).square().mean() for seed in (10, 20, 30)]
        return float(-10 * torch.log10(torch.stack(errors).mean()))

    assert abs(psnr(goes_on=True) - psnr(goes_on=False)) < 3


@SOLVER_NAMES
@BOUNDARIES
@pytest.mark.parametrize("is_renoised", [False, True])
def test_only_the_region_changes(solver, boundary, is_renoised) -> None:
    model, asked = model_of(boundary), request(steps=10, solver=solver)
    whole, job = denoised(model, asked, levels=(0.7,))
    (snapshot,) = job.snapshots
    mask = np.zeros(job.latent_shape[2:], np.float32)
    mask[:2] = 1
    source = replace(stored(snapshot, asked, job.latent_shape), mask=mask_tensor(mask, job.latent_shape))
    edited = going_on(replace(asked, prompt="a cat"), snapshot, is_renoised=is_renoised)
    latents, _ = denoised(model, edited, source=source)
    outside = (latents - source.clean)[..., 2:, :].abs().max()
    assert outside < 1e-5
    assert (latents - whole)[..., :2, :].abs().max() > 0.01


def test_a_mask_of_ones_is_none() -> None:
    model, asked = model_of(), request(steps=10, solver="unipc")
    _, job = denoised(model, asked, levels=(0.7,))
    (snapshot,) = job.snapshots
    source = stored(snapshot, asked, job.latent_shape)
    ones = replace(source, mask=mask_tensor(np.ones(job.latent_shape[1:]), job.latent_shape))
    resumed = going_on(asked, snapshot)
    first, second = (denoised(model, resumed, source=each)[0] for each in (source, ones))
    assert torch.allclose(first, second, atol=1e-6)


def test_a_checkpoint_of_a_clip_that_went_on() -> None:
    """Masked, and taken up again in the middle: the same bits."""
    model, asked = model_of(), request(steps=10, solver="unipc")
    _, job = denoised(model, asked, levels=(0.8,))
    (snapshot,) = job.snapshots
    mask = mask_tensor(np.linspace(0, 1, 32).reshape(job.latent_shape[2:]), job.latent_shape)
    source = replace(stored(snapshot, asked, job.latent_shape), mask=mask)
    edited = going_on(replace(asked, prompt="a cat"), snapshot)
    wanted, _ = denoised(model, edited, source=source)
    first = model.pipeline.job(edited, Given(source=source), wants_video=False)
    units = run(model.pipeline, first)
    for _ in range(4):
        next(units)
    data = state_bytes(pack(first), edited, "tiny")
    second = model.pipeline.job(edited, Given(source=source), wants_video=False)
    unpack(second, state_of(data, edited, "tiny"), CPU)
    for _ in run(model.pipeline, second):
        pass
    assert torch.equal(torch.cat(second.latents, dim=2), wanted)


def poisoned(data: bytes, how: str) -> bytes:
    return {
        "truncated": data[: len(data) // 2],
        "empty": b"",
        "flipped": data[:-40] + bytes([data[-40] ^ 1]) + data[-39:],
        "text": b"not a snapshot",
    }[how]


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped", "text"])
def test_a_damaged_file_is_refused(how) -> None:
    model, asked = model_of(), request(steps=10)
    _, job = denoised(model, asked, levels=(0.7,))
    data = to_bytes(on_host(job.snapshots[0]), asked, **IDENTITY)
    with pytest.raises(ResumeError, match="damaged"):
        from_bytes(poisoned(data, how), **IDENTITY, latent_shape=job.latent_shape)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"identity": "large"}, "of another model"),
        ({"tenant": "other"}, "of another tenant"),
        ({"latent_shape": (4, 3, 4, 4)}, "this clip needs floats of shape"),
    ],
)
def test_what_belongs_to_others_is_refused(changes, message) -> None:
    model, asked = model_of(), request(steps=10)
    _, job = denoised(model, asked, levels=(0.7,))
    data = to_bytes(on_host(job.snapshots[0]), asked, **IDENTITY)
    with pytest.raises(ResumeError, match=message):
        from_bytes(data, **{**IDENTITY, "latent_shape": job.latent_shape, **changes})


@pytest.mark.parametrize("name", ["latents", "clean"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_numbers_are_refused(name, value) -> None:
    model, asked = model_of(), request(steps=10)
    _, job = denoised(model, asked, levels=(0.7,))
    tensor = getattr(job.snapshots[0], name).clone()
    tensor[0, 0, 0, 0, 0] = value
    data = to_bytes(on_host(replace(job.snapshots[0], **{name: tensor})), asked, **IDENTITY)
    with pytest.raises(ResumeError, match=f"{name}: holds NaN or infinity"):
        from_bytes(data, **IDENTITY, latent_shape=job.latent_shape)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"step": 10}, "steps 0 to 9"), ({"step": -1}, "step -1"), ({"step": 2}, "at noise level")],
)
def test_a_step_of_another_level_is_refused(changes, message) -> None:
    model, asked = model_of(), request(steps=10)
    _, job = denoised(model, asked, levels=(0.7,))
    source = stored(job.snapshots[0], asked, job.latent_shape)
    resumed = going_on(asked, job.snapshots[0])
    resumed = replace(resumed, source=replace(resumed.source, **changes))
    with pytest.raises(ResumeError, match=message):
        denoised(model, resumed, source=source)


@pytest.mark.parametrize(
    "mask", [np.ones((3, 3)), np.ones((2, 4, 8)), np.full((4, 8), 2.0), np.full((4, 8), np.nan)]
)
def test_a_mask_that_does_not_fit_is_refused(mask) -> None:
    with pytest.raises(ResumeError, match=r"^mask "):
        mask_tensor(mask, (4, 3, 4, 8))


def test_the_causal_mode_goes_on_from_nothing() -> None:
    model, asked = model_of(), request(steps=10)
    _, job = denoised(model, asked, levels=(0.7,))
    source = stored(job.snapshots[0], asked, job.latent_shape)
    causal = going_on(replace(asked, mode="causal"), job.snapshots[0])
    with pytest.raises(InvalidRequest, match="goes on from no source"):
        model.pipeline.job(causal, Given(source=source))
