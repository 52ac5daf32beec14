"""Tensor names and shapes of the public models, as lists committed with their source. No torch here.

The lists under `layouts/` hold shapes in symbols ("4*base") and repeat `{layer}` entries. The two lists of
one network run in the same order: entry k of one layout is entry k of the other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib import resources
from typing import Any

Shape = tuple[int, ...]


def expand(list_name: str, sizes: Mapping[str, int]) -> dict[str, Shape]:
    """Every tensor of a network at given sizes, in the list's order.

    Args:
        list_name: a file of `layouts/` without its ending, such as "dit_wan".
        sizes: a number for each symbol of the list, and for each count that it repeats over.

    Example:
        >>> expand("umt5_wan", dict(vocab=9, dim=4, inner=4, ffn=8, buckets=2, heads=2, layers=0))
        {'token_embedding.weight': (9, 4), 'norm.weight': (4,)}
    """
    content = read_list(list_name)
    shapes: dict[str, Shape] = {}
    repeated: dict[str, list[Any]] = {}
    for name, shape in content["tensors"].items():
        if "{layer}" in name:
            repeated[name] = shape
            continue
        shapes.update(_layers(repeated, sizes))
        repeated = {}
        shapes[name] = _shape(shape, sizes)
    return shapes


def _layers(repeated: Mapping[str, list[Any]], sizes: Mapping[str, int]) -> dict[str, Shape]:
    layers = range(sizes["layers"] if repeated else 0)
    return {
        name.replace("{layer}", str(layer)): _shape(shape, sizes)
        for layer in layers
        for name, shape in repeated.items()
    }


def read_list(list_name: str) -> dict[str, Any]:
    """A list as it is committed: source, about, symbols, tensors."""
    file = resources.files("rushes.models") / "layouts" / f"{list_name}.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def _shape(symbolic: list[int | str], sizes: Mapping[str, int]) -> Shape:
    return tuple(_size(entry, sizes) for entry in symbolic)


def _size(entry: int | str, sizes: Mapping[str, int]) -> int:
    """A number, a symbol or a product such as "4*base"."""
    factors = str(entry).split("*")
    return math.prod(int(factor) if factor.isdigit() else sizes[factor] for factor in factors)
