"""What the speed table should reach on one H200, as data, and whether stored figures do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal["met", "short", "not measured"]
Parts = Mapping[str, Mapping[str, Any]]
"""Figures by row, then by contender: `parts` of a report of `benchmarks.speed_gpu`, merged."""

EXACT_VAE = ("vae-fused", "vae-compile", "plain")
"""The VAE's decode steps that change nothing beyond rounding; the fastest counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One figure and its bar.

    Attributes:
        row: of `benchmarks.speed_gpu`.
        rungs: contenders that may reach it; the lowest counts.
        bar: at most this, in seconds unless `key` says otherwise.
    """

    title: str
    row: str
    rungs: tuple[str, ...]
    bar: float
    key: str = "seconds"

    def value(self, parts: Parts) -> float | None:
        """The lowest figure of its rungs, None where none was measured."""
        figures = parts.get(self.row, {})
        found = [figures[rung].get(self.key) for rung in self.rungs if isinstance(figures.get(rung), Mapping)]
        values = [value for value in found if isinstance(value, int | float)]
        return min(values, default=None)

    def verdict(self, parts: Parts) -> Verdict:
        """Whether it is met."""
        value = self.value(parts)
        if value is None:
            return "not measured"
        return "met" if value <= self.bar else "short"


GOALS = (
    Goal(title="A14B 480p81, 40 steps, exact", row="a14b-480p-40", rungs=("exact",), bar=202.0),
    Goal(title="A14B 480p81, 40 steps, fast", row="a14b-480p-40", rungs=("fast",), bar=75.0),
    Goal(title="A14B 480p81, 4 steps E2E, exact", row="a14b-480p-4", rungs=("exact",), bar=11.3),
    Goal(title="A14B 480p81, 4 steps E2E, fast", row="a14b-480p-4", rungs=("fast",), bar=8.8),
    Goal(title="A14B 480p81, 4 steps E2E, sparse", row="a14b-480p-4", rungs=("turbo",), bar=6.5),
    Goal(title="A14B 720p81, 4 steps E2E, exact", row="a14b-720p-4", rungs=("exact",), bar=42.0),
    Goal(title="A14B 720p81, 4 steps E2E, fast", row="a14b-720p-4", rungs=("fast",), bar=35.0),
    Goal(title="A14B 720p81, 4 steps E2E, sparse", row="a14b-720p-4", rungs=("turbo",), bar=21.0),
    Goal(title="TI2V-5B 704p121, 3 steps E2E, exact", row="5b-704p-3", rungs=("exact",), bar=5.9),
    Goal(title="TI2V-5B 704p121, 3 steps E2E, fast", row="5b-704p-3", rungs=("fast",), bar=5.2),
    Goal(title="VAE 2.1 decode 480p81", row="vae21-480p", rungs=EXACT_VAE, bar=0.95),
    Goal(title="VAE 2.1 decode 480p81, own convolution", row="vae21-480p", rungs=("vae-fused",), bar=0.75),
    Goal(title="VAE 2.2 decode 704p121", row="vae22-704p", rungs=EXACT_VAE, bar=3.3),
    Goal(
        title="first frame at the client after the last step",
        row="first-frame-480p",
        rungs=("exact",),
        bar=0.08,
    ),
    Goal(title="cold start to ready, A14B", row="cold-start", rungs=("exact",), bar=60.0),
    Goal(title="compile, nothing cached", row="compile", rungs=("exact",), bar=30.0),
    Goal(
        title="error against float32 over diffusers' bf16, exact",
        row="errors",
        rungs=("exact",),
        bar=1.1,
        key="over diffusers",
    ),
)
