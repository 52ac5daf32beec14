"""LoRA files in diffusers' names, fused into a transformer: W + scale * B A (Hu et al., 2106.09685).

A file holds `X.lora_A.weight` [rank, in] and `X.lora_B.weight` [out, rank] for each adapted module X of the
checkpoint, and may hold `X.alpha`, which makes its scale alpha / rank. Its tensors may be int8 at rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rushes.errors import CheckpointError, did_you_mean
from rushes.models.at_rest import restore
from rushes.models.base import Sources
from rushes.models.wan import Wan
from rushes.models.weights import open_store

DOWN, UP, ALPHA = ".lora_A.weight", ".lora_B.weight", ".alpha"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Update:
    """What is added to some rows of a weight: scale * up @ down."""

    rows: Tensor
    down: Tensor
    up: Tensor
    scale: float


def read_lora(file: Path) -> dict[str, Tensor]:
    """The tensors of a LoRA file, those at rest in float32. Raises `CheckpointError`."""
    if not file.is_file():
        raise CheckpointError(f"{file.parent}: no {file.name}, the LoRA that this preset samples with")
    with open_store([file], torch.device("cpu")) as store:
        stored = {name: store.read(name) for name in store.headers}
    return {name: restore(stored, name) for name in stored if not name.endswith(".scale")}


@torch.no_grad()
def fuse(model: Wan, lora: Mapping[str, Tensor], sources: Sources, *, scale: float = 1.0) -> None:
    """Add a LoRA to the weights, in place: in float32, then rounded to each weight's dtype.

    Args:
        lora: as `read_lora` returns it.
        sources: of the model, in the layout whose names the LoRA uses.

    Raises:
        CheckpointError: names the tensor that fits no weight, and the nearest; no weight has changed then.
    """
    targets = _targets(model, sources)
    stems = dict.fromkeys(_stem(name, targets) for name in lora)
    updates = [_update(lora, stem, targets[stem], scale) for stem in stems]
    for update in updates:
        device = update.rows.device
        change = update.up.to(device) @ update.down.to(device)
        update.rows.copy_(update.rows.float() + update.scale * change)


def _targets(model: Wan, sources: Sources) -> dict[str, Tensor]:
    """The checkpoint's modules that can be adapted, each with its rows of our weight."""
    parameters = dict(model.named_parameters())
    return {
        theirs.removesuffix(".weight"): rows
        for ours, source in sources.items()
        if parameters[ours].ndim == 2
        for theirs, rows in zip(source.names, parameters[ours].detach().chunk(len(source.names)), strict=True)
    }


def _stem(name: str, targets: Mapping[str, Tensor]) -> str:
    stem = next((name.removesuffix(end) for end in (DOWN, UP, ALPHA) if name.endswith(end)), None)
    if stem is None:
        raise CheckpointError(f"LoRA: tensor {name!r} does not end in {DOWN}, {UP} or {ALPHA}")
    if stem not in targets:
        raise CheckpointError(f"LoRA: {stem!r} is no matrix of this model{did_you_mean(stem, targets)}")
    return stem


def _update(lora: Mapping[str, Tensor], stem: str, rows: Tensor, scale: float) -> _Update:
    for name in (stem + DOWN, stem + UP):
        if name not in lora:
            raise CheckpointError(f"LoRA: tensor {name!r} is missing{did_you_mean(name, lora)}")
    down, up = lora[stem + DOWN].float(), lora[stem + UP].float()
    if down.ndim != 2 or up.shape != (rows.shape[0], down.shape[0]) or down.shape[1] != rows.shape[1]:
        found = f"B {list(up.shape)} times A {list(down.shape)}"
        raise CheckpointError(f"LoRA: wrong shape of {stem}: {found}; the weight is {list(rows.shape)}")
    if stem + ALPHA in lora:
        scale *= lora[stem + ALPHA].item() / down.shape[0]
    return _Update(rows=rows, down=down, up=up, scale=scale)
