"""Latents and captions to train the transformer on, held on the device: rendered and encoded once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from rushes.models.wan_vae import WanVAE
from training.clips import ClipSource
from training.text import TextFeatures
from training.vae_folder import load_vae
from training.world.attributes import NUM_FRAMES

CAPTIONS_A_CLIP = 3
DROPPED = 0.1  # share of captions replaced by the empty prompt, for classifier-free guidance


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Clips to learn from.

    Attributes:
        latents: float32 [B, C, T, h, w].
        cover: float32 [B, 1, T, h, w] in [0, 1], the share of each latent cell's pixels that sprites cover.
        states, pooled: [B, L, D] and [B, D] of their captions.
    """

    latents: Tensor
    cover: Tensor
    states: Tensor
    pooled: Tensor


class LatentPool:
    """N encoded clips, each with the same number of captions."""

    def __init__(self, latents: Tensor, cover: Tensor, captions: list[str], text: TextFeatures) -> None:
        self.latents = latents
        self._cover = cover
        self._a_clip = len(captions) // len(latents)
        self._text_len = text.text_len
        self._states, self._pooled = text.encode(captions)
        self._empty_states, self._empty_pooled = text.encode([""])

    def batch(self, size: int, dropped: float = DROPPED) -> Batch:
        """Random clips, each with one of its captions or, a share of them `dropped`, the empty prompt."""
        device = self.latents.device
        clip = torch.randint(self.latents.shape[0], (size,), device=device)
        caption = clip * self._a_clip + torch.randint(self._a_clip, (size,), device=device)
        drop = (torch.rand(size, device=device) < dropped)[:, None]
        empty = _padded(self._empty_states, self._states.shape[1])
        states = torch.where(drop[..., None], empty, self._states[caption])
        pooled = torch.where(drop, self._empty_pooled, self._pooled[caption])
        return Batch(
            latents=self.latents[clip].float(),
            cover=self._cover[clip].float() / 255,
            states=_padded(states, self._text_len).float(),
            pooled=pooled.float(),
        )


def _padded(states: Tensor, length: int) -> Tensor:
    """[B, L, D] with zeros up to `length` tokens."""
    return F.pad(states, (0, 0, 0, length - states.shape[1]))


def latent_cover(cover: Tensor, vae: WanVAE) -> Tensor:
    """Pixels [B, T, H, W] in [0, 1] to latent cells, uint8 [B, 1, T', h, w]: the mean over each cell."""
    time, space = vae.config.temporal_stride, vae.config.spatial_stride
    first, rest = cover[:, None, :1], cover[:, None, 1:]
    pooled = [F.avg_pool3d(first, (1, space, space))]
    if rest.shape[2]:
        pooled.append(F.avg_pool3d(rest, (time, space, space)))
    return (torch.cat(pooled, dim=2) * 255).round().to(torch.uint8)


@torch.no_grad()
def build_pool(
    vae_folder: Path, size: int, seconds: float, seed: int, *, num_frames: int = NUM_FRAMES
) -> LatentPool:
    """Render and encode the beginnings of `size` clips, fewer when `seconds` run out first."""
    captions_a_clip = CAPTIONS_A_CLIP if num_frames > 1 else 1
    source = ClipSource(seed=seed)
    vae = load_vae(vae_folder, source.device, source.dtype)
    start, chunk = time.time(), (128 if num_frames > 1 else 1024) if source.on_gpu else 2
    latents, covers, captions = [], [], list[str]()
    done = 0
    while done < size and (time.time() - start < seconds or not done):
        clips = source.draw_covered(min(chunk, size - done), captions=captions_a_clip, num_frames=num_frames)
        latents.append(vae.encode_whole(clips.video).bfloat16())
        covers.append(latent_cover(clips.cover, vae))
        captions += clips.captions
        done += len(clips.video)
    print(f"pool: {done} x {num_frames} frames in {time.time() - start:.0f} s", flush=True)
    return LatentPool(torch.cat(latents), torch.cat(covers), captions, TextFeatures(source.device))
