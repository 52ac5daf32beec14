"""VaeDecode: one latent frame a unit, in order; its state is freed at the end."""

import numpy as np
import pytest
import torch

from rushes.models.wan_vae import to_uint8
from rushes.stages.vae_decode import VaeDecode
from tiny_parts import TinyParts, tiny_job


def waiting_job(seed, num_latents=3):
    job = tiny_job(seed=seed, frames=1 + 2 * (num_latents - 1))
    assert job.num_latent_frames == num_latents
    latents = torch.randn((1, *job.latent_shape), generator=torch.Generator().manual_seed(seed))
    job.latents.extend(latents.split(1, dim=2))
    return job, latents


def decoded(stage, *jobs):
    """Run units for all jobs of a key at once until all are decoded; the frames of each."""
    while waiting := [job for job in jobs if not stage.done(job)]:
        stage.run([job for job in waiting if stage.key(job) == stage.key(waiting[0])])
    return [np.concatenate([event.frames for event in job.frames]) for job in jobs]


class CountingVAE:
    """Counts the clips of each decode step."""

    def __init__(self, vae, *, takes_batches=True):
        self.vae, self.takes_batches = vae, takes_batches
        self.clips = []

    def decode_step(self, latent, state):
        self.clips.append(len(latent))
        return self.vae.decode_step(latent, state)


def whole_clip(latents):
    with torch.no_grad():
        return to_uint8(TinyParts().vae().decode(latents))[0].numpy()


def test_two_jobs_in_turn_give_the_frames_of_two_whole_decodes():
    stage = VaeDecode("toy", TinyParts().vae)
    (first, a), (second, b) = waiting_job(1), waiting_job(2)
    stage.run([first])
    while not (stage.done(first) and stage.done(second)):
        for job in (first, second):
            if not stage.done(job):
                stage.run([job])
    for job, latents in ((first, a), (second, b)):
        assert np.array_equal(np.concatenate([event.frames for event in job.frames]), whole_clip(latents))
        assert [event.start for event in job.frames] == [0, 1, 3]


def test_jobs_at_equal_places_share_a_forward_and_keep_states_of_their_own():
    vae = CountingVAE(TinyParts().vae())
    stage = VaeDecode("toy", lambda: vae)
    clips = [waiting_job(seed) for seed in range(3)]
    jobs = [job for job, _ in clips]
    found = decoded(stage, *jobs)
    assert vae.clips == [3, 3, 3]
    for frames, (_, latents) in zip(found, clips, strict=True):
        levels = np.abs(frames.astype(int) - whole_clip(latents).astype(int))
        assert levels.max() <= 1, "a rounding"
        assert (levels > 0).mean() < 0.01
    assert all(job.decode is None for job in jobs)


def test_a_state_of_a_batch_is_a_copy_that_goes_on_alone():
    stage = VaeDecode("toy", TinyParts().vae)
    (first, _), (second, latents) = waiting_job(1), waiting_job(2)
    stage.run([first, second])
    (past, *_) = second.decode.past
    assert past.untyped_storage().nbytes() == past.nbytes, "no view of the batch"
    del first
    (frames,) = decoded(stage, second)
    assert np.abs(frames.astype(int) - whole_clip(latents).astype(int)).max() <= 1


def test_a_clip_at_its_start_does_not_share_with_one_that_has_a_past():
    stage = VaeDecode("toy", TinyParts().vae)
    (first, _), (second, _) = waiting_job(1), waiting_job(2)
    assert stage.key(first) == stage.key(second)
    stage.run([first])
    assert stage.key(first) != stage.key(second)


def test_a_step_that_takes_one_clip_gets_one():
    vae = CountingVAE(TinyParts().vae(), takes_batches=False)
    stage = VaeDecode("toy", lambda: vae)
    (first, a), (second, b) = waiting_job(1), waiting_job(2)
    for frames, latents in zip(decoded(stage, first, second), (a, b), strict=True):
        assert np.array_equal(frames, whole_clip(latents))
    assert set(vae.clips) == {1}


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
    """Runs out of memory at one decode step, once."""

    takes_batches = True

    def __init__(self, vae, fails_at=2):
        self.vae, self.fails_at = vae, fails_at
        self.num_calls = 0

    def decode_step(self, latent, state):
        self.num_calls += 1
        if self.num_calls == self.fails_at:
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


