"""One encoder per file format: frames in, bytes out to a sink. All are built and called the same way."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import av
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from PIL import Image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]

BT709 = 1  # the value of bt.709 as matrix, primaries and transfer function in ITU-T H.273

# One fragment a flush, and each keeps its place in the clip: the muxer must not shift it to start at zero.
FRAGMENT_OPTIONS = {
    "movflags": "+frag_custom+empty_moov+default_base_moof+frag_discont",
    "avoid_negative_ts": "disabled",
}
TICKS_PER_FRAME = 1000
NUM_SLICES = 8
"""Most of a frame, each on a thread of its own (x264 makes none of fewer than 64 rows); fixed, as the bytes
depend on it. With 4 of them a 480p frame of noise took 10 ms on 16 cores, as long as an H200 decodes it."""
H264_OPTIONS = {"preset": "veryfast", "crf": "18", "tune": "zerolatency"}
VP9_OPTIONS = {"deadline": "good", "cpu-used": "4", "crf": "24", "b": "0", "row-mt": "1"}


class Sink(Protocol):
    """Anything that takes bytes in order: an open file, a socket's writer, a buffer."""

    def write(self, data: bytes, /) -> object: ...


class Encoder(Protocol):
    """Turns the frames of one clip into a file's bytes."""

    def write(self, frames: Pixels) -> None:
        """Take uint8 [n, height, width, 3], the frames that follow those already written."""

    def finish(self) -> None:
        """Write what is still held back and the format's closing bytes."""

    def close(self) -> None:
        """Give back what the codec holds, however the clip ended. One that is not finished stays so, though
        closing bytes may still reach the sink."""


class Mp4Encoder:
    """H.264 in fragmented mp4 (ISO/IEC 14496-12, 8.8): the sink has a playable file after every `write`.

    The header goes out at once, with the clip's duration if it is known, then one fragment for each call of
    `write`. The encoder holds no frame back (no look-ahead, no B-frames) and cuts each into the same
    slices everywhere, so equal frames give equal bytes anywhere.
    """

    def __init__(self, sink: Sink, *, width: int, height: int, fps: int, num_frames: int | None) -> None:
        self._sink = sink
        self._num_frames = 0
        self._num_fragments = 0
        self._options = FRAGMENT_OPTIONS | {
            "movie_timescale": str(fps),
            "video_track_timescale": str(fps * TICKS_PER_FRAME),
        }
        header = io.BytesIO()
        self._container = av.open(header, "w", format="mp4", options=self._options)
        with _closed_on_error(self._container):
            self._stream = _add_stream(self._container, "libx264", H264_OPTIONS, width, height, fps)
            self._stream.codec_context.thread_count = NUM_SLICES
            self._container.start_encoding()
            sink.write(with_duration(header.getvalue(), num_frames or 0))

    def write(self, frames: Pixels) -> None:
        packets = []
        for frame in frames:
            packets += self._stream.encode(yuv420_frame(frame, self._num_frames))
            self._num_frames += 1
        self._write_fragment(packets)

    def finish(self) -> None:
        self._write_fragment(self._stream.encode(None))

    def close(self) -> None:
        """See `Encoder`."""
        _close(self._container)

    def _write_fragment(self, packets: Sequence[av.Packet]) -> None:
        if not packets:
            return
        self._num_fragments += 1
        options = self._options | {"fragment_index": str(self._num_fragments)}
        file = io.BytesIO()
        with av.open(file, "w", format="mp4", options=options) as container:
            stream = container.add_stream_from_template(self._stream)
            for packet in packets:
                packet.stream = stream
                packet.duration = 1
                container.mux(packet)
        fragment = [box for kind, box in mp4_boxes(file.getvalue()) if kind in (b"moof", b"mdat")]
        self._sink.write(b"".join(fragment))


