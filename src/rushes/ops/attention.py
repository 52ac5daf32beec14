"""Attention on [B, N, H, D], one function in front of several kernels.

`backend` names the kernel; to switch one off, name another. `rushes.ops.reference.attention_loop` is the spec.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rushes.errors import ConfigError, UnknownName


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameCausal:
    """Block-causal over latent frames: a token sees its own frame and all earlier ones.

    Keys are frame-major from the first frame on; the queries are the last ones.

    Attributes:
        frame_tokens: tokens per latent frame.
    """

    frame_tokens: int

    def allowed(self, num_queries: int, num_keys: int, device: torch.device) -> Tensor:
        """As a boolean mask [num_queries, num_keys], True where a query sees a key."""
        keys = torch.arange(num_keys, device=device) // self.frame_tokens
        return keys <= keys[num_keys - num_queries :, None]


Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]
"""q [B, N, H, D], k and v [B, M, H, D] -> [B, N, H, D], every query on every key."""


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
        ConfigError: the backend is not installed.
    """
    kernel = _kernel(backend, q)
    if mask is None:
        return kernel(q, k, v)
    if isinstance(mask, FrameCausal):
        mask = mask.allowed(q.shape[1], k.shape[1], q.device)
    return _sdpa(q, k, v, mask)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(*heads_first, attn_mask=mask).transpose(1, 2)


def _cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return _sdpa(q, k, v)


def _flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return _sdpa(q, k, v)


def _fa3(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    if importlib.util.find_spec("flash_attn_interface") is None:
        raise ConfigError(
            "attention backend fa3: the package flash_attn_interface (FlashAttention 3) is missing"
        )
    from flash_attn_interface import flash_attn_func

    out = flash_attn_func(q, k, v)
    return out[0] if isinstance(out, tuple) else out


BACKENDS: dict[str, Kernel] = {"sdpa": _sdpa, "cudnn": _cudnn, "flash": _flash, "fa3": _fa3}


def _kernel(backend: str, q: Tensor) -> Kernel:
    if backend == "auto":
        return _sdpa
    if backend not in BACKENDS:
        raise UnknownName("attention_backend", backend, ["auto", *BACKENDS])
    return BACKENDS[backend]
