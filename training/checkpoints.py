"""Checkpoints of a training run: resumable within 30 MB, and back to a public layout's names."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rushes.models.at_rest import GROUP, quantize_int4, quantize_int8, restore
from rushes.models.base import Sources
from rushes.models.loader import open_checkpoint
from training.optim import Average


def to_layout(
    state: dict[str, Tensor], sources: Sources, shapes: dict[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """`state` under the names of the layout that `sources` reads; fused parameters are split into equal
    parts, and a parameter named in `shapes` is viewed so."""
    out: dict[str, Tensor] = {}
    for name, source in sources.items():
        tensor = state[name].view(shapes.get(name, state[name].shape))
        parts = tensor.chunk(len(source.names))
        out |= {theirs: part.contiguous() for theirs, part in zip(source.names, parts, strict=True)}
    return out


def save_resume(folder: Path, model: nn.Module, average: Average, step: int) -> None:
    """Write the average in int8, the weights as their 4-bit difference from it, step and random state; two
    files."""
    folder.mkdir(parents=True, exist_ok=True)
    averages: dict[str, Tensor] = {}
    differences: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        stored = _pack(average.state[name].cpu(), quantize_int8)
        averages |= {name + suffix: part for suffix, part in stored.items()}
        difference = tensor.detach().cpu().float() - restore(averages, name).view(tensor.shape)
        differences |= {name + suffix: part for suffix, part in _pack(difference, quantize_int4).items()}
    differences["random"] = torch.get_rng_state()
    if torch.cuda.is_available():
        differences["random.cuda"] = torch.cuda.get_rng_state()
    save_file(averages, folder / "average.safetensors")
    save_file(differences, folder / "difference.safetensors", metadata={"step": json.dumps(step)})


def load_resume(folder: Path, model: nn.Module, average: Average) -> int:
    """Restore what `save_resume` wrote, or begin from a shipped model's folder; returns the step."""
    if (folder / "transformer").is_dir():
        shipped = open_checkpoint(folder).load_transformer("high", "cpu", torch.float32)
        model.load_state_dict(shipped.state_dict())
        average.state = {name: tensor.float().clone() for name, tensor in model.state_dict().items()}
        return 0
    averages = load_file(folder / "average.safetensors")
    differences = load_file(folder / "difference.safetensors")
    device = next(model.parameters()).device
    state = {}
    for name, tensor in model.state_dict().items():
        mean = restore(averages, name).view(tensor.shape)
        average.state[name] = mean.to(device)
        state[name] = mean + restore(differences, name).view(tensor.shape)
    model.load_state_dict(state)
    torch.set_rng_state(differences["random"])
    if torch.cuda.is_available() and "random.cuda" in differences:
        torch.cuda.set_rng_state(differences["random.cuda"])
    return _step(folder)


def _step(folder: Path) -> int:
    from safetensors import safe_open

    with safe_open(folder / "difference.safetensors", "pt") as file:
        return int(json.loads(file.metadata()["step"]))


def _pack(tensor: Tensor, quantize) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    """Matrices quantised over rows of their last dimensions; small tensors and odd widths as they are."""
    rows = tensor.flatten(0, -2) if tensor.ndim > 1 else tensor[None]
    if tensor.numel() < 4096 or rows.shape[1] % GROUP:
        return {"": tensor.contiguous()}
    return quantize(rows)
