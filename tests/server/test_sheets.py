"""How alike two clips are by their sheets."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rushes.engine.stills import Stills
from rushes.server.sheets import likeness_db
from rushes.types import Frames


def sheet(frames: NDArray[np.uint8]) -> bytes:
    stills = Stills(len(frames), 8)
    stills.add(Frames(start=0, frames=frames))
    return stills.results()["spritesheet"]


def grey(shade: int, num: int = 9, height: int = 32, width: int = 48) -> NDArray[np.uint8]:
    return np.full((num, height, width, 3), shade, np.uint8)


def test_a_clip_is_most_like_itself() -> None:
    one = sheet(grey(100))
    assert (likeness_db(one, one, 9) or 0) > 70


@pytest.mark.parametrize("num", [1, 5, 9, 33])
def test_the_figure_is_psnr_and_the_rest_of_the_last_row_does_not_count(num: int) -> None:
    found = likeness_db(sheet(grey(100, num)), sheet(grey(151, num)), num)
    assert found == pytest.approx(20 * np.log10(255 / 51), abs=0.3)


@pytest.mark.parametrize("other", [b"", b"no picture", sheet(grey(100, width=32)), sheet(grey(100, 33))])
def test_what_cannot_be_compared(other: bytes) -> None:
    assert likeness_db(sheet(grey(100)), other, 9) is None
