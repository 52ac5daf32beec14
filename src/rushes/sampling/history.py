"""What a multistep solver remembers between two steps, in a form that can be stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A solver's memory; a one-step solver keeps it empty.

    Attributes:
        clean: the model's predictions of the clean latents at earlier steps, newest first, float32.
        last_latents: the latents from which the last step started, after correction, float32.
        order: order of the last step, 0 before the first.
    """

    clean: tuple[Tensor, ...] = ()
    last_latents: Tensor | None = None
    order: int = 0

    def to_tensors(self) -> dict[str, Tensor]:
        """The history as named contiguous tensors that safetensors can store."""
        tensors = {f"clean.{i}": tensor.contiguous() for i, tensor in enumerate(self.clean)}
        if self.last_latents is not None:
            tensors["last_latents"] = self.last_latents.contiguous()
        return {**tensors, "order": torch.tensor(self.order)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> History:
        """The inverse of `to_tensors`. `tensors["order"]` should be on the CPU: its value is read."""
        num_clean = sum(name.startswith("clean.") for name in tensors)
        return cls(
            clean=tuple(tensors[f"clean.{i}"] for i in range(num_clean)),
            last_latents=tensors.get("last_latents"),
            order=int(tensors["order"]),
        )
