"""Two files beside each other: figures, a video of three panels, a heat map, and clear refusals."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from rushes.errors import InvalidRequest
from rushes.profiling.compare_video.compare import compare_files, measure_files
from rushes.profiling.compare_video.heat_map import HeatMap
from rushes.profiling.compare_video.pictures import HEAT, TICKS, heat, label_strip, legend, row_of
from rushes.stages.video_encode import save_video

HEIGHT, WIDTH, NUM_FRAMES, FPS = 48, 64, 6, 8


def clip(seed: int = 0, num_frames: int = NUM_FRAMES, width: int = WIDTH) -> np.ndarray:
    """Smooth, so that the codec changes little."""
    y, x = np.mgrid[:HEIGHT, :width]
    frames = [
        np.stack([128 + 60 * np.sin(x / 9 + t + seed), 128 + 60 * np.cos(y / 7), 0 * x + 90], 2)
        for t in range(num_frames)
    ]
    return np.stack(frames).clip(0, 255).astype(np.uint8)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A clip, and the same with a bright square in frame 4."""
    marked = clip()
    marked[4, 8:24, 40:56] = 255
    return save_video(clip(), FPS, tmp_path / "a.mp4"), save_video(marked, FPS, tmp_path / "b.mp4")


def test_a_planted_difference_is_found_where_and_when_it_is(files: tuple[Path, Path], tmp_path: Path) -> None:
    found = compare_files(*files, tmp_path / "ab.mp4")
    assert found.comparison.worst_frame == 4
    assert len(found.comparison.frame_psnr_db) == NUM_FRAMES
    assert found.comparison.frame_psnr_db[4] < 25 < 40 < found.comparison.frame_psnr_db[0]
    assert found.floor is None
    with av.open(str(found.video)) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert video.streams.video[0].average_rate == FPS
    assert len(frames) == NUM_FRAMES
    assert frames[0].shape[1] > 3 * 6 * WIDTH, "three panels, enlarged six times"
    third = [frame[26:-8, -(6 * WIDTH + 8) : -8].astype(int).sum(2) for frame in (frames[0], frames[4])]
    hot = np.argwhere(third[1] > 400)
    assert (third[0] > 400).sum() == 0
    assert hot.min(0) == pytest.approx([8 * 6, 40 * 6], abs=8)
    assert hot.max(0) == pytest.approx([24 * 6, 56 * 6], abs=8)
    assert found.heat_map == tmp_path / "ab.png"
    with Image.open(found.heat_map) as picture:
        assert picture.width > 2 * 6 * WIDTH


def test_a_clip_against_itself_is_equal(files: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = files
    found = compare_files(a, b, tmp_path / "out.webm", floor=a)
    assert found.floor.psnr_db == float("inf")
    assert found.floor.ssim == pytest.approx(1.0)
    assert found.comparison == measure_files(a, b)


def refused(a: Path, b: Path, output: Path) -> str:
    with pytest.raises(InvalidRequest) as caught:
        compare_files(a, b, output)
    assert not output.exists()
    assert not list(output.parent.glob("*partial*"))
    return str(caught.value)


def test_clips_that_cannot_be_compared(files: tuple[Path, Path], tmp_path: Path) -> None:
    a, output = files[0], tmp_path / "out.mp4"
    wide = save_video(clip(width=96), FPS, tmp_path / "wide.mp4")
    assert refused(a, wide, output) == f"{wide}: is 96x48, {a} is 64x48: sizes must be equal"
    fast = save_video(clip(), 2 * FPS, tmp_path / "fast.mp4")
    assert f"{fast}: has 16 frames a second, {a} has 8" in refused(a, fast, output)
    long = save_video(clip(num_frames=9), FPS, tmp_path / "long.mp4")
    assert refused(a, long, output) == f"{a}: has 6 frames, {long} has more: lengths must be equal"
    assert refused(long, a, output) == f"{a}: has 6 frames, {long} has more: lengths must be equal"
    tiny = save_video(clip()[:, :8, :8], FPS, tmp_path / "tiny.mp4")
    assert "is 8x8; at least 11x11 can be compared" in refused(tiny, tiny, output)


def test_files_that_cannot_be_read(files: tuple[Path, Path], tmp_path: Path) -> None:
    a, output = files[0], tmp_path / "out.mp4"
    assert "absent.mp4: cannot be read as a video (No such file" in refused(
        a, tmp_path / "absent.mp4", output
    )
    text = tmp_path / "text.mp4"
    text.write_text("not a video")
    assert "text.mp4: cannot be read as a video (Invalid data" in refused(text, a, output)
    assert "cannot be read as a video" in refused(a, tmp_path, output)
    empty = tmp_path / "empty.mp4"
    empty.touch()
    assert "empty.mp4: cannot be read as a video" in refused(empty, a, output)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(a.read_bytes()[: a.stat().st_size // 2])
    assert "cut.mp4: " in refused(a, cut, output)
    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    assert refused(sound, a, output) == f"{sound}: holds no video"


def test_the_heat_scale_is_the_root_of_the_level() -> None:
    levels = np.array([[0.0, 255.0, 255.0 / 4]])
    assert heat(levels)[0, 0].tolist() == list(HEAT[0])
    assert heat(levels)[0, 1].tolist() == list(HEAT[-1])
    middle = np.mean([HEAT[3], HEAT[4]], 0)
    assert heat(levels)[0, 2] == pytest.approx(middle, abs=2), "a quarter of the level is half-way up"
    brightness = heat(np.array([[float(tick) for tick in TICKS]])).astype(int).sum(2)[0]
    assert (np.diff(brightness) > 0).all()


def test_the_heat_map_keeps_mean_and_largest() -> None:
    heat_map = HeatMap(16, 16)
    black = np.zeros((16, 16, 3), np.uint8)
    assert heat_map.add(black, black + 8).max() == 8
    heat_map.add(black, black)
    sheet = heat_map.sheet("a against b", [30.0, float("inf")])
    shown = {tuple(colour) for colour in sheet.reshape(-1, 3).tolist()}
    mean, largest = heat(np.array([[4.0, 8.0]]))[0].tolist()
    assert {tuple(mean), tuple(largest)} <= shown


def test_panels_and_labels_fit() -> None:
    panel = np.zeros((31, 45, 3), np.uint8)
    row = row_of([("one", panel), ("a name that is much too long for its panel", panel)])
    assert (row.shape[0] % 2, row.shape[1] % 2) == (0, 0)
    assert label_strip("a name that is much too long", 45).shape == (26, 45, 3)
    assert legend(300).shape == (52, 300, 3)
