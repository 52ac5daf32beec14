"""Write a clip to a file, frames as they come: nothing incomplete ever stands under the final name."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import av

from rushes.errors import InvalidRequest, OutputError, did_you_mean
from rushes.stages.video_formats import ENCODERS, SUBSAMPLED, Encoder, PngFolderEncoder, Sink
from rushes.trace import span

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PNG_FOLDER = "png-folder"
FORMATS = (*ENCODERS, PNG_FOLDER)


def save_video(frames: NDArray[np.uint8], fps: int, path: str | Path) -> Path:
    """Write a whole clip, uint8 [T, height, width, 3], in the format that the name's ending says.

    Raises:
        OutputError: unknown ending, odd size in a video format, or the file cannot be written.

    Example:
        >>> import numpy as np, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> save_video(np.zeros((5, 16, 16, 3), np.uint8), 16, f"{folder}/black.mp4").name
        'black.mp4'
    """
    height, width = frames.shape[1:3]
    with VideoWriter(path, width=width, height=height, fps=fps, num_frames=len(frames)) as writer:
        writer.write(frames)
    return Path(path)


def format_of(path: str | Path) -> str:
    """The format that a file name asks for: its ending, or a folder of PNG files if it has none.

    Raises:
        OutputError: no such format.
    """
    ending = Path(path).suffix.removeprefix(".").lower() or PNG_FOLDER
    if ending not in FORMATS:
        choices = ", ".join(f".{name}" for name in ENCODERS)
        raise OutputError(
            f"{path}: unknown format {ending!r}{did_you_mean(ending, ENCODERS)}; choose from {choices},"
            " or no ending for a folder of PNG files"
        )
    return ending


def partial_path(path: Path) -> Path:
    """Where a clip grows until it is complete: `x.mp4` is written as `x.partial.mp4` beside it."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


def check_output(path: str | Path) -> None:
    """Say before the work starts that a clip cannot be written to `path`.

    Raises:
        OutputError: unknown format, missing folder, no permission, or something else stands there.
    """
    path = Path(path)
    if not path.name:
        raise OutputError(f"{path}: not the name of a file")
    if format_of(path) != PNG_FOLDER:
        if os.path.isdir(path):
            raise OutputError(f"{path}: is a folder")
    elif os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path)):
        raise OutputError(f"{path}: exists and is not an empty folder")
    check_parent(path)


def check_parent(path: Path) -> None:
    """Raises `OutputError` unless the folder that `path` shall lie in exists and can be written to."""
    if not os.path.isdir(path.parent):
        raise OutputError(f"{path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"{path}: no permission to write to {path.parent}")


class VideoWriter:
    """A context manager that encodes frames to a file or a sink.

    A file grows as `x.partial.mp4` beside its final name and is renamed when the block ends; on any error,
    Ctrl-C included, it is removed. mp4 is fragmented: each `write` ends with a flushed fragment, and the
    file plays while it grows. gif and webp are written when the block ends. Two writers of one path at a time
    do not get in each other's way: the later one is refused.

    Args:
        target: a path, or an object with `write(bytes)`, for which `format` is required.
        width: in pixels, even for mp4 and webm.
        height: the same.
        fps: frames per second.
        num_frames: how many will be written, if that is known: the mp4's header then tells the duration.
        format: one of `FORMATS`; by default what the path's ending says.

    Raises:
        OutputError: the format does not exist or does not fit, the target cannot be written or is written
            by another run, or the number of frames is not the one announced.
    """

    def __init__(
        self,
        target: str | Path | Sink,
        *,
        width: int,
        height: int,
        fps: int,
        num_frames: int | None = None,
        format: str | None = None,
    ) -> None:
        self._target = Path(target) if isinstance(target, str) else target
        self._size: dict[str, Any] = {"width": width, "height": height, "fps": fps, "num_frames": num_frames}
        self._num_frames = num_frames
        self._frames_written = 0
        self._frame_shape = (height, width, 3)
        self._file: BinaryIO | None = None
        if isinstance(self._target, Path):
            check_output(self._target)
            self._format = format or format_of(self._target)
        elif format is not None and format in ENCODERS:
            self._format = format
        else:
            raise OutputError(f"a sink takes one of {', '.join(ENCODERS)}, got {format}")
        if self._format in SUBSAMPLED and (width % 2 or height % 2):
            raise OutputError(f"{self._format} needs an even width and height, got {width}x{height}")

    def __enter__(self) -> VideoWriter:
        with span("video_encode", is_edge=True), self._output_errors(), ExitStack() as stack:
            self._encoder = self._open(stack)
            stack.callback(self._encoder.close)
            self._stack = stack.pop_all()
        return self

    def write(self, frames: NDArray[np.uint8]) -> None:
        """Append frames, uint8 [n, height, width, 3], and flush what the format can show already."""
        if frames.dtype != "uint8" or frames.shape[1:] != self._frame_shape:
            expected = ", ".join(str(size) for size in self._frame_shape)
            raise InvalidRequest(
                "frames", f"expected uint8 [n, {expected}], got {frames.dtype} {list(frames.shape)}"
            )
        with span("video_encode", frames=len(frames)), self._output_errors():
            self._encoder.write(frames)
            if self._file is not None:
                self._file.flush()
        self._frames_written += len(frames)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with span("video_encode", is_edge=True), self._output_errors():
            if kind is not None:
                self._stack.__exit__(kind, error, trace)
                return
            with self._stack:
                self._check_count()
                self._encoder.finish()

    def _check_count(self) -> None:
        expected = self._num_frames or self._frames_written or "at least 1"
        if self._frames_written != expected:
            raise OutputError(f"expected {expected} frames, got {self._frames_written}")

    def _open(self, stack: ExitStack) -> Encoder:
        if not isinstance(self._target, Path):
            return ENCODERS[self._format](self._target, **self._size)
        if self._format == PNG_FOLDER:
            return PngFolderEncoder(stack.enter_context(_growing_folder(self._target)), **self._size)
        self._file = stack.enter_context(growing_file(self._target))
        return ENCODERS[self._format](self._file, **self._size)

    @contextmanager
    def _output_errors(self) -> Iterator[None]:
        """The border at which the errors of files and codecs become ours."""
        try:
            yield
        except (OSError, av.FFmpegError) as error:
            name = self._target if isinstance(self._target, Path) else self._format
            raise OutputError(f"{error.filename or name}: {error.strerror or error}") from error


@contextmanager
def growing_file(path: Path) -> Iterator[BinaryIO]:
    """An empty file beside `path` (`partial_path`), renamed to it when the block ends well, else removed.

    It is locked all the while: what a run that died has left is written over, what another run holds is not.

    Raises:
        OutputError: another run is writing it.
    """
    partial = partial_path(path)
    with open(partial, "wb", opener=_open_untouched) as file:
        _lock(file, partial)
        try:
            file.truncate()
            yield file
            file.flush()
            # Renamed while the lock is held: nobody can take the file over in between.
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _open_untouched(path: str, flags: int) -> int:
    """Open without emptying a file that may be another run's."""
    return os.open(path, flags & ~os.O_TRUNC, 0o666)


def _lock(file: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # A run that has just ended may have renamed or removed the file that was opened.
        is_ours = os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        is_ours = False
    if not is_ours:
        raise OutputError(f"{path}: another run is writing it")


@contextmanager
def _growing_folder(path: Path) -> Iterator[Path]:
    """The same for a folder."""
    partial = partial_path(path)
    partial.mkdir()
    try:
        yield partial
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
