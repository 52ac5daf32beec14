"""A clip at a glance: a few of its frames side by side."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rushes.errors import OutputError
from rushes.stages.video_encode import check_parent, partial_path

Frames = NDArray[np.uint8]


def sheet_indices(num_frames: int, num_shown: int) -> list[int]:
    """Frame numbers spread evenly from the first to the last, `num_shown` at most.

    Example:
        >>> sheet_indices(33, 5)
        [0, 8, 16, 24, 32]
    """
    shown = min(num_frames, num_shown)
    return sorted({round(i * (num_frames - 1) / max(shown - 1, 1)) for i in range(shown)})


def check_sheet(path: Path) -> None:
    """Say before the work starts that a sheet cannot be written to `path`.

    Raises:
        OutputError: not the name of a PNG file, a folder of that name, no folder to lie in, no permission.
    """
    if path.suffix.lower() != ".png":
        raise OutputError(f"{path}: a contact sheet's name ends in .png")
    if os.path.isdir(path):
        raise OutputError(f"{path}: is a folder")
    check_parent(path)


class ContactSheet:
    """Picks its frames out of a clip as it comes, and joins them in a row.

    Args:
        num_frames: of the clip.
        num_shown: frames on the sheet.
    """

    def __init__(self, num_frames: int, num_shown: int = 6) -> None:
        self._wanted = sheet_indices(num_frames, num_shown)
        self._taken: list[Frames] = []

    def add(self, start: int, frames: Frames) -> None:
        """The next frames [n, H, W, 3], which begin at frame `start` of the clip."""
        inside = [index - start for index in self._wanted if start <= index < start + len(frames)]
        self._taken.extend(frames[index].copy() for index in inside)

    def image(self) -> Frames:
        """uint8 [H, W * shown, 3]."""
        return np.concatenate(self._taken, axis=1)

    def save(self, path: Path) -> None:
        """Write the row as a PNG file, whole or not at all. Raises `OutputError`."""
        growing = partial_path(path)
        try:
            Image.fromarray(self.image()).save(growing, format="PNG")
            growing.replace(path)
        except OSError as error:
            growing.unlink(missing_ok=True)
            raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
