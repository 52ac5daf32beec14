"""Masks of edits: from a picture to latents, and what is none."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rushes.errors import InvalidRequest
from rushes.pipelines.rules import load_rules
from rushes.server.masks import MOST_BYTES, Mask, mask_of
from rushes.types import VideoSpec

CLIP = VideoSpec(width=128, height=64, num_frames=17, fps=8)
RULES = load_rules("toy")
ROWS, COLUMNS = 8, 16


def png(pixels: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(file, "PNG", **options)
    return file.getvalue()


def box(height: int, width: int, rows: slice, columns: slice) -> np.ndarray:
    pixels = np.zeros((height, width), np.uint8)
    pixels[rows, columns] = 255
    return pixels


def cells(picture: object, frames: object = None) -> np.ndarray:
    mask = mask_of(picture, frames)
    assert mask is not None
    return mask.cells(CLIP, RULES)


def refused(picture: object, frames: object = None) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as found:
        cells(picture, frames)
    return found.value


@pytest.mark.parametrize("scale", [1, 2, 5])
@pytest.mark.parametrize("how", ["bytes", "base64", "data url"])
def test_a_mask_of_any_size_covers_the_same_latents(scale: int, how: str) -> None:
    height, width = 32 * scale, 64 * scale
    data = png(box(height, width, slice(0, height // 2), slice(0, width // 4)))
    text = base64.b64encode(data).decode()
    given = {"bytes": data, "base64": text, "data url": f"data:image/png;base64,{text}"}[how]
    wanted = np.zeros((ROWS, COLUMNS), np.float32)
    wanted[:4, :4] = 1
    assert np.array_equal(cells(given), wanted)


def test_a_latent_of_which_one_pixel_changes_changes() -> None:
    found = cells(png(box(64, 128, slice(9, 10), slice(127, 128))))
    assert np.argwhere(found).tolist() == [[1, 15]]


def test_a_mask_smaller_than_the_latents() -> None:
    found = cells(png(box(1, 2, slice(0, 1), slice(1, 2))))
    assert found[:, 8:].min() == 1
    assert found[:, :8].max() == 0


def test_grey_changes_in_part_and_what_is_transparent_stays() -> None:
    grey = np.full((64, 128), 51, np.uint8)
    assert cells(png(grey)) == pytest.approx(np.full((ROWS, COLUMNS), 0.2))
    assert cells(png(grey.astype(np.uint16) * 257)) == pytest.approx(np.full((ROWS, COLUMNS), 0.2))
    drawn = np.full((64, 128, 4), 255, np.uint8)
    drawn[:, 64:, 3] = 0
    assert cells(png(drawn)).mean() == 0.5


def test_a_range_of_frames() -> None:
    """Of 17 frames there are 5 latent ones: frame 0, and then four each."""
    white = png(np.full((64, 128), 255, np.uint8))
    for frames, changing in [
        ("5-8", [2]),
        ("4-5", [1, 2]),
        ("0-0", [0]),
        ("9-", [3, 4]),
        ("1-16", [1, 2, 3, 4]),
    ]:
        for picture in (white, None):
            found = cells(picture, frames)
            assert found.shape == (5, ROWS, COLUMNS)
            assert np.flatnonzero(found.any(axis=(1, 2))).tolist() == changing
    assert cells(white, "0-16").shape == cells(white, "0-").shape == (ROWS, COLUMNS)


def test_no_mask() -> None:
    assert mask_of(None, None) is None


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (b"", "must be a PNG"),
        (b"GIF89a", "must be a PNG"),
        (png(np.zeros((64, 128), np.uint8))[:60], "must be a PNG"),
        ("no base64!", "must be a PNG in base64"),
        (5, "must be a PNG in base64"),
        (bytes(MOST_BYTES + 1), "at most 700000 bytes"),
        (png(np.zeros((1500, 1500), np.uint8)), "at most 2100000 pixels, got 1500x1500"),
        (png(np.full((64, 64), 255, np.uint8)), "the clip's aspect, 128x64, got 64x64"),
        (png(np.zeros((64, 128), np.uint8)), "black everywhere"),
    ],
)
def test_what_is_no_mask(picture: object, says: str) -> None:
    error = refused(picture)
    assert error.field == "mask"
    assert says in error.reason


@pytest.mark.parametrize("frames", ["", "x", "5", "8-5", "-5", "0-17", "17-", 5, "0-1-2"])
def test_what_are_no_frames(frames: object) -> None:
    assert refused(None, frames).field == "mask_frames"


def test_frames_are_told_as_they_were_asked_for() -> None:
    assert Mask(pixels=None, first=3, last=None).text == "3-"
