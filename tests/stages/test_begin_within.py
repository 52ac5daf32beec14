"""A clip whose first frames are known is decoded from within."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rushes.models.wan_vae import to_uint8
from rushes.stages.base import WARM_LATENTS, Given
from rushes.stages.vae_decode import VaeDecode, begin_with
from tiny_parts import TinyParts, request, tiny_model

NUM_LATENTS = 9


@pytest.fixture(scope="module")
def parts():
    model = tiny_model()
    asked = request(frames=2 * (NUM_LATENTS - 1) + 1)
    latents = torch.randn(
        1, *model.pipeline.latent_shape(asked.video), generator=torch.Generator().manual_seed(0)
    )
    return model, asked, latents


def decoded(parts, num_lead=0, whole=None):
    """Frames of a clip, and the stage's units."""
    model, asked, latents = parts
    job = model.pipeline.job(asked, Given())
    stage = VaeDecode("tiny", TinyParts().vae)
    if num_lead:
        begin_with(job, whole[: 2 * num_lead - 1])
        assert job.num_decoded == num_lead
        assert stage.done(job), "nothing waits before there are latents"
        assert stage.key(job).alone is not None
    job.latents.extend(latents.split(1, dim=2))
    num = 0
    while not stage.done(job):
        stage.run([job])
        num += 1
        assert stage.done(job) or stage.key(job).alone is None
    assert stage.units(job) == num == NUM_LATENTS - num_lead
    starts = [frames.start for frames in job.frames]
    assert starts == sorted(starts)
    return np.concatenate([frames.frames for frames in job.frames])


@pytest.mark.parametrize("num_lead", [1, WARM_LATENTS, WARM_LATENTS + 1, NUM_LATENTS - 1])
def test_what_follows_is_decoded_behind_a_few_latents(parts, num_lead) -> None:
    whole = decoded(parts)
    found = decoded(parts, num_lead, whole)
    num_known, first = 2 * num_lead - 1, max(0, num_lead - WARM_LATENTS)
    assert found.shape == whole.shape
    assert np.array_equal(found[:num_known], whole[:num_known])
    with torch.no_grad():
        behind = to_uint8(TinyParts().vae().decode(parts[2][:, :, first:]))[0].numpy()
    assert np.array_equal(found[num_known:], behind[-len(found) + num_known :])
    if first == 0:
        assert np.array_equal(found, whole), "the decoder has seen all of the clip"
