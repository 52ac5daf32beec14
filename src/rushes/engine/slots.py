"""What may run side by side on one device: a slot is a thread with streams, and the stages that it takes.

Where two slots ask for the same multiprocessors the device serves the more urgent stream first. Short units
come first, as they take little and a job takes many of them; then decoding, so that a finished clip is not
held up by the steps of those behind it; then long steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch

GPU_SLOTS: tuple[tuple[str, ...], ...] = (("denoise",), ("vae_decode",), ("text_encode",))
"""On a GPU stages of different jobs overlap: a decode is bound by memory where a step is bound by matmuls."""

CPU_SLOTS: tuple[tuple[str, ...], ...] = (("text_encode", "denoise", "vae_decode"),)
"""On a CPU every stage fills all cores by itself."""

SHORT_S = 0.2
"""A unit predicted to take no longer is short."""

SHORT_PRIORITY, DECODE_PRIORITY, LONG_PRIORITY = -2, -1, 0
"""Of streams, as CUDA counts them."""


@dataclass(slots=True, kw_only=True, eq=False)
class Slot:
    """Runs units one after another, each to its end, beside those of other slots."""

    stages: tuple[str, ...]
    device: torch.device

    @property
    def name(self) -> str:
        """Of its thread."""
        return "+".join(self.stages)

    @contextmanager
    def unit(self, predicted_s: float, *, runs_ahead: bool = False) -> Iterator[None]:
        """Everything queued inside has been done when the block ends.

        Args:
            predicted_s: what the unit is expected to take.
            runs_ahead: not so of a block that ends well: it has waited for what matters.

        The host waits here for this stream alone, once a unit: what a job frees after its unit may then be
        given to another stream at once, and the time of a unit is its own. What was queued outside of units
        (on the default stream: weights being cast, a first state) is done before anything inside.
        """
        if self.device.type != "cuda":
            yield
            return
        stream = _stream(self.device, self.name, self.priority(predicted_s))
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            waits = True
            try:
                yield
                waits = not runs_ahead
            finally:
                if waits:
                    stream.synchronize()

    def priority(self, predicted_s: float) -> int:
        """Of a unit's stream: the lower, the sooner."""
        if "vae_decode" in self.stages:  # one stream alone, as a unit may leave work for the next one in it
            return DECODE_PRIORITY
        return SHORT_PRIORITY if predicted_s <= SHORT_S else LONG_PRIORITY


@cache
def _stream(device: torch.device, slot: str, priority: int) -> torch.cuda.Stream:
    """One for all slots of a name that the process ever has: what the allocator keeps belongs to a stream."""
    return torch.cuda.Stream(device, priority=priority)  # type: ignore[no-untyped-call]


def slots_of(device: torch.device) -> tuple[Slot, ...]:
    """The slots that suit a device."""
    groups = GPU_SLOTS if device.type == "cuda" else CPU_SLOTS
    return tuple(Slot(stages=stages, device=device) for stages in groups)
