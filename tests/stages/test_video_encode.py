"""Files are right, play while they grow, and never stand half-written under their final name."""

from __future__ import annotations

import ctypes
import errno
import gc
import io
import json
import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from rushes.errors import InvalidRequest, OutputError
from rushes.stages.video_encode import FORMATS, VideoWriter, check_output, format_of, save_video
from rushes.stages.video_formats import ENCODERS, Sink, mp4_boxes, yuv420_frame

WIDTH, HEIGHT = 48, 32
NAMES = ("clip.mp4", "clip.webm", "clip.gif", "clip.webp", "clip.png-folder", "clip")

# CI installs ffmpeg, so there the test runs and fails if it is missing.
needs_ffprobe = pytest.mark.skipif(
    shutil.which("ffprobe") is None and not os.environ.get("CI"), reason="ffprobe (ffmpeg) is not installed"
)


def noise(num_frames: int, seed: int = 0) -> NDArray[np.uint8]:
    shape = (num_frames, HEIGHT, WIDTH, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def ffprobe(path: Path) -> dict[str, str]:
    """The first stream's properties, `nb_read_frames` counted by decoding all of them."""
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_streams", "-of", "json", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    stream: dict[str, str] = json.loads(result.stdout)["streams"][0]
    return stream


def decode(path: Path) -> list[av.VideoFrame]:
    with av.open(path) as container:
        return list(container.decode(video=0))


def fail_while_writing(path: Path, error: type[BaseException]) -> None:
    with VideoWriter(path, width=WIDTH, height=HEIGHT, fps=16) as writer:
        writer.write(noise(2))
        raise error


def write_to_sink(sink: Sink, format: str) -> None:
    with VideoWriter(sink, width=WIDTH, height=HEIGHT, fps=16, format=format) as writer:
        writer.write(noise(2))


class HeapInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc's malloc.h, in bytes."""

    _fields_ = (
        ("before", 4 * ctypes.c_size_t),
        ("mapped", ctypes.c_size_t),
        ("between", 2 * ctypes.c_size_t),
    )
    _fields_ += (("in_use", ctypes.c_size_t), ("after", 2 * ctypes.c_size_t))


def heap_in_use_mb() -> float:
    """What the C library has given out."""
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = HeapInfo
    info = mallinfo()
    return (info.mapped + info.in_use) / 1e6


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 8 KiB, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@needs_ffprobe
@pytest.mark.parametrize(("fps", "num_frames"), [(16, 33), (24, 5), (30, 1)])
def test_mp4_says_exactly_what_it_is(tmp_path: Path, fps: int, num_frames: int) -> None:
    stream = ffprobe(save_video(noise(num_frames), fps, tmp_path / "clip.mp4"))
    expected = {
        "codec_name": "h264",
        "pix_fmt": "yuv420p",
        "color_space": "bt709",
        "color_primaries": "bt709",
        "color_transfer": "bt709",
        "color_range": "tv",
        "width": WIDTH,
        "height": HEIGHT,
        "r_frame_rate": f"{fps}/1",
        "avg_frame_rate": f"{fps}/1",
        "nb_read_frames": str(num_frames),
        "has_b_frames": 0,
    }
    assert {name: stream[name] for name in expected} == expected
    assert float(stream["duration"]) == pytest.approx(num_frames / fps, abs=1e-6)


@needs_ffprobe
def test_mp4_is_readable_while_the_writer_is_held(tmp_path: Path) -> None:
    final = tmp_path / "clip.mp4"
    partial = tmp_path / "clip.partial.mp4"
    with VideoWriter(final, width=WIDTH, height=HEIGHT, fps=16) as writer:
        writer.write(noise(1))
        assert ffprobe(partial)["nb_read_frames"] == "1"
        writer.write(noise(4))
        assert ffprobe(partial)["nb_read_frames"] == "5"
        assert not final.exists()
    assert ffprobe(final)["nb_read_frames"] == "5"
    assert not partial.exists()


def test_mp4_has_one_fragment_per_write_and_frames_in_order() -> None:
    sink = io.BytesIO()
    with VideoWriter(sink, width=WIDTH, height=HEIGHT, fps=16, format="mp4") as writer:
        assert [kind for kind, _ in mp4_boxes(sink.getvalue())] == [b"ftyp", b"moov"]
        for num_frames in (1, 4, 4):
            writer.write(noise(num_frames))
    kinds = [kind for kind, _ in mp4_boxes(sink.getvalue())]
    assert kinds == [b"ftyp", b"moov", *[b"moof", b"mdat"] * 3]
    sink.seek(0)
    with av.open(sink) as container:
        seconds = [frame.time for frame in container.decode(video=0)]
    assert seconds == [index / 16 for index in range(9)]


@needs_ffprobe
def test_mp4_header_alone_tells_the_duration(tmp_path: Path) -> None:
    """A pipe cannot seek, like a browser whose server does not answer range requests."""
    clip = save_video(noise(33), 24, tmp_path / "clip.mp4").read_bytes()
    header = b"".join(box for kind, box in mp4_boxes(clip) if kind in (b"ftyp", b"moov"))
    command = ["ffprobe", "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", "-"]
    result = subprocess.run(command, input=header + clip[len(header) :][:1], capture_output=True, check=True)
    assert float(result.stdout) == 33 / 24


def test_equal_frames_give_equal_bytes_in_a_file_and_a_sink(tmp_path: Path) -> None:
    sink = io.BytesIO()
    size = {"width": WIDTH, "height": HEIGHT, "fps": 16, "num_frames": 5}
    with VideoWriter(sink, **size, format="mp4") as writer:
        writer.write(noise(5))
    assert save_video(noise(5), 16, tmp_path / "clip.mp4").read_bytes() == sink.getvalue()


@pytest.mark.parametrize("name", ["clip.mp4", "clip.webm"])
@pytest.mark.parametrize("rgb", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (90, 160, 40)])
def test_colours_follow_bt709(tmp_path: Path, name: str, rgb: tuple[int, int, int]) -> None:
    """ITU-R BT.709-6, 3.2 to 3.4, 8 bits: the three planes of a plain colour, within two levels."""
    red, green, blue = (value / 255 for value in rgb)
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    expected = [16 + 219 * luma, 128 + 224 * (blue - luma) / 1.8556, 128 + 224 * (red - luma) / 1.5748]
    frames = np.tile(np.array(rgb, np.uint8), (3, HEIGHT, WIDTH, 1))
    frame = decode(save_video(frames, 16, tmp_path / name))[1]
    assert (frame.format.name, int(frame.colorspace), int(frame.color_range)) == ("yuv420p", 1, 1)
    planes = frame.to_ndarray().reshape(-1)
    sizes = [WIDTH * HEIGHT, WIDTH * HEIGHT // 4, WIDTH * HEIGHT // 4]
    means = [plane.mean() for plane in np.split(planes, np.cumsum(sizes)[:2])]
    assert means == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp"])
@pytest.mark.parametrize("num_frames", [2, 9])
def test_animated_images_keep_size_frames_and_duration(tmp_path: Path, name: str, num_frames: int) -> None:
    with Image.open(save_video(noise(num_frames), 16, tmp_path / name)) as image:
        assert (image.size, image.n_frames) == ((WIDTH, HEIGHT), num_frames)
        durations = []
        for index in range(num_frames):
            image.seek(index)
            image.load()
            durations.append(image.info["duration"])
    assert sum(durations) == pytest.approx(num_frames / 16 * 1000, abs=5)


@pytest.mark.parametrize("name", NAMES[:4])
def test_one_frame_is_a_file_too(tmp_path: Path, name: str) -> None:
    assert len(decode(save_video(noise(1), 16, tmp_path / name))) == 1


def test_webm_is_vp9_with_every_frame(tmp_path: Path) -> None:
    path = save_video(noise(9), 16, tmp_path / "clip.webm")
    with av.open(path) as container:
        assert container.streams.video[0].codec_context.name in ("vp9", "libvpx-vp9")
    assert len(decode(path)) == 9


@pytest.mark.parametrize("name", ["clip", "clip.png-folder"])
def test_png_folder_is_lossless_and_in_order(tmp_path: Path, name: str) -> None:
    frames = noise(3)
    files = sorted(save_video(frames, 16, tmp_path / name).iterdir())
    assert [file.name for file in files] == ["frame_0000.png", "frame_0001.png", "frame_0002.png"]
    assert np.array_equal(np.stack([np.asarray(Image.open(file)) for file in files]), frames)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_leaves_nothing_behind(tmp_path: Path, name: str, error: type[BaseException]) -> None:
    with pytest.raises(error):
        fail_while_writing(tmp_path / name, error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library is not glibc")
@pytest.mark.parametrize("format", ["mp4", "webm"])
def test_a_clip_that_was_given_up_keeps_no_codec(tmp_path: Path, format: str) -> None:
    def give_up_ten() -> float:
        for _ in range(10):
            with suppress(ValueError):
                fail_while_writing(tmp_path / f"clip.{format}", ValueError)
        return heap_in_use_mb()

    gc.disable()  # a worker has so many objects that its oldest ones are seldom looked through
    try:
        before = give_up_ten()
        assert give_up_ten() - before < 5  # one codec takes 3 MB or more
    finally:
        gc.enable()


class FullDisk:
    """A sink that takes nothing."""

    def write(self, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library is not glibc")
@pytest.mark.parametrize("format", ["mp4", "webm"])
def test_a_sink_that_takes_nothing_keeps_no_codec(format: str) -> None:
    def fail_ten() -> float:
        for _ in range(10):
            with pytest.raises(OutputError):
                write_to_sink(FullDisk(), format)
        return heap_in_use_mb()

    gc.disable()
    try:
        before = fail_ten()
        assert fail_ten() - before < 5
    finally:
        gc.enable()


def test_a_sink_that_fails_while_it_is_closed_does_not_hide_why() -> None:
    class Away(io.BytesIO):
        is_away = False

        def write(self, data: bytes) -> int:  # type: ignore[override]
            if self.is_away:
                raise ValueError("the bucket is away")
            return super().write(data)

    def interrupt(sink: Away) -> None:
        with VideoWriter(sink, width=WIDTH, height=HEIGHT, fps=16, format="webm") as writer:
            writer.write(noise(2))
            sink.is_away = True
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt(Away())


def test_a_folder_that_was_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "clip.partial").mkdir()
    (tmp_path / "clip.partial" / "frame_0000.png").touch()
    with pytest.raises(OutputError, match=r"clip\.partial: File exists"):
        save_video(noise(1), 16, tmp_path / "clip")
    assert (tmp_path / "clip.partial" / "frame_0000.png").exists()


@pytest.mark.parametrize("name", NAMES[:3])
def test_a_second_writer_is_refused_and_the_first_one_ends_well(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    second = VideoWriter(path, width=WIDTH, height=HEIGHT, fps=16)
    with VideoWriter(path, width=WIDTH, height=HEIGHT, fps=16) as first:
        first.write(noise(2))
        with (
            pytest.raises(OutputError, match=rf"clip\.partial\{path.suffix}: another run is writing it"),
            second,
        ):
            pass
        first.write(noise(3))
    assert len(decode(path)) == 5
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_dead_run_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "clip.partial.mp4").write_bytes(bytes(100_000))
    path = save_video(noise(2), 16, tmp_path / "clip.mp4")
    assert path.stat().st_size < 100_000
    assert len(decode(path)) == 2
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_earlier_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"earlier")
    with pytest.raises(KeyboardInterrupt):
        fail_while_writing(path, KeyboardInterrupt)
    assert path.read_bytes() == b"earlier"
    save_video(noise(1), 16, path)
    assert len(decode(path)) == 1


@pytest.mark.parametrize("name", NAMES[:4])
@pytest.mark.usefixtures("small_files")
def test_a_file_that_cannot_grow_is_one_line_and_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=rf"{name}: File too large"):
        save_video(noise(33), 16, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ENCODERS)
