"""FlashAttention 3 (arXiv:2407.08608) on Hopper, as one operator that torch.compile leaves whole.

The wheel `fa3-fwd` (forward only; bfloat16 and float8_e4m3fn, heads of up to 256) brings the module
`fa3_fwd_interface`; builds of the original repository, as the wheel `tokenspeed-fa3`, bring
`flash_attn_interface`. Both have the same `flash_attn_func`; paged keys are left out of the first.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor

from rushes.errors import ConfigError

MODULES = ("fa3_fwd_interface", "flash_attn_interface")


def fa3_module() -> str | None:
    """The module that an installed FlashAttention 3 has; None without one."""
    return next((name for name in MODULES if importlib.util.find_spec(name) is not None), None)


def paged_fa3_module() -> str | None:
    """The module of a FlashAttention 3 that was built with paged keys; None without one."""
    found = (name for name in MODULES if importlib.util.find_spec(name) is not None)
    return next((name for name in found if _has_pages(name)), None)


def _has_pages(module: str) -> bool:
    """As the build's own list of switches says; a build without a list is not trusted to have them."""
    config = module.replace("_interface", "_config")
    if importlib.util.find_spec(config) is None:
        return False
    flags = importlib.import_module(config).CONFIG["build_flags"]
    return not flags.get("FLASHATTENTION_DISABLE_PAGEDKV", False)


def check_fa3() -> None:
    """Raises `ConfigError` when no FlashAttention 3 is installed."""
    if fa3_module() is None:
        raise ConfigError(
            f"attention backend fa3 needs the module {' or '.join(MODULES)}, and neither is installed:"
            " pip install fa3-fwd, or choose cudnn"
        )


@cache
def _interface() -> Any:
    check_fa3()
    return importlib.import_module(cast(str, fa3_module()))


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_descale: Tensor | None = None,
    k_descale: Tensor | None = None,
    v_descale: Tensor | None = None,
) -> Tensor:
    descales = {"q_descale": q_descale, "k_descale": k_descale, "v_descale": v_descale}
    out = _interface().flash_attn_func(q, k, v, **descales)
    # (out, log-sum-exp) or out alone, by version.
    return cast(Tensor, out[0] if isinstance(out, tuple) else out)


_OPERATOR = torch.library.custom_op(
    "rushes::fa3_attention",
    _run,
    mutates_args=(),
    device_types="cuda",
    schema="(Tensor q, Tensor k, Tensor v, Tensor? q_descale=None, Tensor? k_descale=None,"
    " Tensor? v_descale=None) -> Tensor",
)


@_OPERATOR.register_fake
def _shape_of(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_descale: Tensor | None = None,
    k_descale: Tensor | None = None,
    v_descale: Tensor | None = None,
) -> Tensor:
    dtype = torch.bfloat16 if q.dtype == torch.float8_e4m3fn else q.dtype
    return torch.empty((*q.shape[:-1], v.shape[-1]), dtype=dtype, device=q.device)


def fa3_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_descale: Tensor | None = None,
    k_descale: Tensor | None = None,
    v_descale: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v, every query on every key, without gradients.

    Args:
        q: [B, N, H, D], bfloat16 or float8_e4m3fn. Only the last dimension must be dense, so the views of a
            fused projection are read where they lie.
        k: [B, M, H, D], as v.
        q_descale: of fp8 inputs, float32 [B, H] like the other two: the factors that give the true values.

    Returns:
        [B, N, H, D], bfloat16 for fp8 inputs.
    """
    return cast(Tensor, _OPERATOR(q, k, v, q_descale, k_descale, v_descale))


def fa3_paged_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    table: Tensor,
    num_keys: Tensor,
    starts: Tensor,
    longest: int,
    descales: Sequence[Tensor] | None = None,
) -> Tensor:
    """Attention of sequences of queries, each on pages of keys of its own. No operator of a graph by itself.

    Args:
        q: [queries, H, D] of all sequences, bfloat16 or float8_e4m3fn.
        k: [pages, keys of a page, H, D], as v.
        table: int32 [sequences, most], the pages of each, in any order; only its last may be read in part.
        num_keys: int32 [sequences], how many keys of its pages count.
        starts: int32 [sequences + 1], first query of each, and the end.
        longest: most queries of a sequence.
        descales: of fp8 inputs, float32 [sequences, H] for q, k and v.

    Returns:
        [queries, H, D], bfloat16 for fp8 inputs.
    """
    names = ("q_descale", "k_descale", "v_descale")
    scales = {} if descales is None else dict(zip(names, descales, strict=True))
    out = _paged_interface().flash_attn_with_kvcache(
        *(q, k, v),
        cache_seqlens=num_keys,
        page_table=table,
        cu_seqlens_q=starts,
        max_seqlen_q=longest,
        num_splits=1,
        pack_gqa=False,
        **scales,
    )
    return cast(Tensor, out[0] if isinstance(out, tuple) else out)


@cache
def _paged_interface() -> Any:
    module = paged_fa3_module()
    assert module is not None, "the pass has checked it"
    return importlib.import_module(module)
