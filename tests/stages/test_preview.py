"""The preview's linear map: fitted from a VAE, applied to latents."""

import numpy as np
import torch
from torch import nn

from rushes.models.configs import WanVAEConfig
from rushes.stages.preview import fit_latent_rgb, preview_frames
from tiny_parts import TinyParts


class LinearVAE(nn.Module):
    """Decodes a first frame by a linear map of its channels, each cell a 2x2 square."""

    def __init__(self):
        super().__init__()
        self.config = WanVAEConfig(z_dim=4)
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(0.1 * torch.randn((4, 3), generator=generator))

    def decode_step(self, latent, state=None):
        frames = torch.einsum("bcthw,cr->brthw", latent, self.weight) + 0.25
        return frames.repeat_interleave(2, -1).repeat_interleave(2, -2), state


def test_the_fit_recovers_a_linear_decoder():
    vae = LinearVAE()
    fitted = fit_latent_rgb(vae)
    assert torch.allclose(fitted[:-1], vae.weight, atol=1e-5)
    assert torch.allclose(fitted[-1], torch.full((3,), 0.25), atol=1e-5)


def test_the_fit_explains_colours_of_latents_it_has_not_seen():
    vae = TinyParts().vae()
    fitted = fit_latent_rgb(vae)
    latents = torch.randn((64, 4), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        video, _ = vae.decode_step(latents[:, :, None, None, None].expand(-1, -1, 1, 4, 4))
    colours = video.mean(dim=(2, 3, 4))
    unexplained = (latents @ fitted[:-1] + fitted[-1] - colours).square().sum()
    assert unexplained < 0.8 * (colours - colours.mean(0)).square().sum()


def test_frames_have_the_latents_size():
    vae = LinearVAE()
    frames = preview_frames(torch.zeros((1, 4, 3, 5, 6)), fit_latent_rgb(vae))
    assert frames.shape == (3, 5, 6, 3)
    assert frames.dtype == np.uint8
    assert (frames == round(0.25 * 127.5 + 127.5)).all()
