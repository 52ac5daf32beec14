"""Video files as frames, read one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av

from rushes.errors import InvalidRequest
from rushes.profiling.quality.pixels import WINDOW_RADIUS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

MIN_SIDE = 2 * WINDOW_RADIUS + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFile:
    """An open file.

    Attributes:
        frames: uint8 [H, W, 3] each, once. Raises `InvalidRequest` where the file is damaged.
    """

    path: Path
    width: int
    height: int
    fps: Fraction
    frames: Iterator[Picture]

    @property
    def size(self) -> str:
        """For messages: "192x128"."""
        return f"{self.width}x{self.height}"


@contextmanager
def open_video(path: Path) -> Iterator[VideoFile]:
    """Open a file for reading. Raises `InvalidRequest` for one that is missing, no video, or too small."""
    with _open(path) as container:
        if not container.streams.video:
            raise InvalidRequest(str(path), "holds no video")
        stream = container.streams.video[0]
        size = stream.codec_context.width, stream.codec_context.height
        if min(size) < MIN_SIDE:
            raise InvalidRequest(
                str(path), f"is {size[0]}x{size[1]}; at least {MIN_SIDE}x{MIN_SIDE} can be compared"
            )
        fps = stream.average_rate or stream.guessed_rate
        if not fps:
            raise InvalidRequest(str(path), "does not tell its frames per second")
        yield VideoFile(
            path=path, width=size[0], height=size[1], fps=Fraction(fps), frames=_frames(path, container)
        )


def _open(path: Path) -> Any:
    try:
        return av.open(str(path))
    except (OSError, av.FFmpegError) as error:
        raise _unreadable(path, error) from error


def _frames(path: Path, container: Any) -> Iterator[Picture]:
    try:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24")
    except av.FFmpegError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> InvalidRequest:
    return InvalidRequest(str(path), f"cannot be read as a video ({error.strerror or error})")
