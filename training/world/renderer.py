"""Draws batches of scenes as clips: one lookup for sprites, one for the background, no loop over samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from training.world.atlas import BLURS, TILE_SIZE, build_atlas
from training.world.attributes import BACKGROUNDS, CAMERAS, COLOURS, HEIGHT, MOTIONS, NUM_FRAMES, WIDTH
from training.world.canvas import BANK_HEIGHT, BANK_WIDTH
from training.world.landscapes import paint
from training.world.motions import Poses, poses
from training.world.scenes import NUM_VARIANTS, Scenes
from training.world.sprites import SPRITE_SIZE
from training.world.subjects import subjects

MIRRORED_MOTIONS = ("right", "left", "zigzags")  # sprites look where they go
PAN = 34.0  # pixels that a panning camera travels either way
CHUNK_SIZE = {"cuda": 128, "cpu": 4}  # scenes drawn at a time; each takes about 60 MB meanwhile
ZOOM = (1.28, 0.86)  # of the view's size: far, near


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Which pixels of which frames to draw.

    Attributes:
        frames: [B, T] frame numbers.
        rows: [B, H] pixel rows.
        columns: [B, W] pixel columns.
    """

    frames: Tensor
    rows: Tensor
    columns: Tensor


class Renderer:
    """Draws clips on one device.

    Args:
        device: where the sprites and the bank of backgrounds live and clips are drawn.
        dtype: of the clips.
        num_variants: pictures in the bank per background; fewer (tests) make scenes share pictures.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        num_variants: int = NUM_VARIANTS,
        seed: int = 0,
    ) -> None:
        self.device, self.dtype = torch.device(device), dtype
        self._num_variants, self._chunk_size = num_variants, CHUNK_SIZE[self.device.type]
        self._atlas = build_atlas(self.device)
        self._bank = torch.cat([paint(name, num_variants, seed, self.device) for name in BACKGROUNDS])
        faces = [-1.0 if subject.faces_left else 1.0 for subject in subjects()]
        self._faces = torch.tensor(faces, device=self.device)

    def render(
        self,
        scenes: Scenes,
        *,
        frames: Tensor | None = None,
        crop: tuple[int, int, int] | None = None,
        generator: torch.Generator | None = None,
        allow_held_out: bool = False,
    ) -> Tensor:
        """Clips [B, 3, T, H, W] in [-1, 1], 33 frames of 128x192 unless `frames` or `crop` asks for fewer.

        Args:
            frames: frame numbers to draw instead of all, [T] (fractions are allowed).
            crop: (frames, height, width) of a window at a random place of each clip, from `generator`.
            allow_held_out: draw held-out triples too: for evaluation only.

        Raises:
            ValueError: a scene shows a held-out (subject, motion, background) triple.
        """
        if not allow_held_out:
            _refuse_held_out(scenes)
        window = self._window(len(scenes), frames, crop, generator)
        return torch.cat([clip for clip, _ in self._chunks(scenes, window)])

    def render_covered(self, scenes: Scenes, num_frames: int = NUM_FRAMES) -> tuple[Tensor, Tensor]:
        """The first frames of clips as `render` draws them, and how much of each pixel sprites cover,
        [B, T, H, W]."""
        _refuse_held_out(scenes)
        window = self._window(len(scenes), torch.arange(num_frames), None, None)
        clips, covers = zip(*self._chunks(scenes, window), strict=True)
        return torch.cat(clips), torch.cat(covers)

    def _chunks(self, scenes: Scenes, window: Window) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(scenes), self._chunk_size):
            part = slice(start, start + self._chunk_size)
            yield self._draw(self._columns(scenes[part]), _part(window, part))

    def _columns(self, scenes: Scenes) -> dict[str, Tensor]:
        """The table's columns on the device: integers as int64, the rest as float32, sent in two copies."""
        whole: dict[str, Tensor] = {}
        real: dict[str, Tensor] = {}
        for field in fields(scenes):
            column = torch.from_numpy(getattr(scenes, field.name))
            (real if column.is_floating_point() else whole)[field.name] = column
        on_device: dict[str, Tensor] = {}
        for columns, dtype in ((whole, torch.int64), (real, torch.float32)):
            block = torch.stack([column.to(dtype) for column in columns.values()]).to(self.device)
            on_device |= dict(zip(columns, block, strict=True))
        return on_device

    def _window(
        self,
        batch: int,
        frames: Tensor | None,
        crop: tuple[int, int, int] | None,
        generator: torch.Generator | None,
    ) -> Window:
        times = torch.arange(NUM_FRAMES, dtype=torch.float32) if frames is None else frames.float()
        full = (len(times), HEIGHT, WIDTH)
        num_frames, height, width = crop or full
        starts = [
            torch.randint(whole - size + 1, (batch, 1), generator=generator)
            for whole, size in zip(full, (num_frames, height, width), strict=True)
        ]
        index = [
            start + torch.arange(size)
            for start, size in zip(starts, (num_frames, height, width), strict=True)
        ]
        return Window(
            frames=times[index[0]].to(self.device),
            rows=index[1].float().to(self.device),
            columns=index[2].float().to(self.device),
        )

    def _draw(self, scene: dict[str, Tensor], window: Window) -> tuple[Tensor, Tensor]:
        """Clips, and how much of each pixel the sprites cover."""
        x = (window.columns + 0.5 - WIDTH / 2)[:, None, None, :]
        y = (window.rows + 0.5 - HEIGHT / 2)[:, None, :, None]
        background = self._background(scene, window.frames, x, y)
        sprites = self._sprites(scene, window.frames, x, y)
        clip = sprites[:, :3] + background * (1 - sprites[:, 3:])
        return (2 * clip.clamp(0, 1) - 1).to(self.dtype), sprites[:, 3]

    def _background(self, scene: dict[str, Tensor], frames: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """The bank's picture under the moving camera, [B, 3, T, H, W] in [0, 1]."""
        picture = scene["background"] * self._num_variants + scene["variant"] % self._num_variants
        pictures = self._bank[picture].float() / 255 * scene["brightness"][:, None, None, None]
        centre, zoom = _camera(scene, frames)
        grid = _grid(
            (x * zoom[..., None, None] + centre[..., None, None]) / (BANK_WIDTH / 2),
            y * zoom[..., None, None] / (BANK_HEIGHT / 2),
        )
        batch, num_frames, height, width, _ = grid.shape
        drawn = F.grid_sample(pictures, grid.flatten(1, 2), padding_mode="border", align_corners=False)
        return drawn.view(batch, 3, num_frames, height, width)

    def _sprites(self, scene: dict[str, Tensor], frames: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """All copies on a transparent ground, premultiplied RGBA [B, 4, T, H, W].

        Copies stand in a row and move alike, so each pixel belongs to one cell of the row: the sprite is
        looked up once per pixel, at the pixel's place in its cell. The lookup's depth is the blur; behind the
        first subject's blurs come the second's.
        """
        names = ("motion", "count", "size", "heading", "phase", "speed", "x", "y")
        pose = poses(frames=frames, **{name: scene[name] for name in names})
        in_row_x = x - pose.x[..., None, None]
        in_row_y = y - pose.y[..., None, None]
        last = (scene["count"] - 1)[:, None, None, None]
        spacing = pose.spacing[..., None, None]
        copy = (in_row_x / spacing + 0.5 * last).round().clamp(min=0).minimum(last.float())
        u, v = _unposed(in_row_x - spacing * (copy - 0.5 * last), in_row_y, pose)
        blur = _blur_level(pose)[..., None, None]
        volume, mirrors, depth = self._volume(scene)
        is_second = copy * (mirrors[:, 1:, None, None] != 0)
        mirror = torch.where(is_second > 0, mirrors[:, 1:, None, None], mirrors[:, :1, None, None])
        layer = blur + len(BLURS) * is_second
        grid = torch.stack(torch.broadcast_tensors(u * mirror, v, 2 * layer / (depth - 1) - 1), dim=-1)
        scale = SPRITE_SIZE / (TILE_SIZE - 1)
        grid = grid * grid.new_tensor([2 * scale, 2 * scale, 1.0])
        return F.grid_sample(volume, grid, padding_mode="zeros", align_corners=True)

    def _volume(self, scene: dict[str, Tensor]) -> tuple[Tensor, Tensor, int]:
        """Sprite volumes [B, 4, depth, 100, 100]; mirror signs [B, 2], 0 for no second subject; the depth."""
        is_directed = torch.zeros_like(scene["motion"], dtype=torch.bool)
        for name in MIRRORED_MOTIONS:
            is_directed |= scene["motion"] == MOTIONS.index(name)
        second = scene["subject2"]
        signs = [
            torch.where(is_directed, self._faces[subject] * scene["heading"], 1.0)
            for subject in (scene["subject"], second)
        ]
        tiles = [
            self._atlas[subject * len(COLOURS) + colour]
            for subject, colour in (
                (scene["subject"], scene["colour"]),
                (second.clamp(min=0), scene["colour2"]),
            )
        ]
        volume = torch.cat(tiles, dim=2).float() / 255
        return volume, torch.stack([signs[0], signs[1] * (second >= 0)], dim=1), volume.shape[2]


def _refuse_held_out(scenes: Scenes) -> None:
    if scenes.held_out().any():
        raise ValueError(
            f"{scenes.held_out().sum()} of {len(scenes)} scenes show a held-out triple; "
            "training must not see them (allow_held_out=True is for evaluation)"
        )


def _part(window: Window, part: slice) -> Window:
    return Window(frames=window.frames[part], rows=window.rows[part], columns=window.columns[part])


def _grid(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack(torch.broadcast_tensors(x, y), dim=-1)


def _camera(scene: dict[str, Tensor], frames: Tensor) -> tuple[Tensor, Tensor]:
    """Centre of the view (pixels right of the picture's middle) and its size (1: as painted), both [B, T]."""
    camera, t = scene["camera"][:, None], frames / (NUM_FRAMES - 1)
    pan = (camera == CAMERAS.index("pan right")).float() - (camera == CAMERAS.index("pan left")).float()
    inwards = (camera == CAMERAS.index("zoom in")).float()
    outwards = (camera == CAMERAS.index("zoom out")).float()
    far, near = ZOOM
    nearing = inwards * t + outwards * (1 - t)
    zoom = 1 + (inwards + outwards) * (far - 1 + (near - far) * nearing)
    room = 24 * (pan == 0)
    return room * scene["view"][:, None] + pan * PAN * (2 * t - 1), zoom


def _unposed(x: Tensor, y: Tensor, pose: Poses) -> tuple[Tensor, Tensor]:
    """A pixel's place in its cell, turned back and in units of the sprite, which spans [-1/2, 1/2]."""
    cos, sin = pose.angle.cos()[..., None, None], pose.angle.sin()[..., None, None]
    thinnest = 0.04 * pose.scale_y
    width = torch.where(pose.scale_x < 0, -1.0, 1.0) * pose.scale_x.abs().maximum(thinnest)
    u = (cos * x + sin * y) / width[..., None, None]
    v = (cos * y - sin * x) / pose.scale_y[..., None, None]
    return u, v


def _blur_level(pose: Poses) -> Tensor:
    """Which blur suits the frame's scale, between 0 and 2, [B, T]."""
    scale = (pose.scale_x.abs().maximum(0.2 * pose.scale_y) * pose.scale_y).sqrt() / SPRITE_SIZE
    return torch.log2(1 / scale).clamp(0, len(BLURS) - 1)
