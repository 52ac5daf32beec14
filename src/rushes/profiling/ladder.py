"""What `rushes optimize` found: passes, each measured on top of those kept before it. No torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

Status = Literal["plain", "kept", "dropped", "refused"]

HEADER = ("pass", "clip", "saves", "in all", "PSNR", "latents L1", "forwards", "memory", "first clip", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Of clips made with one plan, against the same clips of the plain model.

    Attributes:
        seconds: of a warm clip, text encoding aside; median.
        stages_s: the same by stage.
        before_s: of the plan before, in turn with this one; `seconds` itself for the plain model.
        ratios: `before_s` over `seconds`, pair by pair of clips.
        first_s: from loading to the end of a short first clip: what compiles, compiles there.
        psnr_db: infinite for equal clips.
        latent_l1: relative L1 of the final latents.
        forwards: conditional and unconditional ones of a clip, mean.
        peak_gb: most device memory held; 0 on a CPU, where it is not known.
    """

    seconds: float
    stages_s: Mapping[str, float]
    before_s: float
    ratios: tuple[float, ...]
    first_s: float
    psnr_db: float
    latent_l1: float
    forwards: tuple[float, float]
    peak_gb: float

    @property
    def saves(self) -> float:
        """How many times faster than the plan before: the median of the pairs."""
        return statistics.median(self.ratios)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One pass, or what steps reuse.

    Attributes:
        settings: fields of the pass, or of the request.
        reason: why it was dropped or refused; empty where it was kept.
        figures: None where it never ran.
    """

    name: str
    status: Status
    settings: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    figures: Figures | None = None

    @property
    def outcome(self) -> str:
        """What became of it, in words."""
        if self.status == "plain" and self.figures is not None:
            return f"{self.figures.seconds:.3g} s a clip"
        if self.status == "kept" and self.figures is not None:
            return f"kept, saves {self.figures.saves:.2f}x"
        return f"{self.status}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """Everything that was tried for a model on a device.

    Attributes:
        about: commit, versions, machine.
        request: the clip that was made, as plain data.
        budget_db: least PSNR that a rung was kept with.
        floor_db, floor_l1: the plain model against itself with another attention kernel, which is no change.
        noise: by what share the plain model's clips, each made twice, differed in time at most.
        rungs: the first is the plain model.
    """

    about: Mapping[str, Any]
    model: str
    preset: str
    request: Mapping[str, Any]
    num_clips: int
    budget_db: float
    floor_db: float
    floor_l1: float
    noise: float
    rungs: tuple[Rung, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain data; an infinite PSNR is null."""
        content: dict[str, Any] = _finite({each.name: getattr(self, each.name) for each in fields(self)})
        return content

    def rows(self) -> list[tuple[str, ...]]:
        """Text of a table under `HEADER`; "in all" is against the plain model, over the rungs kept."""
        rows, total = [], 1.0
        for rung in self.rungs:
            figures = rung.figures
            name = _named(rung)
            if figures is None:
                rows.append((name, *[""] * 8, f"{rung.status}: {rung.reason}"))
                continue
            total = total * figures.saves if rung.status == "kept" else total
            rows.append((name, *_cells(figures, rung.status, total), _words(rung)))
        return rows

    def remarks(self) -> list[str]:
        """Lines under the table."""
        floor = f"Noise floor, the plain model with another attention kernel: PSNR {_db(self.floor_db)},"
        return [
            f"{floor} latents L1 {self.floor_l1:.2g}.",
            f"Noise of the time: the plain clips, made twice, differ by up to {100 * self.noise:.1f} %.",
            f"Kept are rungs of at least {_db(self.budget_db)} that save more than that, and 2 % at least.",
        ]


def _cells(figures: Figures, status: Status, total: float) -> tuple[str, ...]:
    saves = "" if status == "plain" else _saves(figures)
    return (
        f"{figures.seconds:.3g} s",
        saves,
        f"{total:.2f}x" if status == "kept" else "",
        "reference" if status == "plain" else _db(figures.psnr_db),
        "" if status == "plain" else f"{figures.latent_l1:.2g}",
        "{:g} + {:g}".format(*figures.forwards),
        f"{figures.peak_gb:.1f} GB" if figures.peak_gb else "unknown",
        f"{figures.first_s:.1f} s",
    )


def _saves(figures: Figures) -> str:
    if len(figures.ratios) == 1:
        return f"{figures.saves:.2f}x"
    return f"{figures.saves:.2f}x ({min(figures.ratios):.2f} to {max(figures.ratios):.2f})"


def _named(rung: Rung) -> str:
    settings = ", ".join(f"{name}={value}" for name, value in rung.settings.items())
    return f"{rung.name} ({settings})" if settings else rung.name


def _words(rung: Rung) -> str:
    if rung.status == "plain":
        return ""
    return f"{rung.status}: {rung.reason}" if rung.reason else rung.status


def _db(value: float) -> str:
    return "equal" if math.isinf(value) else f"{value:.1f} dB"


def _finite(value: Any) -> Any:
    if isinstance(value, Rung | Figures):
        value = {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
