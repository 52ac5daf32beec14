"""`rushes compare`: two files in, figures and pictures out; no clip is held in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from rushes.errors import InvalidRequest, OutputError
from rushes.profiling.compare_video.heat_map import HeatMap
from rushes.profiling.compare_video.side_by_side import SideBySide
from rushes.profiling.compare_video.video_files import VideoFile, open_video
from rushes.profiling.quality.clips import ClipComparison, Comparison
from rushes.stages.video_encode import partial_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileComparison:
    """What was found and written.

    Attributes:
        floor: clip a against the third file, which should differ from it in nothing that matters.
        video: a, b and their difference side by side.
        heat_map: where and when they differ.
    """

    comparison: Comparison
    floor: Comparison | None
    video: Path
    heat_map: Path


def compare_files(a: Path, b: Path, output: Path, *, floor: Path | None = None) -> FileComparison:
    """Compare b with a and write `output` (a video) and the heat map beside it (the same name in .png).

    Args:
        floor: a's settings with another kernel, dtype or compile setting: what changing nothing costs.

    Raises:
        InvalidRequest: a file cannot be read, or sizes, frames per second or lengths differ.
        OutputError: the output cannot be written.
    """
    base = None if floor is None else measure_files(a, floor)
    comparison = ClipComparison()
    with open_pair(a, b) as (file_a, file_b), SideBySide(file_a, file_b, output) as row:
        heat_map = HeatMap(file_a.height, file_a.width)
        for frame_a, frame_b in frame_pairs(file_a, file_b):
            comparison.add(frame_a, frame_b)
            row.add(frame_a, frame_b, heat_map.add(frame_a, frame_b))
    found = comparison.result()
    picture = output.with_suffix(".png")
    _save(heat_map.sheet(f"{a.name} against {b.name}", found.frame_psnr_db), picture)
    return FileComparison(comparison=found, floor=base, video=output, heat_map=picture)


def measure_files(a: Path, b: Path) -> Comparison:
    """The figures alone. Raises `InvalidRequest` as `compare_files` does."""
    comparison = ClipComparison()
    with open_pair(a, b) as files:
        for pair in frame_pairs(*files):
            comparison.add(*pair)
    return comparison.result()


@contextmanager
def open_pair(a: Path, b: Path) -> Iterator[tuple[VideoFile, VideoFile]]:
    """Two files of one size and speed. Raises `InvalidRequest`."""
    with open_video(a) as file_a, open_video(b) as file_b:
        if file_a.size != file_b.size:
            raise InvalidRequest(str(b), f"is {file_b.size}, {a} is {file_a.size}: sizes must be equal")
        if file_a.fps != file_b.fps:
            rates = f"has {float(file_b.fps):g} frames a second, {a} has {float(file_a.fps):g}"
            raise InvalidRequest(str(b), f"{rates}: they must be equal")
        yield file_a, file_b


def frame_pairs(a: VideoFile, b: VideoFile) -> Iterator[tuple[Picture, Picture]]:
    """The frames of both. Raises `InvalidRequest` when one ends before the other, or there are none."""
    num = 0
    for frame_a, frame_b in zip_longest(a.frames, b.frames):
        if frame_a is None or frame_b is None:
            shorter, longer = (a, b) if frame_a is None else (b, a)
            raise InvalidRequest(
                str(shorter.path), f"has {num} frames, {longer.path} has more: lengths must be equal"
            )
        yield frame_a, frame_b
        num += 1
    if num == 0:
        raise InvalidRequest(str(a.path), "holds no frames")


def _save(picture: Picture, path: Path) -> None:
    growing = partial_path(path)
    try:
        Image.fromarray(picture).save(growing, format="PNG")
        growing.replace(path)
    except OSError as error:
        growing.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
