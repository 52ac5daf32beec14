"""VaeDecode: one latent frame a unit, in order; its state is freed at the end."""

import numpy as np
import pytest
import torch

from rushes.models.wan_vae import to_uint8
from rushes.stages.vae_decode import VaeDecode
from tiny_parts import TinyParts, tiny_job


def waiting_job(seed):
    job = tiny_job(seed=seed)
    latents = torch.randn((1, *job.latent_shape), generator=torch.Generator().manual_seed(seed))
    job.latents.extend(latents.split(1, dim=2))
    return job, latents


def test_two_jobs_side_by_side_give_the_frames_of_two_whole_decodes():
    parts = TinyParts()
    stage = VaeDecode("toy", parts.vae)
    (first, a), (second, b) = waiting_job(1), waiting_job(2)
    stage.run([first])
    while not (stage.done(first) and stage.done(second)):
        stage.run([job for job in (first, second) if not stage.done(job)])
    for job, latents in ((first, a), (second, b)):
        with torch.no_grad():
            whole = to_uint8(parts.vae().decode(latents))[0].numpy()
        assert np.array_equal(np.concatenate([event.frames for event in job.frames]), whole)
        assert [event.start for event in job.frames] == [0, 1, 3]


def test_the_last_state_is_freed_and_the_latents_stay_for_whoever_decodes_again():
    stage = VaeDecode("toy", TinyParts().vae)
    job, latents = waiting_job(3)
    stage.run([job])
    assert (job.num_waiting, job.num_decoded) == (2, 1)
    assert job.decode is not None
    stage.run([job])
    stage.run([job])
    assert job.decode is None
    assert stage.done(job)
    assert torch.equal(torch.cat(job.latents, dim=2), latents)


class FailingVAE:
    """Runs out of memory at the second latent frame, once."""

    def __init__(self, vae):
        self.vae = vae
        self.num_calls = 0

    def decode_step(self, latent, state):
        self.num_calls += 1
        if self.num_calls == 2:
            raise torch.OutOfMemoryError
        return self.vae.decode_step(latent, state)


def test_a_unit_that_failed_can_be_run_again():
    parts = TinyParts()
    whole, (job, _) = waiting_job(5)[0], waiting_job(5)
    vae = FailingVAE(parts.vae())
    stage = VaeDecode("toy", lambda: vae)
    stage.run([job])
    with pytest.raises(torch.OutOfMemoryError):
        stage.run([job])
    while not stage.done(job):
        stage.run([job])
    reference = VaeDecode("toy", parts.vae)
    while not reference.done(whole):
        reference.run([whole])
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(job.frames, whole.frames, strict=True))


def test_a_job_for_latents_is_not_decoded():
    job, _ = waiting_job(4)
    job.wants_video = False
    assert VaeDecode("toy", TinyParts().vae).done(job)
