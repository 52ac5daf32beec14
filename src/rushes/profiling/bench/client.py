"""The client's end of a clip: it has the bytes that were sent so far, and decodes them."""

from __future__ import annotations

import io
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

import av

from rushes.errors import EngineError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Client:
    """A sink for an mp4, in this process. After each piece of the file it tries to decode the first frame
    from what it has, until that succeeds once.

    Args:
        decode: finds the first frame in the beginning of a file, None where it is not there yet.

    Attributes:
        first_frame_at: by the clock, when the first frame had been decoded; None before.
        last_byte_at: when the last piece came.
        decode_s: spent on decoding while the file came, which is no affair of whoever sends it.
    """

    def __init__(
        self,
        clock: Callable[[], float] = perf_counter,
        decode: Callable[[bytes], object | None] | None = None,
    ) -> None:
        self.first_frame_at: float | None = None
        self.last_byte_at: float | None = None
        self.decode_s = 0.0
        self._clock, self._decode = clock, decode or first_frame
        self._received = bytearray()

    def write(self, data: bytes) -> None:
        """The next piece."""
        self._received += data
        self.last_byte_at = arrived = self._clock()
        if self.first_frame_at is None:
            is_decoded = self._decode(bytes(self._received)) is not None
            now = self._clock()
            self.decode_s += now - arrived
            self.first_frame_at = now if is_decoded else None

    @property
    def num_bytes(self) -> int:
        """Received so far."""
        return len(self._received)

    def check(self, num_frames: int) -> None:
        """Decode the whole file. Raises `EngineError` unless it plays and has this many frames."""
        try:
            with av.open(io.BytesIO(self._received)) as container:
                found = sum(1 for _ in container.decode(video=0))
        except av.FFmpegError as error:
            raise EngineError(f"the clip cannot be played: {error}") from error
        if found != num_frames:
            raise EngineError(f"the clip has {found} frames, {num_frames} were asked for")


def first_frame(data: bytes) -> NDArray[np.uint8] | None:
    """The first frame of the beginning of an mp4, uint8 [H, W, 3]; None where there is none yet."""
    try:
        with av.open(io.BytesIO(data)) as container:
            frame = next(container.decode(video=0), None)
            pixels: NDArray[np.uint8] | None = None if frame is None else frame.to_ndarray(format="rgb24")
    except av.FFmpegError:
        return None
    return pixels
