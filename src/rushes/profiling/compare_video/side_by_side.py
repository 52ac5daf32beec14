"""Two clips and their difference in one video."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from rushes.profiling.compare_video.pictures import enlarged, enlargement, heat, row_of
from rushes.profiling.compare_video.video_files import VideoFile
from rushes.profiling.quality.pixels import mean_squared_error, psnr_db
from rushes.stages.video_encode import VideoWriter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

FRAMES_AT_A_TIME = 8


class SideBySide:
    """A context manager that writes a, b and their difference as they come; no file is left after an error.

    Small clips are enlarged by a whole factor, so that pixels stay what they are.
    """

    def __init__(self, a: VideoFile, b: VideoFile, output: Path) -> None:
        self._names = a.path.name, b.path.name
        self._factor = enlargement(a.width)
        empty = np.zeros((a.height, a.width, 3), np.uint8)
        height, width, _ = self._row(empty, empty, empty).shape
        self._writer = VideoWriter(output, width=width, height=height, fps=max(1, round(a.fps)))
        self._waiting: list[Picture] = []

    def __enter__(self) -> SideBySide:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._waiting:
            self._flush()
        self._writer.__exit__(kind, error, trace)

    def add(self, a: Picture, b: Picture, difference: NDArray[np.float64]) -> None:
        """The next frame of both and their difference, [H, W] in grey levels."""
        self._waiting.append(self._row(a, b, heat(difference)))
        if len(self._waiting) == FRAMES_AT_A_TIME:
            self._flush()

    def _row(self, a: Picture, b: Picture, warmth: Picture) -> Picture:
        psnr = psnr_db(mean_squared_error(a, b))
        labels = (f"a: {self._names[0]}", f"b: {self._names[1]}", f"difference, {psnr:.1f} dB")
        panels = [enlarged(panel, self._factor) for panel in (a, b, warmth)]
        return row_of(list(zip(labels, panels, strict=True)))

    def _flush(self) -> None:
        self._writer.write(np.stack(self._waiting))
        self._waiting.clear()
