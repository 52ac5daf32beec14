"""Attention on [B, N, H, D], one function in front of several kernels.

`backend` names the kernel; to switch one off, name another. `rushes.ops.reference` holds the spec.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rushes.errors import ConfigError, UnknownName

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q [B, N, H, D], k and v [B, M, H, D] -> [B, N, H, D], every query on every key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameCausal:
    """Block-causal over latent frames: a token sees its own frame and all earlier ones.

    Keys are frame-major from the first frame on; the queries are the last of them, whole frames. No mask is
    built: each frame of queries attends to a prefix of the keys, so any kernel serves, at half the work.

    Attributes:
        frame_tokens: tokens per latent frame.
    """

    frame_tokens: int


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | FrameCausal | None = None, backend: str = "auto"
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v (arXiv:1706.03762, eq. 1).

    Args:
        q: [B, N, H, D].
        k: [B, M, H, D], as v.
        mask: boolean, broadcastable to [B, H, N, M], True where a query sees a key; or a `FrameCausal`.
        backend: a name of `BACKENDS`, or auto.

    Raises:
        UnknownName: no such backend.
        ConfigError: the backend is not installed, or takes no tensor mask.

    Example:
        >>> q, k = torch.randn(1, 4, 2, 8), torch.randn(1, 6, 2, 8)
        >>> attention(q, k, k, mask=FrameCausal(frame_tokens=2)).shape
        torch.Size([1, 4, 2, 8])
    """
    kernel = attention_kernel(backend)
    if mask is None:
        return kernel(q, k, v)
    if isinstance(mask, FrameCausal):
        return _by_frame(kernel, q, k, v, mask.frame_tokens)
    if kernel is not _sdpa:
        raise ConfigError(f"attention backend {backend} takes no tensor mask; choose sdpa")
    return _sdpa(q, k, v, mask)


def attention_kernel(backend: str) -> Kernel:
    """The kernel called `backend`; auto is sdpa, in which torch picks by device and dtype.

    Raises:
        UnknownName: no such backend.
        ConfigError: its package is not installed.
    """
    if backend == "auto":
        return _sdpa
    if backend not in BACKENDS:
        raise UnknownName("attention_backend", backend, ["auto", *BACKENDS])
    if backend == "fa3" and importlib.util.find_spec("flash_attn_interface") is None:
        raise ConfigError("attention backend fa3 needs the package flash_attn_interface (FlashAttention 3)")
    return BACKENDS[backend]


def _by_frame(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, frame_tokens: int) -> Tensor:
    num_keys, outs = k.shape[1] - q.shape[1], []
    for frame in torch.unflatten(q, 1, (-1, frame_tokens)).unbind(1):
        num_keys += frame_tokens
        outs.append(kernel(frame, k[:, :num_keys], v[:, :num_keys]))
    return torch.cat(outs, dim=1)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def _cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return _sdpa(q, k, v)


def _flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return _sdpa(q, k, v)


def _fa3(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    # FlashAttention 3 returns (out, log-sum-exp) or out alone, by version.
    out = importlib.import_module("flash_attn_interface").flash_attn_func(q, k, v)
    return cast(Tensor, out[0] if isinstance(out, tuple) else out)


BACKENDS: dict[str, Kernel] = {"sdpa": _sdpa, "cudnn": _cudnn, "flash": _flash, "fa3": _fa3}
