"""Pictures of a clip from its frames as they pass: a poster, an animated preview, a sheet. No torch here."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rushes.engine.artefacts import Variant
from rushes.stages.contact_sheet import sheet_indices
from rushes.types import Frames, Preview

Pixels = NDArray[np.uint8]

NUM_FRAMES = 16
"""Of the preview and of the sheet."""

COLUMNS = 4
SMALL_SIDE = 256
"""The longer side of a frame on the sheet and in the preview, in pixels, at most."""

LIVE_FRAME_MS = 200
POSTER_OPTIONS: dict[str, Any] = {"format": "WEBP", "quality": 82, "method": 2}
# The quickest: a clip is over when these are made.
SMALL_OPTIONS: dict[str, Any] = {"format": "WEBP", "quality": 72, "method": 0}
# Without further key frames each frame is encoded once: else a part of them twice, to keep the shorter.
ANIMATION_OPTIONS: dict[str, Any] = {**SMALL_OPTIONS, "loop": 0, "kmin": 0, "kmax": 0}


class Stills:
    """Collects what the pictures are made of, and makes them on a thread of its own.

    Args:
        num_frames: of the clip; every one is given to `add`.
        fps: of the clip; the preview is as long, with fewer frames.
    """

    def __init__(self, num_frames: int, fps: int) -> None:
        self._wanted = sheet_indices(num_frames, NUM_FRAMES)
        self._duration_ms = 1000 * num_frames / fps
        self._taken: list[Image.Image] = []
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stills")
        self._made: dict[Variant, Future[bytes]] = {}

    def add(self, frames: Frames) -> None:
        """The next frames of the clip. Copies what it keeps; a few milliseconds for a large frame."""
        start, pixels = frames.start, frames.frames
        if start == 0:
            self._made["thumbnail"] = self._pool.submit(_poster, pixels[0].copy())
        for index in self._wanted:
            if start <= index < start + len(pixels):
                self._taken.append(_small(pixels[index - start]))
                self._make_rest(index)

    def results(self) -> Mapping[Variant, bytes]:
        """All pictures; waits for those in work. Empty where not every frame was given."""
        self._pool.shutdown()
        complete = len(self._taken) == len(self._wanted)
        return {variant: made.result() for variant, made in self._made.items()} if complete else {}

    def close(self) -> None:
        """Make nothing more; a second call does nothing."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _make_rest(self, index: int) -> None:
        if index == self._wanted[-1]:
            duration_ms = round(self._duration_ms / len(self._taken))
            self._made["preview"] = self._pool.submit(animation, tuple(self._taken), duration_ms)
            self._made["spritesheet"] = self._pool.submit(_sheet, tuple(self._taken))


def live_preview(preview: Preview) -> bytes:
    """What a clip that is being denoised looks like, as an animated WebP."""
    return animation([Image.fromarray(frame) for frame in preview.frames], LIVE_FRAME_MS)


def animation(images: Sequence[Image.Image], frame_ms: int) -> bytes:
    """A WebP that repeats for ever."""
    file = io.BytesIO()
    first, *rest = images
    first.save(file, save_all=True, append_images=rest, duration=frame_ms, **ANIMATION_OPTIONS)
    return file.getvalue()


def _poster(frame: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, **POSTER_OPTIONS)
    return file.getvalue()


def _small(frame: Pixels) -> Image.Image:
    image = Image.fromarray(frame)
    scale = SMALL_SIDE / max(image.size)
    if scale >= 1:
        return image.copy()
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BOX)


def _sheet(images: Sequence[Image.Image]) -> bytes:
    """Row by row, the rest of the last row black."""
    width, height = images[0].size
    columns = min(COLUMNS, len(images))
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height))
    for number, image in enumerate(images):
        sheet.paste(image, (number % columns * width, number // columns * height))
    file = io.BytesIO()
    sheet.save(file, **SMALL_OPTIONS)
    return file.getvalue()
