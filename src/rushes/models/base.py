"""What a model file tells the loader: from which checkpoint tensors each of its parameters is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One parameter of ours, made from checkpoint tensors joined along dimension 0.

    Attributes:
        names: checkpoint tensor names, in order (three of them for a fused QKV).
        reshape: view the joined tensor is given, None to keep it (a patch convolution read as a matrix).
    """

    names: tuple[str, ...]
    reshape: tuple[int, ...] | None = None


Sources = Mapping[str, Source]
