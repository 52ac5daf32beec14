"""The ladder of the speed table: which passes each rung adds, and networks that share their weights."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import nn

from rushes.errors import ConfigError
from rushes.passes.base import Part, Pass, settings_of
from rushes.passes.presets import Candidate, plan_preset
from rushes.profiling.optimize import propose

N = TypeVar("N", bound=nn.Module)

LADDER: tuple[tuple[str, str | None, tuple[str, ...]], ...] = (
    ("plain", None, ()),
    ("attention", "exact", ("attention",)),
    ("exact", "exact", ("compile", "vae-fused", "vae-compile")),
    ("fp8-linears", "fast", ("fp8-linears",)),
    ("fast", "fast", ("fp8-attention",)),
    ("turbo", "turbo", ("sparse-attention",)),
)
"""Rung, the preset whose settings its passes have, and the passes that it adds to the rung before."""

VAE_RUNGS = ("vae-fused", "vae-compile", "vae-tiling", "vae-tiny")
"""Each alone: two passes of these replace the same decode step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A plan of the ladder as this machine has it.

    Attributes:
        passes: those that it could make.
        lacks: why there is not more, a line a pass.
    """

    name: str
    passes: tuple[Pass, ...]
    lacks: tuple[str, ...] = ()

    def about(self) -> dict[str, Any]:
        """As plain data."""
        passes = [{"name": one.name, **settings_of(one)} for one in self.passes]
        return {"passes": passes, "lacks": list(self.lacks)}


def rungs(device: torch.device, without: Collection[str] = ()) -> list[Rung]:
    """The ladder on this machine. A pass that is not there leaves its rungs without it.

    Args:
        without: passes to leave out, as one may that breaks.
    """
    found, passes, lacks = [], list[Pass](), list[str]()
    for name, preset, names in LADDER:
        for candidate in _candidates(preset, names):
            one, reason = _proposed(candidate, device, without)
            if one is not None:
                passes.append(one)
            if reason:
                lacks.append(f"{candidate.name}: {reason}")
        found.append(Rung(name=name, passes=tuple(passes), lacks=tuple(lacks)))
    return found


def vae_rungs(device: torch.device, without: Collection[str] = ()) -> list[Rung]:
    """Every pass of the VAE that this machine has, each alone; one that it has not has no passes."""
    found = []
    for name in VAE_RUNGS:
        one, reason = _proposed(Candidate(name=name), device, without)
        passes = () if one is None else (one,)
        found.append(Rung(name=name, passes=passes, lacks=(reason,) if reason else ()))
    return found


def _candidates(preset: str | None, names: Sequence[str]) -> list[Candidate]:
    if preset is None:
        return []
    return [one for one in plan_preset(preset).candidates if one.name in names]


def _proposed(
    candidate: Candidate, device: torch.device, without: Collection[str]
) -> tuple[Pass | None, str]:
    if candidate.name in without:
        return None, "left out, as asked"
    return propose(candidate, device.type)


def sharing(network: N) -> N:
    """A network of its own that shares every weight: passes change modules, and the first one stays plain.

    Its parameters are other objects over the same memory, as a pass may give one another layout in place.
    """
    shared: dict[int, Any] = {
        id(one): nn.Parameter(one.data, one.requires_grad) for one in network.parameters()
    }
    shared |= {id(one): one for one in network.buffers()}
    return copy.deepcopy(network, shared)


def changed(part: Part, network: N, rung: Rung) -> tuple[N, Rung]:
    """A network that shares its weights and went through the rung's passes of this part, and the rung without
    those that refused it."""
    passes, lacks = list(rung.passes), list(rung.lacks)
    while True:
        made: Any = sharing(network)
        refusal = None
        for one in sorted(passes, key=lambda each: each.order):
            if one.part != part:
                continue
            try:
                made = one.apply(made)
            except ConfigError as error:
                refusal = one, str(error)
                break
        if refusal is None:
            return made, Rung(name=rung.name, passes=tuple(passes), lacks=tuple(lacks))
        # What a pass that refuses has changed by then is unknown: begin again without it.
        passes.remove(refusal[0])
        lacks.append(refusal[1])


def num_bytes(network: nn.Module) -> int:
    """Of everything that it keeps on the device; weights that are views count as what they show."""
    tensors = chain(network.parameters(), network.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