class WebmEncoder:
    """VP9 in WebM."""

    def __init__(self, sink: Sink, *, width: int, height: int, fps: int, num_frames: int | None) -> None:
        self._num_frames = 0
        self._container = av.open(sink, "w", format="webm")
        with _closed_on_error(self._container):
            self._stream = _add_stream(self._container, "libvpx-vp9", VP9_OPTIONS, width, height, fps)

    def write(self, frames: Pixels) -> None:
        for frame in frames:
            self._container.mux(self._stream.encode(yuv420_frame(frame, self._num_frames)))
            self._num_frames += 1

    def finish(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def close(self) -> None:
        """See `Encoder`."""
        _close(self._container)


class _AnimatedImageEncoder:
    """Base of the formats that are written at the end, from all frames, by Pillow.

    Such a file holds a whole number of ticks per frame; the remainder is spread over the frames, so that
    the clip's total duration is right to half a tick.
    """

    ticks_per_second: int
    save_options: Mapping[str, Any]

    def __init__(self, sink: Sink, *, width: int, height: int, fps: int, num_frames: int | None) -> None:
        self._sink = sink
        self._fps = fps
        self._images: list[Image.Image] = []

    def write(self, frames: Pixels) -> None:
        self._images += [self._image(frame) for frame in frames]

    def finish(self) -> None:
        first, *rest = self._images
        file = io.BytesIO()
        first.save(
            file, save_all=True, append_images=rest, duration=self._durations_ms(), **self.save_options
        )
        self._sink.write(file.getvalue())

    def close(self) -> None:
        """Let go of the frames."""
        self._images.clear()

    def _image(self, frame: Pixels) -> Image.Image:
        return Image.fromarray(frame)

    def _durations_ms(self) -> list[int]:
        ticks = [round(i * self.ticks_per_second / self._fps) for i in range(len(self._images) + 1)]
        return [(end - start) * 1000 // self.ticks_per_second for start, end in pairwise(ticks)]


class GifEncoder(_AnimatedImageEncoder):
    """Animated GIF that repeats for ever, a palette of 256 colours per frame."""

    ticks_per_second = 100
    save_options = MappingProxyType({"format": "GIF", "loop": 0, "disposal": 1})

    def _image(self, frame: Pixels) -> Image.Image:
        return Image.fromarray(frame).quantize(256)


class WebpEncoder(_AnimatedImageEncoder):
    """Animated WebP that repeats for ever."""

    ticks_per_second = 1000
    save_options = MappingProxyType({"format": "WEBP", "loop": 0, "quality": 90})


class PngFolderEncoder:
    """`frame_0000.png`, `frame_0001.png`, ... in a folder that exists."""

    def __init__(self, folder: Path, *, width: int, height: int, fps: int, num_frames: int | None) -> None:
        self._folder = folder
        self._num_frames = 0

    def write(self, frames: Pixels) -> None:
        for frame in frames:
            Image.fromarray(frame).save(self._folder / f"frame_{self._num_frames:04d}.png")
            self._num_frames += 1

    def finish(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """No codec is held."""


# Each takes (sink, width=, height=, fps=, num_frames=), the last None if it is not known before the end.
ENCODERS: Mapping[str, Callable[..., Encoder]] = MappingProxyType(
    {"mp4": Mp4Encoder, "webm": WebmEncoder, "gif": GifEncoder, "webp": WebpEncoder}
)
SUBSAMPLED = ("mp4", "webm")  # one chroma sample for two by two pixels: sizes are even


def yuv420_frame(rgb: Pixels, index: int) -> av.VideoFrame:
    """Frame `index` of a clip, uint8 [height, width, 3], as bt.709 yuv420p in limited range."""
    frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
        format="yuv420p",
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND,
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        dst_color_trc=ColorTrc.BT709,
        dst_color_primaries=ColorPrimaries.BT709,
    )
    frame.pts = index
    return frame


def mp4_boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The top-level boxes of an mp4 file as (kind, whole box), ISO/IEC 14496-12, 4.2; no 64-bit sizes."""
    offset = 0
    while offset < len(data):
        size, kind = struct.unpack_from(">I4s", data, offset)
        yield kind, data[offset : offset + size]
        offset += size


def with_duration(header: bytes, num_frames: int) -> bytes:
    """`header` with a duration of `num_frames` in place of the 0 that a muxer writes before the frames.

    A player that cannot seek has no other way to know it. In version 0 of these boxes (ISO/IEC 14496-12,
    8.2.2, 8.3.2, 8.4.2) it is the 32-bit number at the given offset from the box's name.
    """
    patched = bytearray(header)
    for kind, offset, ticks in ((b"mvhd", 20, 1), (b"tkhd", 24, 1), (b"mdhd", 20, TICKS_PER_FRAME)):
        struct.pack_into(">I", patched, patched.index(kind) + offset, num_frames * ticks)
    return bytes(patched)


def _close(container: Any) -> None:
    """Close a container, again or in the midst of a clip.

    It and its streams hold each other, so that otherwise a codec (3 MB of x264, 13 of libvpx, of the
    smallest picture) would stay until some later collection of garbage. What cannot be written to a sink
    that has failed is of no interest any more.
    """
    with suppress(Exception):
        container.close()


@contextmanager
def _closed_on_error(container: Any) -> Iterator[None]:
    """What is opened in the block is given back where it fails: a full disk is met by the header first."""
    try:
        yield
    except BaseException:
        _close(container)
        raise


def _add_stream(
    container: Any, codec: str, options: dict[str, str], width: int, height: int, fps: int
) -> Any:
    stream = container.add_stream(codec, rate=fps, options=options)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context
    context.time_base = Fraction(1, fps)
    context.gop_size = fps
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = ColorRange.MPEG
    return stream
