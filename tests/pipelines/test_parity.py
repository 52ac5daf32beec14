"""The whole engine against diffusers on tiny random checkpoints, through the folders that both load."""

import numpy as np
import pytest
import torch
from diffusers import WanPipeline

import oracle
import rushes
from rushes.models.checkpoint_writer import make_checkpoint

# diffusers converts tensors with a NumPy call that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

KINDS = tuple(oracle.CHANNELS)


@pytest.fixture(scope="module", params=KINDS)
def checkpoint(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / request.param
    return request.param, make_checkpoint(request.param, folder)


@pytest.mark.parametrize(
    "figures",
    [oracle.transformer_figures, oracle.vae_figures, oracle.pipeline_figures, oracle.batch_figures],
    ids=lambda figures: figures.__name__,
)
def test_every_figure_is_within_its_bar(checkpoint, figures):
    found = list(figures(*checkpoint))
    assert found
    assert [figure for figure in found if not figure.is_met] == []


def test_same_seed_same_bytes_and_another_seed_another_clip(checkpoint):
    fields = {"width": 32, "height": 32, "num_frames": 5, "num_inference_steps": 2}
    first, again, other = (
        rushes.load(checkpoint[1], device="cpu").generate("a dog", seed=seed, **fields).frames
        for seed in (1, 1, 2)
    )
    assert first.tobytes() == again.tobytes()
    assert not np.array_equal(first, other)


@torch.no_grad()
def test_frames_are_diffusers_frames(checkpoint):
    kind, folder = checkpoint
    clip = oracle.CLIPS[kind][0]
    theirs = WanPipeline.from_pretrained(folder, dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    text = {"prompt": "a dog", "negative_prompt": "blurry"}
    expected = oracle.oracle_clip(theirs, clip, text, output_type="np")[0]
    found = rushes.load(folder, device="cpu").generate(**text, **oracle.our_fields(clip)).frames
    assert found.shape == expected.shape
    assert np.abs(found - 255.0 * expected).max() <= 0.5 + 1e-2


def test_a_folder_without_text_encoder_or_vae_still_makes_latents_from_embeddings(tmp_path):
    folder = make_checkpoint("a14b", tmp_path / "a14b")
    for part in ("text_encoder", "tokenizer", "vae"):
        (folder / part).rename(tmp_path / part)
    model = rushes.load(folder, device="cpu")
    fields = {"width": 32, "height": 16, "num_frames": 5, "num_inference_steps": 2}
    states = torch.zeros(1, 4, oracle.TEXT_DIM)
    given = {"prompt_embeds": states, "negative_prompt_embeds": states}
    latents = model.generate(**given, **fields, output="latents").latents
    assert latents.shape == (1, 16, 2, 2, 4)
    with pytest.raises(rushes.CheckpointError, match="text_encoder"):
        model.generate("a dog", **fields, output="latents")
    with pytest.raises(rushes.CheckpointError, match="vae"):
        model.generate(**given, **fields)


def test_the_folders_shift_is_used_and_the_converters_is_not(tmp_path):
    model = rushes.load(make_checkpoint("a14b", tmp_path / "a14b"), device="cpu")
    fields = {"width": 32, "height": 16, "num_frames": 1, "num_inference_steps": 1, "output": "latents"}
    assert model.generate("a dog", **fields).request.sampling.flow_shift == 12.0
    assert model.generate("a dog", flow_shift=3.0, **fields).request.sampling.flow_shift == 3.0
    assert any("flow_shift 3.0" in note for note in model.notes)