def ahead(vae):
    return VaeDecode("toy", lambda: vae, looks_ahead=True)


def test_a_job_decoded_ahead_gives_the_same_frames_and_each_unit_one_latent_frame():
    vae = CountingVAE(TinyParts().vae())
    stage = ahead(vae)
    job, latents = waiting_job(6, num_latents=5)
    queued, units = [], 0
    while not stage.done(job):
        stage.run([job])
        units += 1
        queued.append(len(vae.clips))
        assert len(job.frames) == job.num_decoded == units
    assert queued == [1, 3, 4, 5, 5], "the first frames wait for nothing; then one latent frame is ahead"
    assert np.array_equal(np.concatenate([event.frames for event in job.frames]), whole_clip(latents))
    assert job.decode is None
    assert job.arriving is None


def test_who_joins_a_job_that_is_ahead_is_decoded_beside_frames_that_are_there():
    vae = CountingVAE(TinyParts().vae())
    stage = ahead(vae)
    (first, a), (second, b) = waiting_job(1, num_latents=5), waiting_job(2, num_latents=5)
    stage.run([first])
    stage.run([first])
    stage.run([second])
    assert len(vae.clips) == 4
    stage.run([first, second])
    assert (first.num_decoded, second.num_decoded, len(vae.clips)) == (3, 2, 5), "no forward of the first"
    assert first.arriving is None
    assert second.arriving is None
    found = decoded(stage, first, second)
    assert sum(vae.clips) == 10, "no latent frame twice"
    for frames, latents in zip(found, (a, b), strict=True):
        assert np.abs(frames.astype(int) - whole_clip(latents).astype(int)).max() <= 1


def test_no_memory_to_be_ahead_is_no_failure():
    parts = TinyParts()
    job, latents = waiting_job(7, num_latents=5)

    stage = ahead(FailingVAE(parts.vae(), fails_at=3))
    (frames,) = decoded(stage, job)
    assert np.array_equal(frames, whole_clip(latents))
    assert not job.may_run_ahead


def test_a_unit_that_failed_before_its_own_frames_were_queued_can_be_run_again():
    parts = TinyParts()
    job, latents = waiting_job(8, num_latents=5)
    stage = ahead(FailingVAE(parts.vae()))
    stage.run([job])
    with pytest.raises(torch.OutOfMemoryError):
        stage.run([job])
    (frames,) = decoded(stage, job)
    assert np.array_equal(frames, whole_clip(latents))


def test_a_batch_that_fails_changes_no_job_not_even_one_that_was_ahead():
    parts = TinyParts()
    (first, a), (second, b) = waiting_job(3, num_latents=5), waiting_job(4, num_latents=5)

    stage = ahead(FailingVAE(parts.vae(), fails_at=5))  # the second job's in the batch
    for job in (first, first, second):
        stage.run([job])
    with pytest.raises(torch.OutOfMemoryError):
        stage.run([first, second])
    assert (first.num_decoded, second.num_decoded) == (2, 1)
    assert first.arriving is not None
    for frames, latents in zip(decoded(stage, first, second), (a, b), strict=True):
        assert np.abs(frames.astype(int) - whole_clip(latents).astype(int)).max() <= 1


def test_nobody_is_ahead_while_others_wait_nor_after_memory_was_short():
    for name, value in (("is_crowded", True), ("may_run_ahead", False)):
        vae = CountingVAE(TinyParts().vae())
        stage = ahead(vae)
        job, _ = waiting_job(9, num_latents=5)
        setattr(job, name, value)
        for unit in range(1, 6):
            stage.run([job])
            assert len(vae.clips) == unit
        assert stage.done(job)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_frames_decoded_ahead_are_those_decoded_one_by_one():
    from rushes.engine.slots import Slot

    vae = TinyParts().vae().cuda()
    slot = Slot(stages=("vae_decode",), device=torch.device("cuda"))
    found = []
    for looks_ahead in (True, False):
        stage = VaeDecode("toy", lambda: vae, looks_ahead=looks_ahead)
        job, latents = waiting_job(10, num_latents=9)
        job.latents[:] = [each.cuda() for each in latents.split(1, dim=2)]
        while not stage.done(job):
            with slot.unit(runs_ahead=True):
                stage.run([job])
        found.append(np.concatenate([event.frames for event in job.frames]))
    assert np.array_equal(*found)
