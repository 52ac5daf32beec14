"""What may run side by side on one device: a slot is a thread with a stream, and the stages that it takes.

Where two slots ask for the same multiprocessors the device serves the more urgent stream first. Steps come
last: a finished clip is not to be held up by those of the clips behind it, nor is a prompt.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch

GPU_SLOTS: tuple[tuple[str, ...], ...] = (("denoise",), ("vae_decode",), ("text_encode",))
"""On a GPU stages of different jobs overlap: a decode is bound by memory where a step is bound by matmuls."""

CPU_SLOTS: tuple[tuple[str, ...], ...] = (("text_encode", "denoise", "vae_decode"),)
"""On a CPU every stage fills all cores by itself."""


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
    def unit(self, *, runs_ahead: bool = False) -> Iterator[None]:
        """Everything queued inside has been done when the block ends.

        Args:
            runs_ahead: not so of a block that ends well: it has waited for what matters.

        The host waits here for this stream alone, once a unit: what a job frees after its unit may then be
        given to another stream at once, and the time of a unit is its own, as long as one engine has the
        device: those of a process share their streams. A block that runs ahead holds what its rest reads in
        tensors of its own stream, or in latents of a job whose frames nobody wants any more once these are
        freed. What was queued outside of units (on the default stream: weights being cast, a first state) is
        done before anything inside.
        """
        if self.device.type != "cuda":
            yield
            return
        stream = _stream(self.device, self.name, self.priority)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            waits = True
            try:
                yield
                waits = not runs_ahead
            finally:
                if waits:
                    stream.synchronize()

    @property
    def priority(self) -> int:
        """Of its stream, as CUDA counts: the lower, the sooner."""
        return 0 if "denoise" in self.stages else -1


_making = threading.Lock()


def _stream(device: torch.device, slot: str, priority: int) -> torch.cuda.Stream:
    index = torch.cuda.current_device() if device.index is None else device.index
    with _making:
        return _stream_of(index, slot, priority)


@cache
def _stream_of(index: int, slot: str, priority: int) -> torch.cuda.Stream:
    """One for all slots of a name that the process ever has: what the allocator keeps belongs to a stream."""
    return torch.cuda.Stream(torch.device("cuda", index), priority=priority)  # type: ignore[no-untyped-call]


def slots_of(device: torch.device) -> tuple[Slot, ...]:
    """The slots that suit a device."""
    groups = GPU_SLOTS if device.type == "cuda" else CPU_SLOTS
    return tuple(Slot(stages=stages, device=device) for stages in groups)