def test_a_full_disk_is_one_line(format: str) -> None:
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(OutputError) as caught:
        write_to_sink(full, format)
    assert str(caught.value) == f"{format}: No space left on device"


def test_unwritable_targets_are_named_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "letter.txt").touch()
    (tmp_path / "folder.mp4").mkdir()
    refused = {
        tmp_path
        / "clip.png": r"unknown format 'png'; choose from .*, or no ending for a folder of PNG files",
        tmp_path / "clip.mp5": r"unknown format 'mp5' \(did you mean 'mp4'\?\); choose from \.mp4, \.webm",
        tmp_path / "absent" / "clip.mp4": "there is no folder",
        tmp_path / "folder.mp4": "is a folder",
        Path(): "not the name of a file",
        tmp_path / "kept": "exists and is not an empty folder",
    }
    for path, message in refused.items():
        with pytest.raises(OutputError, match=message):
            check_output(path)


def test_what_cannot_be_encoded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="mp4 needs an even width and height, got 47x32"):
        VideoWriter(tmp_path / "clip.mp4", width=47, height=32, fps=16)
    with pytest.raises(OutputError, match="a sink takes one of mp4, webm, gif, webp, got None"):
        VideoWriter(io.BytesIO(), width=WIDTH, height=HEIGHT, fps=16)
    writer = VideoWriter(tmp_path / "clip.mp4", width=WIDTH, height=HEIGHT, fps=16)
    with pytest.raises(InvalidRequest, match=r"expected uint8 \[n, 32, 48, 3\], got float64"), writer:
        writer.write(np.zeros((1, HEIGHT, WIDTH, 3)))


