"""Latents and captions to train the transformer on, held on the device: rendered and encoded once."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from training.clips import ClipSource
from training.text import TextFeatures
from training.vae_folder import encode, load_vae

CAPTIONS_A_CLIP = 3
DROPPED = 0.1  # share of captions replaced by the empty prompt, for classifier-free guidance


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """latents float32 [B, C, T, h, w]; states [B, L, D] and pooled [B, D] of their captions."""

    latents: Tensor
    states: Tensor
    pooled: Tensor


class LatentPool:
    """N encoded clips with `CAPTIONS_A_CLIP` captions each."""

    def __init__(self, latents: Tensor, captions: list[str], text: TextFeatures) -> None:
        self.latents = latents
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
        return Batch(latents=self.latents[clip].float(), states=states, pooled=pooled)


@torch.no_grad()
def build_pool(vae_folder: Path, size: int, seconds: float, seed: int) -> LatentPool:
    """Render and encode `size` clips, fewer when `seconds` run out first."""
    source = ClipSource(seed=seed)
    vae = load_vae(vae_folder, source.device, source.dtype)
    start, chunk = time.time(), 128 if source.on_gpu else 2
    latents: Tensor | None = None
    captions: list[str] = []
    done = 0
    while done < size and (time.time() - start < seconds or not done):
        clips = source.draw(min(chunk, size - done), captions=CAPTIONS_A_CLIP)
        encoded = encode(vae, clips.video).bfloat16()
        if latents is None:
            latents = encoded.new_empty(size, *encoded.shape[1:])
        latents[done : done + encoded.shape[0]] = encoded
        captions += clips.captions
        done += encoded.shape[0]
    assert latents is not None
    print(f"pool: {done} clips in {time.time() - start:.0f} s", flush=True)
    return LatentPool(latents[:done], captions, TextFeatures(source.device))
