"""Loaded models by the passes of their plan: two where they fit, else one."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import torch

from rushes.passes.plan import Plan
from rushes.pipelines.model import Model
from rushes.types import GenerateRequest

HEADROOM = 1.2
"""Of what a second model and the clips' work take, what must be free for them."""

OpenModel = Callable[[Plan], Model]


class HeldModels:
    """Opens models by plan and keeps the latest."""

    def __init__(self, open_model: OpenModel) -> None:
        self._open = open_model
        self._held: dict[str, Model] = {}
        self._bytes: dict[str, int] = {}
        self._most_work = 0  # bytes that a clip took beside the weights

    def get(self, plan: Plan, requests: Sequence[GenerateRequest] = ()) -> Model:
        """The model with the plan's passes, made anew where it is not held, and ready for the requests."""
        if plan.identity not in self._held:
            while self._held and not self._has_room():
                self._free(next(iter(self._held)))
            before = _allocated()
            model = self._open(plan)
            model.warm_up(requests)
            self._held[plan.identity] = model
            self._bytes[plan.identity] = _allocated() - before
        self._held[plan.identity] = self._held.pop(plan.identity)  # the latest is freed last
        return self._held[plan.identity]

    def peak_gb(self, plan: Plan) -> float:
        """Most device memory held since the last call, other models' weights aside; 0 on a CPU."""
        if not torch.cuda.is_available():
            return 0.0
        others = sum(self._bytes[name] for name in self._held if name != plan.identity)
        peak = torch.cuda.max_memory_allocated() - others
        self._most_work = max(self._most_work, peak - self._bytes.get(plan.identity, 0))
        torch.cuda.reset_peak_memory_stats()
        return peak / 1e9

    def holds(self, plan: Plan) -> bool:
        """Whether it is loaded."""
        return plan.identity in self._held

    def drop(self, plan: Plan) -> None:
        """Free it where it is held."""
        if plan.identity in self._held:
            self._free(plan.identity)

    def _free(self, identity: str) -> None:
        del self._held[identity]
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _has_room(self) -> bool:
        if len(self._held) >= 2:
            return False
        device = next(iter(self._held.values())).device
        if device.type != "cuda":
            return True
        weights = torch.cuda.memory_allocated(device)
        cached = torch.cuda.memory_reserved(device) - weights  # torch's, and free for tensors
        return torch.cuda.mem_get_info(device)[0] + cached >= HEADROOM * (weights + self._most_work)


def _allocated() -> int:
    """Bytes of tensors on the GPU, 0 without one."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
