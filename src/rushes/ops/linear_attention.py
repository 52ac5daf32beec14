"""Attention whose work grows with the number of tokens, not with its square (arXiv:2006.16236).

softmax is replaced by a product of features: out_i = f(q_i) S / f(q_i) z with S = sum_j f(k_j) v_j^T and
z = sum_j f(k_j). It is another function than softmax attention, so a network must be trained with it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from rushes.errors import UnknownName

FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": lambda x: F.elu(x) + 1,
    "relu": F.relu,
}
"""Feature maps f: "elu" of arXiv:2006.16236, "relu" as in SANA-Video (arXiv:2509.24695)."""


def linear_attention(q: Tensor, k: Tensor, v: Tensor, *, feature: str = "elu") -> Tensor:
    """q [B, N, H, D], k and v [B, M, H, D] -> [B, N, H, D], every query on every key, in O(N + M).

    Sums are float32 and divided by M, so that their size does not depend on the number of keys.

    Raises:
        UnknownName: no such feature map.
    """
    apply = feature_map(feature)
    queries, keys = apply(q), apply(k)
    sums = torch.einsum("bmhd,bmhe->bhde", keys / k.shape[1], v)
    normaliser = torch.einsum("bnhd,bhd->bnh", queries.float(), keys.mean(dim=1, dtype=torch.float32))
    out = torch.einsum("bnhd,bhde->bnhe", queries, sums)
    return (out / normaliser.clamp_min(1e-6)[..., None]).to(q.dtype)


def feature_map(name: str) -> Callable[[Tensor], Tensor]:
    """The feature map called `name`. Raises `UnknownName`."""
    if name not in FEATURES:
        raise UnknownName("feature", name, FEATURES)
    return FEATURES[name]


def linear_attention_reference(q: Tensor, k: Tensor, v: Tensor, *, feature: str = "elu") -> Tensor:
    """The same through the N x M matrix of weights, in float32."""
    apply = feature_map(feature)
    weights = torch.einsum("bnhd,bmhd->bhnm", apply(q.float()), apply(k.float()))
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-6 * k.shape[1])
    return torch.einsum("bhnm,bmhe->bnhe", weights, v.float()).to(q.dtype)
