"""A profile as one HTML page that opens anywhere, offline: data, script and style in it. No torch here."""

from __future__ import annotations

import html
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rushes.profiling.compare import compare_operators, compare_rows, compare_totals
from rushes.profiling.output import write_text
from rushes.profiling.report import Flame, Profile, Run

MAX_BYTES = 2 * 10**6
_FOLDER = Path(__file__).parent / "page"
_SCRIPTS = ("base.js", "overview.js", "timeline.js", "plots.js", "main.js")

_ROOMS = ((1500, 60, 0.0), (400, 40, 1e-3), (100, 20, 5e-3), (0, 10, 2e-2))
"""Bars and raw operators that are kept, and the share of the whole from which on a node of the flame graph
is, until the page is small enough."""


def save_page(profile: Profile, path: Path) -> None:
    """Write the page. Raises `OutputError`."""
    write_text(path, page(profile))


def page(profile: Profile) -> str:
    """The page; what would make it larger than `MAX_BYTES` is left out, the smallest things first."""
    text = ""
    for num_bars, num_raw, least_share in _ROOMS:
        runs = [_trimmed(run, num_bars, num_raw, least_share) for run in profile.runs]
        # Only the first run is drawn; the others are compared with it.
        others = [replace(run, bars=(), flame=None, raw=(), findings=()) for run in runs[1:]]
        text = _rendered(replace(profile, runs=(runs[0], *others)))
        if len(text.encode()) <= MAX_BYTES:
            break
    return text


def _trimmed(run: Run, num_bars: int, num_raw: int, least_share: float) -> Run:
    longest = sorted(run.bars, key=lambda bar: -bar.seconds)[:num_bars]
    return replace(
        run,
        rows=tuple(replace(row, unit_s=()) for row in run.rows),
        bars=tuple(sorted(longest, key=lambda bar: bar.start_s)),
        raw=run.raw[:num_raw],
        flame=_pruned(run.flame, least_share * run.flame.seconds) if run.flame else None,
    )


def _pruned(flame: Flame, least_s: float) -> Flame:
    children = tuple(_pruned(child, least_s) for child in flame.children if child.seconds >= least_s)
    return replace(flame, children=children)


def _rendered(profile: Profile) -> str:
    parts = {
        "TITLE": html.escape(f"rushes profile: {profile.runs[0].model}"),
        "STYLE": _file("page.css"),
        "SCRIPT": "\n".join(_file(name) for name in _SCRIPTS),
        "DATA": _embedded({**asdict(profile), "comparisons": _comparisons(profile)}),
    }
    text = _file("page.html")
    for name, part in parts.items():
        text = text.replace(f"@{name}@", part, 1)
    return text


def _file(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _embedded(data: Any) -> str:
    """JSON that no text in it can break out of."""
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _comparisons(profile: Profile) -> list[dict[str, Any]]:
    """Every other run beside the first; the values of a sweep are no variants of one thing."""
    if profile.sweep is not None:
        return []
    first = profile.runs[0]
    return [
        {
            "a": first.label,
            "b": other.label,
            "total": asdict(compare_totals(first, other)),
            "rows": [asdict(each) for each in compare_rows(first, other)],
            "operators": [asdict(each) for each in compare_operators(first, other)],
        }
        for other in profile.runs[1:]
    ]
