"""LoRA files fused into a transformer: W + scale * B A (Hu et al., 2106.09685), and whole differences.

A file names modules X of the original or of diffusers' layout, with or without `diffusion_model.` or
`transformer.` before them, and holds for each what it has of

| tensor | changes |
|---|---|
| `X.lora_A.weight` (`lora_down`) [rank, in] with `X.lora_B.weight` (`lora_up`) [out, rank] | the weight |
| `X.alpha` | the scale, which it makes alpha / rank |
| `X.diff`, `X.diff_b` | the weight or the bias, by adding it |
| `X.diff_m` | the modulation, by adding it |

Its tensors may be int8 at rest. LightX2V's files for Wan2.2 have these names, one file for each noise expert.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rushes.errors import CheckpointError, did_you_mean
from rushes.models.at_rest import restore
from rushes.models.base import Sources
from rushes.models.wan import Wan
from rushes.models.wan_checkpoint import Layout, sources
from rushes.models.weights import open_store

PREFIXES = ("diffusion_model.", "transformer.")
_SPELLINGS = {
    ".lora_A.weight": "down",
    ".lora_down.weight": "down",
    ".lora_A.default.weight": "down",
    ".lora_B.weight": "up",
    ".lora_up.weight": "up",
    ".lora_B.default.weight": "up",
    ".alpha": "alpha",
    ".diff": "diff",
    ".diff_b": "diff_b",
    ".diff_m": "diff_m",
}
_LAYOUTS: tuple[Layout, ...] = ("diffusers", "wan")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Update:
    """What is added to some rows of a parameter, the checkpoint's `target`: scale * up @ down, or `diff`."""

    target: str
    rows: Tensor
    down: Tensor | None = None
    up: Tensor | None = None
    scale: float = 1.0
    diff: Tensor | None = None

    def added(self, device: torch.device) -> Tensor:
        if self.diff is not None:
            return self.scale * self.diff.to(device, torch.float32).reshape(self.rows.shape)
        assert self.up is not None
        assert self.down is not None
        up, down = (matrix.to(device, torch.float32) for matrix in (self.up, self.down))
        return self.scale * (up @ down)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """A tensor of a file: the module that it is for, what it is, and its name in the file."""

    stem: str
    kind: str
    name: str

    def target(self, names: Container[str]) -> str | None:
        """The checkpoint's tensor of these names that it changes."""
        endings = {"diff_b": [".bias"], "diff_m": [".modulation"]}.get(self.kind, [".weight", ""])
        return next((self.stem + ending for ending in endings if self.stem + ending in names), None)


def read_lora(file: Path) -> dict[str, Tensor]:
    """The tensors of a LoRA file, those at rest in float32. Raises `CheckpointError`."""
    if not file.is_file():
        raise CheckpointError(f"{file.parent}: no {file.name}, the LoRA that this preset samples with")
    with open_store([file], torch.device("cpu")) as store:
        stored = {name: store.read(name) for name in store.headers}
    return {
        name: restore(stored, name) if f"{name}.scale" in stored else stored[name]
        for name in stored
        if not name.endswith(".scale")
    }


@torch.no_grad()
def fuse(model: Wan, lora: Mapping[str, Tensor], table: Sources | None = None, *, scale: float = 1.0) -> None:
    """Add a LoRA to the parameters, in place: in float32, then rounded to each parameter's dtype.

    Args:
        lora: as `read_lora` returns it.
        table: where the parameters come from, in the layout whose names the LoRA uses; None finds out.
        scale: of all of it; not 0.

    Raises:
        CheckpointError: names the tensor that fits no parameter, and the nearest, or that is there under two
            spellings; or nothing would change. No parameter has changed then.
    """
    if not lora or scale == 0:
        raise CheckpointError(f"LoRA: {len(lora)} tensors at a scale of {scale} change nothing")
    named = [_named(name) for name in lora]
    targets = _targets(model, _table(model, named) if table is None else table)
    by_target: dict[str, list[_Update]] = {}
    for update in _updates(lora, named, targets, scale):
        by_target.setdefault(update.target, []).append(update)
    for target, updates in by_target.items():
        rows = targets[target]
        rows.copy_(sum((update.added(rows.device) for update in updates), rows.float()))


