"""The fourteen backgrounds, each a few soft shapes in a palette of its own.

A painter gets an empty `Canvas` and leaves a batch of pictures on it. Only the middle two thirds of the
height are seen while the camera rests, so horizons and suns stay between 0.25 and 0.75.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from training.world.attributes import BACKGROUNDS
from training.world.canvas import ASPECT, Canvas, Colour

WHITE = (1.0, 1.0, 1.0)


def paint(background: str, num: int, seed: int, device: torch.device) -> Tensor:
    """`num` variants of one background, uint8 [num, 3, 192, 288], the same for the same seed."""
    canvas = Canvas(num, seed + 1000 * BACKGROUNDS.index(background), device)
    PAINTERS[background](canvas)
    return canvas.pictures()


def _sky(c: Canvas, top: Colour, bottom: Colour, end: Tensor | float = 0.6) -> None:
    c.fill(torch.ones_like(c.rgb[:, 0]), c.gradient(top, bottom, 0.1, end))


def _sun(c: Canvas, colour: Colour, radius: float, y: tuple[float, float]) -> None:
    x, y_centre = c.draw(0.45, 1.05), c.draw(*y)
    c.fill(c.glow(x, y_centre, 2.2 * radius, 0.45), colour)
    c.fill(c.disk(x, y_centre, radius), colour)


def _clouds(c: Canvas, num: int, y: tuple[float, float], strength: float) -> None:
    for _ in range(num):
        x, y_centre, size = c.draw(0, ASPECT), c.draw(*y), c.draw(0.05, 0.08)
        puffs = [c.disk(x + dx * size, y_centre - dy * size, r * size, 0.03, 0.7) for dx, dy, r in CLOUD]
        c.fill(strength * torch.stack(puffs).amax(0), WHITE)


CLOUD = ((-1.3, 0.0, 0.8), (-0.4, 0.4, 1.0), (0.6, 0.3, 0.9), (1.5, 0.0, 0.7))


def _dots(c: Canvas, num: int, y: tuple[float, float], radius: tuple[float, float], colour: Colour) -> None:
    for _ in range(num):
        dot = c.disk(c.draw(0, ASPECT), c.draw(*y), c.draw(*radius), 0.012)
        c.fill(0.9 * dot, colour)


def _beach(c: Canvas) -> None:
    horizon, shore = c.draw(0.38, 0.44), c.draw(0.58, 0.64)
    _sky(c, (0.36, 0.72, 0.97), (0.85, 0.95, 0.99), horizon)
    _sun(c, (1.0, 0.96, 0.70), 0.06, (0.24, 0.30))
    c.fill(c.below(horizon), c.gradient((0.06, 0.50, 0.76), (0.36, 0.86, 0.84), horizon, shore))
    line = c.waves(shore, 0.025, 0.9)
    c.fill(c.below(line - 0.02, 0.02), (0.93, 0.99, 0.98))
    c.fill(c.below(line, 0.012), c.gradient((0.93, 0.80, 0.55), (0.98, 0.87, 0.62), shore, 0.75))


def _meadow(c: Canvas) -> None:
    _sky(c, (0.40, 0.74, 0.98), (0.83, 0.94, 0.99))
    _clouds(c, 3, (0.2, 0.32), 0.9)
    c.fill(c.below(c.waves(c.draw(0.45, 0.50), 0.05, 1.0)), (0.58, 0.82, 0.46))
    c.fill(
        c.below(c.waves(c.draw(0.56, 0.60), 0.04, 0.8)),
        c.gradient((0.46, 0.76, 0.34), (0.28, 0.60, 0.24), 0.55),
    )
    for colour in ((1.0, 0.62, 0.75), (1.0, 0.90, 0.35), (0.98, 0.98, 0.96)):
        _dots(c, 5, (0.66, 0.95), (0.012, 0.02), colour)


def _snow(c: Canvas) -> None:
    _sky(c, (0.62, 0.76, 0.90), (0.88, 0.93, 0.98))
    far, near = c.waves(c.draw(0.44, 0.50), 0.05, 0.9), c.waves(c.draw(0.60, 0.66), 0.04, 1.1)
    trees = c.peaks(0.52, 0.14, c.draw(0.09, 0.12))
    c.fill(c.between(trees, near), (0.56, 0.70, 0.80))
    c.fill(c.below(far + 0.06, 0.03), (0.83, 0.90, 0.97))
    c.fill(c.below(near), c.gradient((0.97, 0.985, 1.0), (0.84, 0.90, 0.97), 0.62))
    _dots(c, 26, (0.0, 1.0), (0.008, 0.014), WHITE)


def _desert(c: Canvas) -> None:
    _sky(c, (0.98, 0.72, 0.42), (1.0, 0.92, 0.72))
    _sun(c, (1.0, 0.98, 0.86), 0.075, (0.27, 0.36))
    c.fill(c.below(c.waves(c.draw(0.48, 0.53), 0.06, 1.2)), (0.95, 0.73, 0.43))
    c.fill(c.below(c.waves(c.draw(0.58, 0.63), 0.06, 0.9)), (0.89, 0.61, 0.31))
    c.fill(
        c.below(c.waves(c.draw(0.70, 0.75), 0.05, 1.1)),
        c.gradient((0.81, 0.50, 0.23), (0.66, 0.38, 0.17), 0.7),
    )


def _night(c: Canvas) -> None:
    _sky(c, (0.03, 0.05, 0.20), (0.20, 0.27, 0.56), 0.75)
    _dots(c, 22, (0.0, 0.62), (0.006, 0.010), (0.86, 0.86, 0.84))
    x, y = c.draw(0.4, 1.1), c.draw(0.26, 0.34)
    c.fill(c.glow(x, y, 0.14, 0.4), (0.75, 0.80, 0.95))
    c.fill(c.disk(x, y, 0.07) * (1 - c.disk(x + 0.035, y - 0.02, 0.06)), (0.99, 0.96, 0.78))
    c.fill(c.below(c.waves(c.draw(0.68, 0.72), 0.05, 0.8)), (0.07, 0.11, 0.27))
    c.fill(c.below(c.waves(c.draw(0.78, 0.82), 0.04, 1.0)), (0.03, 0.06, 0.16))


def _city(c: Canvas) -> None:
    _sky(c, (0.60, 0.73, 0.88), (0.96, 0.90, 0.87))
    far, _ = c.cells(c.draw(0.10, 0.13), 0.30, 0.50)
    c.fill(c.below(far), (0.66, 0.70, 0.81))
    width = c.draw(0.19, 0.23)
    near, position = c.cells(width, 0.40, 0.60)
    houses = c.below(near) * ((position - 0.5).abs() < 0.44)
    c.fill(houses, c.gradient((0.42, 0.47, 0.63), (0.33, 0.36, 0.52), 0.4, 0.9))
    column = ((position * 3).frac() - 0.5).abs()
    row = (((c.y - near) * 10).frac() - 0.5).abs()
    windows = ((0.24 - torch.maximum(column, row)) / 0.16).clamp(0, 1) * c.below(near + 0.02)
    c.fill(0.5 * houses * windows, (0.99, 0.88, 0.56))
    c.fill(c.below(c.draw(0.80, 0.82)), (0.47, 0.48, 0.54))


def _forest(c: Canvas) -> None:
    _sky(c, (0.52, 0.69, 0.40), (0.68, 0.80, 0.50), 0.7)
    for width, light in ((0.13, (0.44, 0.58, 0.35)), (0.26, (0.38, 0.30, 0.20))):
        size = c.draw(width, 1.3 * width)
        thickness, position = c.cells(size, 0.10, 0.20)
        trunk = ((thickness - (position - 0.5).abs()) * size / 0.01 + 0.5).clamp(0, 1)
        c.fill(trunk.expand_as(c.rgb[:, 0]), light)
    c.fill(1 - c.below(c.waves(c.draw(0.30, 0.34), 0.05, 0.3)), (0.24, 0.44, 0.20))
    c.fill(1 - c.below(c.waves(c.draw(0.22, 0.25), 0.05, 0.24)), (0.14, 0.32, 0.14))
    c.fill(
        c.below(c.waves(c.draw(0.68, 0.71), 0.02, 0.5)),
        c.gradient((0.30, 0.42, 0.17), (0.17, 0.26, 0.10), 0.68),
    )


def _underwater(c: Canvas) -> None:
    _sky(c, (0.30, 0.83, 0.90), (0.02, 0.24, 0.52), 0.95)
    for _ in range(4):
        slope, x = c.draw(-0.35, -0.1), c.draw(0.1, ASPECT)
        ray = torch.exp(-(((c.x - x - slope * c.y) / 0.05) ** 2))
        c.fill(0.30 * ray * (1 - c.y).clamp(0, 1), (0.80, 0.98, 1.0))
    c.fill(c.below(c.waves(c.draw(0.76, 0.80), 0.03, 0.7)), (0.42, 0.62, 0.62))
    for colour in ((0.90, 0.42, 0.52), (0.95, 0.62, 0.35), (0.14, 0.52, 0.42)):
        c.fill(0.85 * c.disk(c.draw(0.1, 1.4), c.draw(0.80, 0.84), c.draw(0.05, 0.08), 0.02), colour)
    _dots(c, 16, (0.15, 0.75), (0.008, 0.018), (0.70, 0.94, 0.98))


def _space(c: Canvas) -> None:
    _sky(c, (0.10, 0.03, 0.20), (0.24, 0.06, 0.34), 1.0)
    for colour in ((0.70, 0.20, 0.70), (0.42, 0.20, 0.78), (0.88, 0.30, 0.58), (0.20, 0.36, 0.70)):
        c.fill(c.glow(c.draw(0.1, 1.4), c.draw(0.15, 0.85), c.draw(0.12, 0.22), 0.55), colour)
    _dots(c, 24, (0.0, 1.0), (0.006, 0.010), (0.86, 0.84, 0.94))
    x, y, radius = c.draw(0.35, 1.15), c.draw(0.28, 0.40), c.draw(0.08, 0.10)
    ring = c.disk(x, y, 1.9 * radius, squash=0.28) * (1 - c.disk(x, y, 1.45 * radius, squash=0.25))
    planet = c.disk(x, y, radius)
    c.fill(planet, (0.96, 0.70, 0.42))
    c.fill(planet * (1 - c.disk(x - 0.025, y - 0.025, radius, 0.03)), (0.70, 0.40, 0.38))
    c.fill(ring * (1 - planet * (1 - c.below(y))), (0.90, 0.84, 0.96))


def _sunset(c: Canvas) -> None:
    horizon = c.draw(0.54, 0.60)
    _sky(c, (0.36, 0.20, 0.52), (0.98, 0.46, 0.36), horizon - 0.08)
    x = c.draw(0.5, 1.0)
    c.fill(c.glow(x, horizon, 0.24, 0.85), (1.0, 0.76, 0.36))
    c.fill(c.disk(x, horizon - 0.02, 0.11), (1.0, 0.93, 0.60))
    c.fill(c.below(horizon), c.gradient((0.78, 0.34, 0.42), (0.26, 0.12, 0.36), horizon, 0.9))
    spread = 0.05 + 0.35 * (c.y - horizon).clamp(min=0)
    streak = torch.exp(-(((c.x - x) / spread) ** 2)) * (0.6 + 0.4 * torch.sin(75 * c.y)) * c.below(horizon)
    c.fill(0.75 * streak, (1.0, 0.74, 0.42))


def _mountains(c: Canvas) -> None:
    _sky(c, (0.50, 0.74, 0.95), (0.90, 0.95, 0.99))
    _clouds(c, 2, (0.18, 0.26), 0.8)
    c.fill(c.below(c.peaks(0.58, 0.22, c.draw(0.28, 0.36))), (0.67, 0.76, 0.89))
    ridge = c.peaks(0.68, 0.36, c.draw(0.48, 0.58))
    c.fill(c.below(ridge), c.gradient((0.47, 0.53, 0.68), (0.36, 0.44, 0.58), 0.35, 0.7))
    c.fill(c.between(ridge, 0.44 + 0.0 * ridge + c.waves(0.0, 0.03, 0.2)), (0.96, 0.98, 1.0))
    c.fill(
        c.below(c.waves(c.draw(0.66, 0.70), 0.02, 0.7)),
        c.gradient((0.40, 0.58, 0.44), (0.24, 0.42, 0.34), 0.66),
    )


def _room(c: Canvas) -> None:
    floor = c.draw(0.66, 0.70)
    _sky(c, (0.97, 0.87, 0.74), (0.93, 0.80, 0.66), floor)
    x, y = c.draw(0.35, 1.15), c.draw(0.34, 0.38)
    frame = torch.maximum((c.x - x).abs() / 1.2, (c.y - y).abs())
    c.fill(((0.125 - frame) / 0.01).clamp(0, 1), (0.99, 0.98, 0.94))
    c.fill(((0.105 - frame) / 0.01).clamp(0, 1), (0.62, 0.84, 0.96))
    bars = torch.minimum((c.x - x).abs(), (c.y - y).abs())
    c.fill(((0.125 - frame) / 0.01).clamp(0, 1) * ((0.012 - bars) / 0.008).clamp(0, 1), (0.99, 0.98, 0.94))
    c.fill(c.below(floor - 0.03), (0.99, 0.97, 0.93))
    c.fill(c.below(floor), c.gradient((0.70, 0.47, 0.29), (0.58, 0.37, 0.22), floor))
    c.fill(c.disk(c.draw(0.6, 0.9), c.draw(0.80, 0.84), c.draw(0.36, 0.44), 0.012, 0.22), (0.78, 0.36, 0.34))


def _road(c: Canvas) -> None:
    _sky(c, (0.64, 0.82, 0.93), (0.92, 0.96, 0.97), 0.5)
    hedge, kerb = c.draw(0.38, 0.42), c.draw(0.48, 0.52)
    c.fill(c.below(c.waves(hedge, 0.03, 0.16), 0.02), (0.44, 0.64, 0.36))
    c.fill(c.below(kerb - 0.035), (0.82, 0.81, 0.78))
    c.fill(c.below(kerb), c.gradient((0.45, 0.46, 0.50), (0.34, 0.35, 0.40), kerb))
    dash = ((0.25 - ((c.x / 0.3 + c.draw(0, 1)).frac() - 0.5).abs()) / 0.03).clamp(0, 1)
    middle = c.draw(0.68, 0.71)
    c.fill(dash * c.between(middle - 0.016, middle + 0.016, 0.01), (0.97, 0.95, 0.86))


def _volcano(c: Canvas) -> None:
    _sky(c, (0.17, 0.04, 0.10), (0.86, 0.32, 0.14), 0.72)
    x, y = c.draw(0.5, 1.0), c.draw(0.34, 0.38)
    c.fill(c.glow(x, y - 0.05, 0.13, 0.85), (1.0, 0.55, 0.18))
    side = y + (1.15 * (c.x - x).abs() - 0.07).clamp(min=0)
    c.fill(c.below(side), c.gradient((0.30, 0.14, 0.15), (0.15, 0.07, 0.11), y, 0.8))
    flow = x + 0.04 * torch.sin(14 * (c.y - y) + c.draw(0, 6.3)) * (c.y - y) * 4
    lava = ((0.045 + 0.06 * (c.y - y) - (c.x - flow).abs()) / 0.015).clamp(0, 1)
    c.fill(lava * c.below(y - 0.01 + 0.0 * side), c.gradient((1.0, 0.84, 0.36), (0.98, 0.42, 0.10), y, 0.8))
    lake = c.waves(c.draw(0.74, 0.77), 0.015, 0.5)
    c.fill(c.below(lake), c.gradient((1.0, 0.66, 0.22), (0.92, 0.30, 0.08), 0.74))


PAINTERS: dict[str, Callable[[Canvas], None]] = {
    "beach": _beach,
    "meadow": _meadow,
    "snow": _snow,
    "desert": _desert,
    "night": _night,
    "city": _city,
    "forest": _forest,
    "underwater": _underwater,
    "space": _space,
    "sunset": _sunset,
    "mountains": _mountains,
    "room": _room,
    "road": _road,
    "volcano": _volcano,
}
