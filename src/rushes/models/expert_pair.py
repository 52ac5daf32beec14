"""Two noise experts on one device: both resident when they fit, else one set of memory that is refilled.

Rule: both stay when the second expert and the parts not loaded yet fit into the free memory and half an
expert's size stays free for activations, so the order of loading decides nothing.
Otherwise the two, which have the same shape, share the device memory of one, and both lie in pinned host
memory. While the last forward of the high-noise expert runs, every block that has finished is overwritten
with the other's weights on a second stream; the low-noise expert's first forward waits on the device, not on
the host, for the last of these copies.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rushes.models.checkpoint import Expert
from rushes.models.checkpoint_report import ACTIVATIONS
from rushes.models.device_memory import free_device_bytes
from rushes.models.wan import Wan
from rushes.sampling.guidance import is_high_noise
from rushes.trace import event, span


class ExpertPair(Protocol):
    """The network or networks of a model, chosen by timestep."""

    @property
    def num_resident(self) -> int:
        """Networks whose weights take device memory."""
        ...

    def select(self, timestep: float) -> Wan:
        """The expert for a timestep in [0, 1000], ready to run. Text contexts belong to one expert: compute
        them with the expert that this returns."""
        ...

    def prefetch_low(self) -> None:
        """Say that the next forward is the last one of the high-noise expert; does nothing when both are
        resident."""
        ...


def num_bytes(model: nn.Module) -> int:
    """Bytes of a model's parameters."""
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def both_fit(
    high: nn.Module, device: torch.device, *, reserved: int = 0, free_bytes: int | None = None
) -> bool:
    """Whether a second expert as large as `high`, already on `device`, fits beside it (module's rule).

    Args:
        reserved: bytes of parts that are still to come to the device.
        free_bytes: memory to fit into; None asks the device, and lets both stay where it is no GPU.
    """
    if free_bytes is None:
        if device.type != "cuda":
            return True
        free_bytes = free_device_bytes(device)
    return free_bytes - reserved >= (1 + ACTIVATIONS) * num_bytes(high)


class OneExpert:
    """A model with one network."""

    num_resident = 1

    def __init__(self, model: Wan) -> None:
        self._model = model

    def select(self, timestep: float) -> Wan:
        """The network."""
        return self._model

    def prefetch_low(self) -> None:
        """Nothing to do."""


class ResidentExperts:
    """Both experts on the device."""

    def __init__(self, high: Wan, low: Wan, *, boundary: float) -> None:
        self._experts: dict[Expert, Wan] = {"high": high, "low": low}
        self._boundary = boundary
        self.num_resident = 1 if high is low else 2

    def select(self, timestep: float) -> Wan:
        """The expert for a timestep in [0, 1000]."""
        return self._experts["high" if is_high_noise(timestep, self._boundary) else "low"]

    def prefetch_low(self) -> None:
        """Nothing to do."""


class SwappedExperts:
    """Device memory for one expert, both in host memory (pinned when the device is a GPU).

    The two are one module whose weights change, so it serves one generation at a time.

    Args:
        high: on the device; becomes the module that `select` returns.
        low: on the CPU, of the same shape; its parameters move to pinned memory.
    """

    num_resident = 1

    def __init__(self, high: Wan, low: Wan, *, boundary: float) -> None:
        self._model = high
        self._boundary = boundary
        device = next(high.parameters()).device
        is_cuda = device.type == "cuda"
        self._host: dict[Expert, dict[str, Tensor]] = {
            "high": _host_weights(high, pin=is_cuda),
            "low": _host_weights(low, pin=is_cuda),
        }
        self._device_weights = dict(high.named_parameters())
        self._groups = _groups(list(self._device_weights))
        self._holds: dict[str, Expert | None] = dict.fromkeys(self._groups, "high")
        self._side = _side_stream(device, list(self._device_weights.values())) if is_cuda else None
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def select(self, timestep: float) -> Wan:
        """The module, holding the expert for a timestep in [0, 1000] when work queued from now on runs.

        Copies what `prefetch_low` has not copied yet; the host does not wait.
        """
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        expert: Expert = "high" if is_high_noise(timestep, self._boundary) else "low"
        with span("expert_weights", expert=expert) as swap:
            swap.note(groups=sum(self._refill(group, expert) for group in self._groups))
            if self._side is not None:
                torch.cuda.current_stream(self._side.device).wait_stream(self._side)
        return self._model

    def prefetch_low(self) -> None:
        """Overwrite each block with the low-noise expert's as soon as the coming forward has left it.

        Call it directly before the last forward of the high-noise expert (the second one of a step that runs
        its two guidance branches apart), and `select` after it. Blocks that torch.compile already compiled
        do not call back; `select` copies them.
        """
        event("expert_prefetch", expert="low")
        for name, block in self._model.blocks.named_children():
            self._hooks.append(block.register_forward_hook(self._refill_after(f"blocks.{name}")))

    def _refill_after(self, group: str) -> Any:
        def hook(*_: Any) -> None:
            self._refill(group, "low")

        return hook

    @torch.no_grad()
    def _refill(self, group: str, expert: Expert) -> bool:
        """Queue the copies of one group behind everything that the current stream has been given so far;
        False where it holds this expert's weights."""
        if self._holds[group] == expert:
            return False
        self._holds[group] = None  # an interrupted copy leaves a mixture, which no expert may pass for
        if self._side is not None:
            self._side.wait_stream(torch.cuda.current_stream(self._side.device))
        with torch.cuda.stream(self._side) if self._side is not None else nullcontext():
            for name in self._groups[group]:
                self._device_weights[name].copy_(self._host[expert][name], non_blocking=True)
        self._holds[group] = expert
        return True


def _side_stream(device: torch.device, written: list[nn.Parameter]) -> torch.cuda.Stream:
    """A stream that may still write to these weights when they are freed (the allocator is told)."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch leaves its constructor untyped
    for weight in written:
        weight.data.record_stream(stream)
    return stream


def _groups(names: list[str]) -> dict[str, list[str]]:
    """Parameter names by block; those outside the blocks form the group "rest"."""
    groups: dict[str, list[str]] = {}
    for name in names:
        group = ".".join(name.split(".")[:2]) if name.startswith("blocks.") else "rest"
        groups.setdefault(group, []).append(name)
    return groups


def _host_weights(model: nn.Module, *, pin: bool) -> dict[str, Tensor]:
    """Copies of the weights in host memory; those of a model on the CPU are moved, one at a time."""
    weights = {}
    for name, parameter in model.named_parameters():
        is_cpu = parameter.device.type == "cpu"
        host = parameter.detach().clone() if is_cpu and not pin else parameter.detach().to("cpu")
        weights[name] = host.pin_memory() if pin else host
        if pin and is_cpu:
            parameter.data = weights[name]
    return weights
