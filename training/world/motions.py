"""Where the sprites are in every frame: one curve per motion, in pixels and radians."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.world.attributes import HEIGHT, MOTIONS, NUM_FRAMES, WIDTH

# Pixel heights of a sprite by [count - 1][size]: as large as a row with room to move allows.
SPRITE_HEIGHTS = ((46.0, 60.0, 74.0), (42.0, 52.0, 62.0), (36.0, 41.0, 46.0))
SPACING = 1.12  # distance of two copies in sprite heights
TURNING_SPACING = (
    1.24  # of two that rotate: a sprite's corners reach 47/40 of half its height, and an outline
)
MARGIN = 3.0
SWING = math.radians(28)


@dataclass(frozen=True, slots=True, kw_only=True)
class Poses:
    """The row of copies in every frame, all copies in phase.

    Attributes:
        x, y: [B, T] centre of the row, pixels from the picture's middle, y downwards.
        angle: [B, T] radians, clockwise.
        scale_x, scale_y: [B, T] pixels per sprite height; negative `scale_x` shows the sprite mirrored.
        spacing: [B, 1] pixels between two copies.
    """

    x: Tensor
    y: Tensor
    angle: Tensor
    scale_x: Tensor
    scale_y: Tensor
    spacing: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Room:
    """What a curve may use: clip time [B, T], free pixels either way and the scene's nuisances [B, 1]."""

    t: Tensor
    free_x: Tensor
    free_y: Tensor
    height: Tensor
    heading: Tensor
    phase: Tensor
    speed: Tensor


def poses(
    *,
    motion: Tensor,
    count: Tensor,
    size: Tensor,
    heading: Tensor,
    phase: Tensor,
    speed: Tensor,
    x: Tensor,
    y: Tensor,
    frames: Tensor,
) -> Poses:
    """Poses of a batch of scenes ([B] columns of `Scenes`) at the given frame numbers [B, T]."""
    height = torch.tensor(SPRITE_HEIGHTS, device=motion.device)[count - 1, size][:, None]
    is_turning = _is_any(motion, ("spins", "swings"))[:, None]
    spacing = height * torch.where(is_turning, TURNING_SPACING, SPACING)
    whole_clip = torch.arange(NUM_FRAMES, device=frames.device).expand(len(frames), -1)
    room = _Room(
        t=torch.cat([frames, whole_clip], dim=1) / (NUM_FRAMES - 1),
        free_x=(WIDTH / 2 - 0.5 * spacing * count[:, None] - MARGIN).clamp(min=0),
        free_y=(HEIGHT / 2 - 0.5 * spacing - MARGIN).clamp(min=0),
        height=height,
        heading=heading[:, None].float(),
        phase=phase[:, None],
        speed=speed[:, None],
    )
    curves = torch.stack([CURVES[name](room) for name in MOTIONS])  # [motions, 5, B, T]
    chosen = curves[motion, :, torch.arange(len(motion), device=motion.device)]
    dx, dy, angle, stretch_x, stretch_y = chosen[..., : frames.shape[1]].unbind(1)
    reach_x, reach_y = chosen[:, :2, frames.shape[1] :].abs().amax(2, keepdim=True).unbind(1)
    return Poses(
        x=dx + x[:, None] * (room.free_x - reach_x).clamp(0, 24),
        y=dy + y[:, None] * (room.free_y - reach_y).clamp(0, 14),
        angle=angle,
        scale_x=height * stretch_x,
        scale_y=height * stretch_y,
        spacing=spacing,
    )


def _is_any(motion: Tensor, names: tuple[str, ...]) -> Tensor:
    wanted = torch.tensor([MOTIONS.index(name) for name in names], device=motion.device)
    return (motion[:, None] == wanted).any(1)


def _curve(
    room: _Room,
    x: Tensor | float = 0.0,
    y: Tensor | float = 0.0,
    angle: Tensor | float = 0.0,
    stretch: Tensor | float = 1.0,
    stretch_x: Tensor | float = 1.0,
) -> Tensor:
    zero = torch.zeros_like(room.t * room.free_x)
    return torch.stack([zero + x, zero + y, zero + angle, zero + stretch * stretch_x, zero + stretch])


def _travel(room: _Room) -> Tensor:
    """From -1 to 1 over the clip, slow scenes covering four fifths of it."""
    return (2 * room.t - 1) * (0.8 + 0.2 * room.speed)


def _across(room: _Room, sense: Tensor | float) -> Tensor:
    return _curve(room, x=sense * room.free_x.clamp(max=62) * _travel(room))


def _down(room: _Room, sense: float) -> Tensor:
    return _curve(room, y=sense * room.free_y * _travel(room))


def _bounces(room: _Room) -> Tensor:
    hops = (1.8 + 0.7 * room.speed) * room.t + room.phase
    lift = (torch.pi * hops).sin().abs()
    return _curve(room, y=room.free_y.clamp(max=26) * (1 - 2 * lift))


def _spins(room: _Room) -> Tensor:
    turns = room.heading * (0.85 + 0.3 * room.speed) * room.t
    return _curve(room, angle=2 * torch.pi * turns)


def _grows(room: _Room) -> Tensor:
    return _curve(room, stretch=torch.lerp(0.40 + 0.1 * room.speed, torch.ones_like(room.speed), room.t))


def _shrinks(room: _Room) -> Tensor:
    return _curve(room, stretch=torch.lerp(torch.ones_like(room.speed), 0.40 + 0.1 * room.speed, room.t))


def _shakes(room: _Room) -> Tensor:
    beats = (3.6 + 0.8 * room.speed) * room.t + room.phase
    return _curve(room, x=room.free_x.clamp(max=8) * (2 * torch.pi * beats).sin())


def _circles(room: _Room) -> Tensor:
    turn = 2 * torch.pi * (room.phase + room.heading * (1.0 + 0.3 * room.speed) * room.t)
    return _curve(room, x=room.free_x.clamp(max=26) * turn.cos(), y=room.free_y.clamp(max=26) * turn.sin())


def _swings(room: _Room) -> Tensor:
    """A pendulum that hangs from the sprite's top edge."""
    angle = SWING * (2 * torch.pi * ((1.6 + 0.5 * room.speed) * room.t + room.phase)).sin()
    arm = 0.45 * room.height
    return _curve(room, x=-arm * angle.sin(), y=arm * (angle.cos() - 0.94), angle=angle)


def _turns(room: _Room) -> Tensor:
    """About the vertical axis, like a coin on its edge: the width goes through zero and shows the back."""
    return _curve(room, stretch_x=(2 * torch.pi * ((1.2 + 0.4 * room.speed) * room.t + room.phase)).cos())


def _zigzags(room: _Room) -> Tensor:
    corner = (1.5 + 0.4 * room.speed) * room.t + room.phase
    height = 4 * (corner - (corner + 0.5).floor()).abs() - 1
    return _curve(
        room, x=room.heading * room.free_x.clamp(max=62) * _travel(room), y=room.free_y.clamp(max=28) * height
    )


CURVES = {
    "right": lambda room: _across(room, 1.0),
    "left": lambda room: _across(room, -1.0),
    "rises": lambda room: _down(room, -1.0),
    "falls": lambda room: _down(room, 1.0),
    "bounces": _bounces,
    "spins": _spins,
    "grows": _grows,
    "shrinks": _shrinks,
    "shakes": _shakes,
    "circles": _circles,
    "swings": _swings,
    "turns": _turns,
    "zigzags": _zigzags,
    "still": _curve,
}
