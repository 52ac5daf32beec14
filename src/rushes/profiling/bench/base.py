"""Who is measured: something that makes the clip of a request and tells how it goes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rushes.types import Event, GenerateRequest, Json

if TYPE_CHECKING:
    import torch

PARTS = ("cold", "alone", "pairs", "load", "quality")
"""Of a bench, in the order in which they are measured."""

NUM_CLIPS = 3
"""Timed alone, and rounds of the pairs, unless more are asked for."""

NUM_REQUESTS = 10
"""Of a load, likewise."""

NUM_JUDGED = 2
"""Clips of each setting whose quality is measured, likewise."""

UTILIZATION = 0.7
"""Of what one clip at a time gives: the rate of a load for which none was asked."""

OnLatents = Callable[["torch.Tensor"], None]
"""Called after each step with the latents [1, C, T, H, W] of the whole clip, which must not be written to; in
the causal mode once, at the end."""


class Contender(Protocol):
    """One engine with one model, ready to run; `name` is what reports call it."""

    name: str

    @property
    def settings(self) -> Mapping[str, Json]:
        """What it was opened with."""

    def events(
        self, request: GenerateRequest, *, preview_every: int = 0, on_latents: OnLatents | None = None
    ) -> Iterator[Event]:
        """Make the clip: previews where it has them, frames as it has them, `Done` with its timings.

        Raises:
            InvalidRequest: it cannot make this clip; the message names what it lacks.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What to open, and where.

    Attributes:
        model: "toy" or a checkpoint folder.
        device, dtype: as `rushes.load` takes them, resolved.
        plan: the file of our plan, None for the plain model; peers have no use for it.
    """

    model: str
    device: str
    dtype: str
    plan: str | None = None

    @property
    def folder(self) -> Path:
        """The checkpoint folder."""
        from rushes.config import TOY_FOLDER

        return TOY_FOLDER if self.model == "toy" else Path(self.model)
