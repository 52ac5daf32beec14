from __future__ import annotations

import pytest
import torch
from diffusers.models.embeddings import get_timestep_embedding

from rushes.ops.timestep import collapse_timestep, sinusoidal_embedding

FRAMES, CELLS = 3, 4


def test_embedding_equals_diffusers() -> None:
    timestep = torch.rand(64) * 1000
    want = get_timestep_embedding(timestep, 256, flip_sin_to_cos=True, downscale_freq_shift=0)
    torch.testing.assert_close(sinusoidal_embedding(timestep, 256), want, atol=1e-6, rtol=0)


def collapse(timestep: torch.Tensor) -> torch.Tensor:
    return collapse_timestep(timestep, FRAMES, FRAMES * CELLS)


def test_equal_tokens_become_one_a_sample() -> None:
    sample = torch.rand(2, 1)
    for timestep in (sample[:, 0], sample.repeat(1, FRAMES), sample.repeat(1, FRAMES * CELLS)):
        assert torch.equal(collapse(timestep), sample)


def test_equal_frames_become_one_a_frame() -> None:
    frames = torch.rand(2, FRAMES)
    assert torch.equal(collapse(frames), frames)
    assert torch.equal(collapse(frames.repeat_interleave(CELLS, dim=1)), frames)


def test_one_token_apart_keeps_all_tokens() -> None:
    timestep = torch.rand(2, 1).repeat(1, FRAMES * CELLS)
    timestep[1, 5] = 0.0
    assert torch.equal(collapse(timestep), timestep)


@pytest.mark.parametrize("width", [FRAMES, FRAMES * CELLS])
def test_expanded_tensor_collapses_without_being_read(width: int) -> None:
    """A meta tensor has no values: reading one, which on a GPU waits for it, would raise."""
    timestep = torch.empty(2, 1, device="meta").expand(2, width)
    assert collapse(timestep).shape == (2, 1)


def test_values_on_a_device_are_not_read() -> None:
    timestep = torch.empty(2, FRAMES * CELLS, device="meta")
    assert collapse(timestep) is timestep


@pytest.mark.parametrize("shape", [(2, 5), (2, 3, 1), ()])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="timestep has shape"):
        collapse(torch.zeros(shape))
