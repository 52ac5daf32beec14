"""How large a checkpoint is and what memory it needs: the data of `rushes inspect`. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from rushes.models.checkpoint import Checkpoint
from rushes.models.checkpoint_settings import Resolved

BYTES_PER_VALUE = {"bfloat16": 2, "float16": 2, "float32": 4}

ACTIVATIONS = 0.5
"""Device memory kept for activations, as a share of one expert's weights (A14B in bfloat16: 14.3 GB)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSize:
    """Size of a part: bytes on disk and values; a tokenizer has no values."""

    name: str
    num_bytes: int
    num_parameters: int


Residency = Literal["resident", "streamed", "swapped", "swapped and streamed"]
"""What a device holds: all parts, or all but the text encoder (`rushes.models.streamed`), or one noise expert
at a time (`rushes.models.expert_pair`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """Device memory in bytes at one dtype, activations included.

    Attributes:
        resident: with every part on the device.
        swapped: with one noise expert on the device at a time and the other in pinned host memory; equal to
            `resident` for a one-expert model.
        text: of the text encoder, counted in both; streamed, it takes as much of the host instead.
    """

    dtype: str
    resident: int
    swapped: int
    text: int = 0

    @property
    def pinned(self) -> int:
        """Host memory in bytes that holds both noise experts while they are swapped; 0 for one expert."""
        return 2 * (self.resident - self.swapped)

    def needed(self, residency: Residency) -> tuple[int, int]:
        """Bytes of the device and, beside them, of the host."""
        return {
            "resident": (self.resident, 0),
            "streamed": (self.resident - self.text, self.text),
            "swapped": (self.swapped, self.pinned),
            "swapped and streamed": (self.swapped - self.text, self.pinned + self.text),
        }[residency]

    def fits(self, free_bytes: int, host_bytes: int = 0) -> Residency | None:
        """What a device with that much free memory can hold, the fastest first; None for nothing.

        A streamed text encoder costs a fraction of a second a new prompt, swapped experts tens of gigabytes
        of copies a clip.

        Args:
            host_bytes: memory beside the device's that can hold parts; 0 where the device uses the host's.
        """
        for residency in get_args(Residency):
            device_bytes, beside_bytes = self.needed(residency)
            if device_bytes <= free_bytes and beside_bytes <= host_bytes:
                return cast(Residency, residency)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointReport:
    """Everything that `rushes inspect` shows, ready to be printed or written as JSON."""

    folder: str
    layout: str
    pipeline: str
    settings: Mapping[str, Resolved[Any]]
    parts: tuple[PartSize, ...]
    memory: tuple[MemoryNeed, ...]
    notes: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes on disk of all parts."""
        return sum(part.num_bytes for part in self.parts)


def describe(checkpoint: Checkpoint) -> CheckpointReport:
    """Sizes and memory from the files' headers. Raises `CheckpointError` for a damaged weight file."""
    sizes = tuple(
        PartSize(
            name=part.name,
            num_bytes=part.num_bytes,
            num_parameters=0 if part.name == "tokenizer" else part.num_parameters,
        )
        for part in checkpoint.parts.values()
    )
    return CheckpointReport(
        folder=str(checkpoint.folder),
        layout=checkpoint.layout,
        pipeline=checkpoint.pipeline,
        settings={
            "boundary": checkpoint.boundary,
            "flow_shift": checkpoint.flow_shift,
            "solver": checkpoint.solver,
        },
        parts=sizes,
        memory=tuple(memory_need(sizes, dtype) for dtype in ("bfloat16", "float32")),
        notes=checkpoint.notes,
    )


def memory_need(parts: tuple[PartSize, ...], dtype: str) -> MemoryNeed:
    """Memory of the weights at `dtype` plus `ACTIVATIONS`; float32 islands (below 1 % of the values) are not
    counted apart."""
    values = {part.name: part.num_parameters for part in parts}
    expert = max(values.get("transformer", 0), values.get("transformer_low", 0))
    resident = sum(values.values()) + ACTIVATIONS * expert
    swapped = resident - min(values.get("transformer", 0), values.get("transformer_low", 0))
    width = BYTES_PER_VALUE[dtype]
    text = values.get("text_encoder", 0)
    return MemoryNeed(
        dtype=dtype, resident=int(resident * width), swapped=int(swapped * width), text=text * width
    )
