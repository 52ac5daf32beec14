"""How far two trajectories are apart before anything is decoded."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def relative_l1(a: Tensor, b: Tensor) -> float:
    """sum |a - b| / sum |a| of latents of one shape: the distance of step caches (TeaCache, arXiv:2411.19108,
    eq. 4), 0 for equals.

    Example:
        >>> import torch
        >>> relative_l1(torch.tensor([2.0, 2.0]), torch.tensor([2.0, 1.0]))
        0.25
    """
    a, b = a.double(), b.double()
    return float((a - b).abs().sum() / a.abs().sum())


def relative_l1_curve(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[float]:
    """`relative_l1` after each step of two trajectories of as many steps."""
    assert len(a) == len(b), f"trajectories of {len(a)} and {len(b)} steps"
    return [relative_l1(x, y) for x, y in zip(a, b, strict=True)]