def _named(name: str) -> _Named:
    bare = name
    for prefix in PREFIXES:
        bare = bare.removeprefix(prefix)
    for ending, kind in _SPELLINGS.items():
        if bare.endswith(ending):
            return _Named(stem=bare.removesuffix(ending), kind=kind, name=name)
    raise CheckpointError(f"LoRA: tensor {name!r} does not end in one of {', '.join(_SPELLINGS)}")


def _table(model: Wan, named: list[_Named]) -> Sources:
    """The layout that more of the names, or at least more of their words, are of."""
    tables = [sources(model.config, layout) for layout in _LAYOUTS]

    def likeness(table: Sources) -> tuple[int, int]:
        names = {name for source in table.values() for name in source.names}
        words = {word for name in names for word in name.split(".")}
        num_names = sum(one.target(names) is not None for one in named)
        return num_names, sum(word in words for one in named for word in one.stem.split("."))

    return max(tables, key=likeness)


def _targets(model: Wan, table: Sources) -> dict[str, Tensor]:
    """The checkpoint's tensors, each as its rows of our parameter."""
    parameters = dict(model.named_parameters())
    return {
        theirs: rows
        for ours, source in table.items()
        for theirs, rows in zip(source.names, parameters[ours].detach().chunk(len(source.names)), strict=True)
    }


def _updates(
    lora: Mapping[str, Tensor], named: list[_Named], targets: Mapping[str, Tensor], scale: float
) -> Iterator[_Update]:
    pairs: dict[str, dict[str, str]] = {}
    seen: dict[tuple[str | None, str], str] = {}
    for one in named:
        target = one.target(targets)
        if target is not None and (target, one.kind) in seen:
            raise CheckpointError(
                f"LoRA: {seen[target, one.kind]!r} and {one.name!r} are two spellings of one tensor; keep one"
            )
        seen[target, one.kind] = one.name
        if one.kind in ("down", "up", "alpha"):
            if target is None or targets[target].ndim != 2:
                raise _no_matrix(one.stem, targets)
            pairs.setdefault(target, {"stem": one.stem})[one.kind] = one.name
        elif target is None:
            hint = did_you_mean(one.stem, {name.rpartition(".")[0] for name in targets})
            raise CheckpointError(f"LoRA: {one.name!r} changes nothing that this model has{hint}")
        else:
            yield _difference(lora[one.name], one.name, target, targets[target], scale)
    for target, names in pairs.items():
        yield _product(lora, names, target, targets[target], scale)


def _no_matrix(stem: str, targets: Mapping[str, Tensor]) -> CheckpointError:
    matrices = [name.removesuffix(".weight") for name, rows in targets.items() if rows.ndim == 2]
    return CheckpointError(f"LoRA: {stem!r} is no matrix of this model{did_you_mean(stem, matrices)}")


def _difference(diff: Tensor, name: str, target: str, rows: Tensor, scale: float) -> _Update:
    if diff.numel() != rows.numel():
        found, wanted = list(diff.shape), list(rows.shape)
        raise CheckpointError(f"LoRA: wrong shape of {name}: {found}; what it changes is {wanted}")
    return _Update(target=target, rows=rows, diff=diff, scale=scale)


def _product(
    lora: Mapping[str, Tensor], names: Mapping[str, str], target: str, rows: Tensor, scale: float
) -> _Update:
    stem = names["stem"]
    for kind, spelling in (("down", "lora_A"), ("up", "lora_B")):
        if kind not in names:
            name = f"{stem}.{spelling}.weight"
            raise CheckpointError(f"LoRA: tensor {name!r} is missing{did_you_mean(name, lora)}")
    down, up = lora[names["down"]], lora[names["up"]]
    if down.ndim != 2 or up.shape != (rows.shape[0], down.shape[0]) or down.shape[1] != rows.shape[1]:
        found = f"B {list(up.shape)} times A {list(down.shape)}"
        raise CheckpointError(f"LoRA: wrong shape of {stem}: {found}; the weight is {list(rows.shape)}")
    if "alpha" in names:
        scale *= lora[names["alpha"]].item() / down.shape[0]
    return _Update(target=target, rows=rows, down=down, up=up, scale=scale)
