"""Attention on [B, N, H, D], one function in front of several kernels.

`backend` names the kernel; to switch one off, name another. `rushes.ops.reference` holds the spec.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from rushes.errors import ConfigError, UnknownName
from rushes.ops.fa3 import check_fa3, fa3_attention, fa3_module

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
    kernel = _kernel(backend)
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
    if backend == "fa3":
        check_fa3()
    return _kernel(backend)


def check_backend(backend: str, device: torch.device, dtype: torch.dtype, what: str) -> None:
    """Raises `ConfigError` where the kernel cannot run for such a network; `what` begins the message.

    On a machine with a GPU weights on the CPU pass: a noise expert may wait there for its place on the GPU.
    """
    if backend not in ("fa3", "cudnn") or device.type == "meta":
        return
    if backend == "fa3" and dtype != torch.bfloat16:
        raise ConfigError(f"{what}: fa3 takes bfloat16, the network is {dtype}; choose cudnn, flash or sdpa")
    if device.type == "cpu" and torch.cuda.is_available():
        return
    if device.type != "cuda":
        raise ConfigError(f"{what}: {backend} runs on cuda, not on {device.type}; choose sdpa")
    major, minor = torch.cuda.get_device_capability(device)
    if backend == "fa3" and major != 9:
        raise ConfigError(
            f"{what}: fa3 is for compute capability 9, not {major}.{minor}; choose cudnn, flash or sdpa"
        )


def best_backend(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> tuple[str, str]:
    """The fastest backend that this machine has for self-attention, and why, to be shown to the user: nothing
    else falls back from one to the other."""
    if device.type != "cuda":
        return "sdpa", f"torch's own kernel is the one for {device.type}"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) != (9, 0) or dtype != torch.bfloat16:
        return "cudnn", f"fa3 needs bfloat16 and compute capability 9.0, not {dtype} and {major}.{minor}"
    found = fa3_module()
    return ("cudnn", "fa3 is not installed (pip install fa3-fwd)") if found is None else ("fa3", found)


def _kernel(backend: str) -> Kernel:
    # Looks nothing up outside this module: torch.compile traces it.
    if backend == "auto":
        return _sdpa
    if backend not in BACKENDS:
        raise UnknownName("attention_backend", backend, ["auto", *BACKENDS])
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
    if q.dtype != torch.bfloat16:
        raise ConfigError(f"attention backend fa3 takes bfloat16, not {q.dtype}; choose cudnn")
    if q.device.type != "cuda":
        raise ConfigError(f"attention backend fa3 runs on cuda, not on {q.device.type}; choose sdpa")
    return fa3_attention(q, k, v)


BACKENDS: dict[str, Kernel] = {"sdpa": _sdpa, "cudnn": _cudnn, "flash": _flash, "fa3": _fa3}
