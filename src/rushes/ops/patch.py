"""Latents to tokens and back."""

from __future__ import annotations

import torch
from torch import Tensor

Size3 = tuple[int, int, int]


def patchify(latents: Tensor, patch: Size3) -> Tensor:
    """[B, C, T*p, H*q, W*r] -> [B, T*H*W, C*p*q*r]: what a convolution with stride = kernel reads."""
    p, q, r = patch
    batch, channels, frames, rows, columns = latents.shape
    x = latents.reshape(batch, channels, frames // p, p, rows // q, q, columns // r, r)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)


def unpatchify(tokens: Tensor, grid: Size3, patch: Size3) -> Tensor:
    """[B, T*H*W, p*q*r*C] -> [B, C, T*p, H*q, W*r]; channels are innermost in a token (as in Wan's head)."""
    x = torch.unflatten(torch.unflatten(tokens, 2, (*patch, -1)), 1, grid)
    return x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
