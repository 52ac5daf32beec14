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
    """N encoded clips with `CAPTIONS_A_CLIP` captions each."""

    def __init__(self, latents: Tensor, cover: Tensor, captions: list[str], text: TextFeatures) -> None:
        self.latents = latents
        self._cover = cover
        self._text = text
        self._ids, self._lengths = text.tokenize(captions)
        self._empty_ids, self._empty_lengths = text.tokenize([""])

    def batch(self, size: int, dropped: float = DROPPED) -> Batch:
        """Random clips, each with one of its captions or, a share of them `dropped`, the empty prompt."""
        device = self.latents.device
        clip = torch.randint(self.latents.shape[0], (size,), device=device)
        caption = clip * CAPTIONS_A_CLIP + torch.randint(CAPTIONS_A_CLIP, (size,), device=device)
        drop = torch.rand(size, device=device) < dropped
        ids = torch.where(drop[:, None], self._empty_ids, self._ids[caption])
        lengths = torch.where(drop, self._empty_lengths, self._lengths[caption])
        states, pooled = self._text.encode(ids.long(), lengths.long())
        cover = self._cover[clip].float() / 255
        return Batch(latents=self.latents[clip].float(), cover=cover, states=states, pooled=pooled)


def latent_cover(cover: Tensor, vae: WanVAE) -> Tensor:
    """Pixels [B, T, H, W] in [0, 1] to latent cells, uint8 [B, 1, T', h, w]: the mean over each cell."""
    time, space = vae.config.temporal_stride, vae.config.spatial_stride
    first, rest = cover[:, None, :1], cover[:, None, 1:]
    pooled = [F.avg_pool3d(first, (1, space, space)), F.avg_pool3d(rest, (time, space, space))]
    return (torch.cat(pooled, dim=2) * 255).round().to(torch.uint8)


@torch.no_grad()
def build_pool(vae_folder: Path, size: int, seconds: float, seed: int) -> LatentPool:
    """Render and encode `size` clips, fewer when `seconds` run out first."""
    source = ClipSource(seed=seed)
    vae = load_vae(vae_folder, source.device, source.dtype)
    start, chunk = time.time(), 128 if source.on_gpu else 2
    latents, covers, captions = [], [], list[str]()
    done = 0
    while done < size and (time.time() - start < seconds or not done):
        clips = source.draw_covered(min(chunk, size - done), captions=CAPTIONS_A_CLIP)
        latents.append(vae.encode_whole(clips.video).bfloat16())
        covers.append(latent_cover(clips.cover, vae))
        captions += clips.captions
        done += len(clips.video)
    print(f"pool: {done} clips in {time.time() - start:.0f} s", flush=True)
    return LatentPool(torch.cat(latents), torch.cat(covers), captions, TextFeatures(source.device))
