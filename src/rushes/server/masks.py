"""Masks of edits: a picture that says where a clip may change, brought to its latents."""

from __future__ import annotations

import base64
import binascii
import io
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rushes.errors import InvalidRequest
from rushes.pipelines.fields import shown
from rushes.pipelines.rules import PipelineRules, load_rules
from rushes.types import GenerateRequest, VideoSpec

MOST_BYTES = 700_000
"""Of a PNG: as base64 it has room in a body of JSON."""

MOST_PIXELS = 2_100_000
"""A PNG of few bytes may have very many, each of which takes ten bytes while it is read."""

ASPECT_TOLERANCE = 0.02
_DATA_URL = re.compile(r"data:image/png;base64,", re.IGNORECASE)
_FRAMES = re.compile(r"(\d{1,6})-(\d{1,6})?")

Cells = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mask:
    """Where, and in which frames, a clip may change.

    Attributes:
        pixels: uint8 [H, W] of any size; 255 changes, 0 stays, None for the whole frame.
        first, last: pixel frames that may change, both included; `last` None for the clip's.
    """

    pixels: NDArray[np.uint8] | None
    first: int = 0
    last: int | None = None

    def cells(self, video: VideoSpec, rules: PipelineRules) -> Cells:
        """For each latent how far it may change, 0 .. 1: as far as any pixel of its. [h, w] where all frames
        may, else [T, h, w].

        Raises:
            InvalidRequest: `mask` has another aspect than the clip, or would change nothing;
                `mask_frames` lie behind the clip's.
        """
        frames, rows, columns = rules.latent_grid(video)
        cells = self._frame(video, rows, columns)
        last = video.num_frames - 1 if self.last is None else self.last
        if not self.first <= last < video.num_frames:
            raise InvalidRequest(
                "mask_frames", f"must lie in the clip's frames, 0-{video.num_frames - 1}, got {self.text}"
            )
        if self.first == 0 and last == video.num_frames - 1:
            return cells
        # Latent frame 0 is pixel frame 0, latent k the `stride` pixel frames up to k * stride.
        stride = rules.temporal_stride
        changing = slice(-(-self.first // stride), -(-last // stride) + 1)
        found = np.zeros((frames, rows, columns), np.float32)
        found[changing] = cells
        return found

    @property
    def text(self) -> str:
        """The frames, as they are asked for."""
        return f"{self.first}-{'' if self.last is None else self.last}"

    def _frame(self, video: VideoSpec, rows: int, columns: int) -> Cells:
        if self.pixels is None:
            return np.ones((rows, columns), np.float32)
        height, width = self.pixels.shape
        if abs(width * video.height - height * video.width) > ASPECT_TOLERANCE * height * video.width:
            raise InvalidRequest(
                "mask", f"must have the clip's aspect, {video.width}x{video.height}, got {width}x{height}"
            )
        cells = _most_of(_most_of(self.pixels, rows).T, columns).T
        if not cells.any():
            raise InvalidRequest("mask", "is black everywhere, so that nothing would change; white changes")
        return cells.astype(np.float32) / np.float32(255)


def cells_of(mask: Mask, request: GenerateRequest) -> Cells:
    """`Mask.cells` for the clip of a request. Raises `InvalidRequest`."""
    return mask.cells(request.video, load_rules(request.pipeline))


def mask_of(picture: object, frames: object) -> Mask | None:
    """The mask of a request's fields `mask` and `mask_frames`, None where it has neither.

    Args:
        picture: a PNG as bytes, or in base64 as text, with or without `data:image/png;base64,` before it.
        frames: text such as `16-32` or `16-`.

    Raises:
        InvalidRequest: it is none.
    """
    if picture is None and frames is None:
        return None
    first, last = (0, None) if frames is None else _frames(frames)
    pixels = None if picture is None else _pixels(_bytes(picture))
    return Mask(pixels=pixels, first=first, last=last)


def _frames(text: object) -> tuple[int, int | None]:
    found = _FRAMES.fullmatch(text) if isinstance(text, str) else None
    if found is not None:
        first, last = int(found[1]), int(found[2]) if found[2] else None
        if last is None or first <= last:
            return first, last
    raise InvalidRequest("mask_frames", f"must be FIRST-LAST or FIRST-, such as 16-32, got {shown(text)}")


def _bytes(picture: object) -> bytes:
    if isinstance(picture, bytes):
        return picture
    if not isinstance(picture, str):
        raise InvalidRequest("mask", f"must be a PNG in base64, got {shown(picture)}")
    try:
        return base64.b64decode(_DATA_URL.sub("", picture, count=1), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("mask", f"must be a PNG in base64: {error}") from error


def _pixels(data: bytes) -> NDArray[np.uint8]:
    """What is transparent stays, whatever its colour."""
    if len(data) > MOST_BYTES:
        raise InvalidRequest("mask", f"must have at most {MOST_BYTES} bytes, got {len(data)}")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            width, height = image.size
            if width * height > MOST_PIXELS:
                raise InvalidRequest("mask", f"must have at most {MOST_PIXELS} pixels, got {width}x{height}")
            if image.mode.startswith("I"):  # 16 bits, which a conversion would cut off at 255
                return (np.asarray(image) // 257).astype(np.uint8)
            shade = np.asarray(image.convert("LA"), np.uint16)
            return (shade[..., 0] * shade[..., 1] // 255).astype(np.uint8)
    except InvalidRequest:
        raise
    except Exception as error:  # a decoder of foreign bytes: its errors are of many kinds
        raise InvalidRequest("mask", f"must be a PNG: {error}") from error


def _most_of(pixels: NDArray[np.uint8], num: int) -> NDArray[np.uint8]:
    """The highest values [num, W] of the rows [H, W] under each of `num` equal parts."""
    height = len(pixels)
    parts = [pixels[i * height // num : -(-(i + 1) * height // num)] for i in range(num)]
    return np.stack([part.max(axis=0) for part in parts])
