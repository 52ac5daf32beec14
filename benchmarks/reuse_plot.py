"""Two rows of bars as an SVG: what a workload's requests took, and what each policy saves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WIDTH, BAR, GAP, LEFT = 640, 22, 8, 150
COLOURS = {"exact": "#1b7f5c", "latent": "#5aa9e6", "edit": "#f2a541", "miss": "#b9bec5"}
POLICY = "#5b6b82"


def plot(report: Mapping[str, Any]) -> str:
    """Of a report of `benchmarks.reuse`."""
    rows: list[str] = []
    y = 28
    for name, found in report.items():
        y = _label(rows, y, f"{name}: share of requests")
        y = _shares(rows, y, found["rates"])
        y = _label(rows, y, f"{name}: device seconds saved, a quarter of the working set")
        y = _policies(rows, y, found["eviction"])
    key = "".join(
        f'<rect x="{LEFT + 90 * n}" y="{y}" width="12" height="12" fill="{colour}"/>'
        f'<text x="{LEFT + 90 * n + 18}" y="{y + 11}">{kind}</text>'
        for n, (kind, colour) in enumerate(COLOURS.items())
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 30}" width="{WIDTH}"'
        ' font-family="sans-serif" font-size="12" fill="#222"><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(rows)}{key}</svg>\n"
    )


def _label(rows: list[str], y: int, text: str) -> int:
    rows.append(f'<text x="12" y="{y}" font-weight="bold">{text}</text>')
    return y + 12


def _shares(rows: list[str], y: int, rates: Mapping[str, Any]) -> int:
    x = float(LEFT)
    shares = {kind: rates[kind] for kind in ("exact", "latent", "edit")}
    for kind, share in {**shares, "miss": 1 - sum(shares.values())}.items():
        width = share * (WIDTH - LEFT - 20)
        rows.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{COLOURS[kind]}"/>')
        if share > 0.05:
            rows.append(f'<text x="{x + 6:.1f}" y="{y + 15}">{share:.0%}</text>')
        x += width
    return y + BAR + 2 * GAP + 12


def _policies(rows: list[str], y: int, kept: Mapping[str, Any]) -> int:
    most = kept["without bound, s"]
    for policy, figures in kept["a quarter"].items():
        saved = figures["device s saved"]
        width = saved / most * (WIDTH - LEFT - 70)
        rows.append(
            f'<text x="{LEFT - 10}" y="{y + 15}" text-anchor="end">{policy}</text>'
            f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{POLICY}"/>'
            f'<text x="{LEFT + width + 6:.1f}" y="{y + 15}">{saved / most:.1%}</text>'
        )
        y += BAR + GAP
    return y + GAP + 12
