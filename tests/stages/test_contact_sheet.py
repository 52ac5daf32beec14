"""Contact sheets: which frames are taken, from chunks of any size, and what a failed write leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rushes.errors import OutputError
from rushes.stages.contact_sheet import ContactSheet, sheet_indices


@pytest.mark.parametrize(("num_frames", "wanted"), [(1, [0]), (3, [0, 1, 2]), (33, [0, 6, 13, 19, 26, 32])])
def test_frames_are_spread_from_first_to_last(num_frames: int, wanted: list[int]) -> None:
    assert sheet_indices(num_frames, 6) == wanted


@pytest.mark.parametrize("chunk", [1, 4, 33])
def test_frames_are_taken_from_chunks_as_they_come(tmp_path: Path, chunk: int) -> None:
    clip = np.random.default_rng().integers(0, 256, (33, 4, 6, 3), np.uint8)
    sheet = ContactSheet(33)
    for start in range(0, 33, chunk):
        sheet.add(start, clip[start : start + chunk])
    sheet.save(tmp_path / "sheet.png")
    wanted = np.concatenate([clip[i] for i in sheet_indices(33, 6)], axis=1)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "sheet.png")), wanted)


def test_a_sheet_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    sheet = ContactSheet(1)
    sheet.add(0, np.zeros((1, 2, 2, 3), np.uint8))
    with pytest.raises(OutputError, match=r"nowhere.*sheet\.png: cannot be written"):
        sheet.save(tmp_path / "nowhere" / "sheet.png")
    assert list(tmp_path.iterdir()) == []