@pytest.mark.parametrize(("announced", "expected"), [(5, "5"), (None, "at least 1")])
def test_a_wrong_number_of_frames_is_no_file(tmp_path: Path, announced: int | None, expected: str) -> None:
    writer = VideoWriter(tmp_path / "clip.mp4", width=WIDTH, height=HEIGHT, fps=16, num_frames=announced)
    with pytest.raises(OutputError, match=f"expected {expected} frames, got 0"), writer:
        pass
    assert list(tmp_path.iterdir()) == []


def test_every_format_has_an_ending() -> None:
    assert [format_of(f"clip.{name}") for name in FORMATS] == list(FORMATS)
    assert format_of("clip") == "png-folder"
    assert format_of("CLIP.MP4") == "mp4"


def test_a_reformatter_that_is_used_again_gives_the_same_pictures():
    random = np.random.default_rng(5)
    shared = VideoReformatter()
    for index in range(3):
        picture = random.integers(0, 256, (48, 80, 3), dtype=np.uint8)
        ours, fresh = yuv420_frame(picture, index, shared), yuv420_frame(picture, index, VideoReformatter())
        assert np.array_equal(ours.to_ndarray(), fresh.to_ndarray()), "planes without what pads their lines"
        assert (ours.pts, ours.color_range, ours.colorspace) == (index, fresh.color_range, fresh.colorspace)
