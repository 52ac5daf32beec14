"""What the judge's figures mean: shares with intervals, chance levels and bars, as a table and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rushes.profiling.quality.judged import ATTRIBUTES, JOINT, wilson

COLUMNS = (*ATTRIBUTES, JOINT)

GENERATED_BARS = {
    "subject": 0.92,
    "background": 0.98,
    "motion": 0.95,
    "colour": 0.90,
    "count": 0.92,
    JOINT: 0.75,
}
TOLERANCE = 0.05  # of 8 steps and of the causal mode, against 20 steps
BARS: Mapping[str, Mapping[str, float]] = {
    "quality": GENERATED_BARS,
    "synonyms": {"subject": 0.75},
    "rendered": {JOINT: 0.95},
    "reconstructed": {JOINT: 0.90},
}
RELATIVE_ROWS = ("fast", "causal")
PSNR_BAR = 30.0
LOAD_BAR = 1.3


def binomial_interval(num: int, rate: float, confidence: float = 0.99) -> tuple[int, int]:
    """The fewest and the most hits that `num` draws of this rate give; each tail beyond them is at most half
    of what `confidence` leaves.

    Example:
        >>> binomial_interval(24, 0.5)
        (6, 18)
    """
    tail = (1 - confidence) / 2
    chances = [math.comb(num, k) * rate**k * (1 - rate) ** (num - k) for k in range(num + 1)]
    return _cut(chances, tail), num - _cut(chances[::-1], tail)


def _cut(chances: Sequence[float], tail: float) -> int:
    """How many of the first chances sum to no more than `tail`."""
    total = 0.0
    for count, chance in enumerate(chances):
        total += chance
        if total > tail:
            return count
    return len(chances)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A share of clips read as asked; `bar` is what it should reach, `chance` what guessing gives."""

    right: int
    num: int
    chance: float
    bar: float | None = None

    @property
    def share(self) -> float:
        """In [0, 1]."""
        return self.right / self.num

    @property
    def verdict(self) -> str:
        """met, short, or nothing where there is no bar."""
        if self.bar is None:
            return ""
        return "met" if self.share >= self.bar else "short"

    def to_json(self) -> dict[str, Any]:
        """Everything, the interval included."""
        low, high = wilson(self.right, self.num)
        derived = {"share": self.share, "low": low, "high": high, "verdict": self.verdict}
        return {"right": self.right, "num": self.num, "chance": self.chance, "bar": self.bar} | derived

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> Figure:
        """What `to_json` wrote."""
        return Figure(right=raw["right"], num=raw["num"], chance=raw["chance"], bar=raw["bar"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: figures by column, and how long their clips took."""

    name: str
    title: str
    figures: Mapping[str, Figure]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        figures = {name: figure.to_json() for name, figure in self.figures.items()}
        return {"name": self.name, "title": self.title, "seconds": round(self.seconds, 1), "figures": figures}

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> Row:
        """What `to_json` wrote."""
        figures = {name: Figure.from_json(figure) for name, figure in raw["figures"].items()}
        return Row(name=raw["name"], title=raw["title"], figures=figures, seconds=raw["seconds"])


@dataclass(slots=True, kw_only=True)
class Report:
    """A whole table in the making.

    Attributes:
        about: commit, device, versions, settings.
        rows: in the order they were made.
        numbers: figures that are no shares (PSNR, expert loads).
        skipped: row name to reason.
    """

    about: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def row(self, name: str) -> Row | None:
        """The row of that name, None where it is missing."""
        return next((row for row in self.rows if row.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        rows = [row.to_json() for row in self.rows]
        return {"about": self.about, "rows": rows, "numbers": self.numbers, "skipped": self.skipped}

    @staticmethod
    def from_json(raw: Mapping[str, Any]) -> Report:
        """What `to_json` wrote."""
        rows = [Row.from_json(row) for row in raw["rows"]]
        return Report(about=raw["about"], rows=rows, numbers=raw["numbers"], skipped=raw["skipped"])


def count_right(
    read: Mapping[str, Tensor], asked: Mapping[str, Tensor], classes: Mapping[str, int]
) -> dict[str, Figure]:
    """Figures without bars of class indices [N] that were read and asked for, by attribute."""
    hits = {name: read[name] == asked[name] for name in ATTRIBUTES}
    hits[JOINT] = torch.stack(list(hits.values())).all(0)
    chances = {name: 1 / classes[name] for name in ATTRIBUTES}
    chances[JOINT] = math.prod(chances.values())
    return {
        name: Figure(right=int(hits[name].sum()), num=len(hits[name]), chance=chances[name])
        for name in COLUMNS
    }


def with_bars(name: str, figures: Mapping[str, Figure], quality: Row | None) -> dict[str, Figure]:
    """The figures with their row's bars; for `RELATIVE_ROWS` these lie `TOLERANCE` below the quality row."""
    bars = dict(BARS.get(name, {}))
    if name in RELATIVE_ROWS and quality is not None:
        bars = {column: max(0.0, quality.figures[column].share - TOLERANCE) for column in COLUMNS}
    return {
        column: Figure(right=each.right, num=each.num, chance=each.chance, bar=bars.get(column))
        for column, each in figures.items()
    }


def table(report: Report) -> str:
    """The report for a reader: shares in per cent with 95 % intervals, bars beneath."""
    lines = [f"{name}: {value}" for name, value in report.about.items()]
    lines += ["", f"{'% right (95 % interval)':<34}" + "".join(f"{name:>19}" for name in COLUMNS)]
    for row in report.rows:
        lines += _row_lines(row)
    lines += [f"{'chance':<34}" + "".join(f"{cell:>19}" for cell in _chances(report.rows))]
    lines += [f"{name}: {value}" for name, value in report.numbers.items()]
    lines += [f"{name}: not made, {reason}" for name, reason in report.skipped.items()]
    return "\n".join(lines)


def _row_lines(row: Row) -> Iterable[str]:
    figures = [row.figures[name] for name in COLUMNS]
    yield f"{row.title[:33]:<34}" + "".join(f"{_cell(figure):>19}" for figure in figures)
    if any(figure.bar is not None for figure in figures):
        yield f"{f'    n = {figures[0].num}, {row.seconds:.0f} s; bar':<34}" + "".join(
            f"{_bar(figure):>19}" for figure in figures
        )


def _cell(figure: Figure) -> str:
    low, high = wilson(figure.right, figure.num)
    return f"{100 * figure.share:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def _bar(figure: Figure) -> str:
    return "" if figure.bar is None else f">= {100 * figure.bar:.1f} {figure.verdict}"


def _chances(rows: Sequence[Row]) -> list[str]:
    return [f"{100 * rows[0].figures[name].chance:.2g}" for name in COLUMNS] if rows else []


def short_line(title: str, figures: Mapping[str, Figure]) -> str:
    """One line: `title subject 95.8 background 100.0 ... all 79.2`."""
    return f"{title} " + " ".join(f"{name} {100 * figures[name].share:.1f}" for name in COLUMNS)
