"""`rushes bench` and `rushes compare` as commands: what they print, write and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Command

from rushes.stages.video_encode import save_video

TINY = ("--width", "32", "--height", "32", "--num-frames", "5", "--num-inference-steps", "2")


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    frames = np.random.default_rng(0).integers(100, 120, (2, 4, 32, 48, 3)).astype(np.uint8)
    return [save_video(frames[i], 8, tmp_path / name) for i, name in enumerate(("a.mp4", "b.mp4"))]


def test_the_mix_of_a_workload(rushes: Command) -> None:
    result = rushes("bench", "--workload", "templated-ads", "--part", "mix")
    assert result.status == 0
    assert "exact       900        45.0 %" in result.out
    assert (
        "at most 45.0 % can hit as exact repeats, 70.0 % as the same meaning, 85.0 % with edits" in result.out
    )


def test_a_bench_prints_tables_and_writes_everything(
    rushes: Command, two_experts: Path, tmp_path: Path
) -> None:
    output = tmp_path / "bench.json"
    parts = ("--part", "alone", "--part", "load", "--clips", "1", "--requests", "2", "--rate", "20")
    result = rushes("bench", "--model", two_experts, *TINY, *parts, "-o", output)
    assert result.status == 0, result.err
    for text in ("commit ", "first frame decoded", "end to end", "  vae_decode", "p95", "2 completed in"):
        assert text in result.out
    assert result.out.splitlines()[-1] == str(output)
    assert "rushes: clip 1 of 1: " in result.err
    found = json.loads(output.read_text())
    assert found["about"]["versions"]["torch"]
    assert found["workload"] == "interactive"
    assert found["request"]["sampling"]["num_inference_steps"] == 2
    assert found["alone"]["clips"][0]["first_preview_s"] > 0
    assert len(found["load"]["answers"]) == 2


BAD = {
    "workload": (["bench", "--workload", "interactve"], "did you mean 'interactive'?"),
    "peer": (["bench", "--peer", "difusers"], "did you mean 'diffusers'?"),
    "the toy's peer": (
        ["bench", "--peer", "diffusers"],
        "peer diffusers: toy: transformer/config.json has keys",
    ),
    "part": (["bench", "--part", "warm"], "'warm' is not one of"),
    "field": (["bench", "--num-frames", "80"], "num_frames: must be 4n+1"),
    "model": (["bench", "--model", "toyy"], "did you mean 'toy'?"),
    "rate": (["bench", "--rate", "0"], "0 is not in the range"),
    "output": (["bench", "-o", "absent/bench.json"], "there is no folder absent"),
    "no clip": (["compare", "absent.mp4", "b.mp4"], "absent.mp4: cannot be read as a video"),
    "comparison's ending": (["compare", "a.mp4", "b.mp4", "-o", "x.gif"], "x.gif: name it .mp4 or .webm"),
    "comparison's folder": (["compare", "a.mp4", "b.mp4", "-o", "absent/x.mp4"], "there is no folder absent"),
    "onto itself": (["compare", "a.mp4", "b.mp4", "-o", "a.mp4"], "is one of the clips to be compared"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_a_mistake_is_one_line_and_status_2(
    rushes: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = rushes(*arguments)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("rushes: error: ")
    assert result.err.count("\n") == 1
    assert message in result.err
    assert list(tmp_path.iterdir()) == []


def test_a_comparison_prints_figures_and_paths(rushes: Command, clips: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "ab.mp4"
    result = rushes("compare", *clips, "-o", output, "--floor", clips[0])
    assert result.status == 0, result.err
    assert result.out.splitlines()[-2:] == [str(output), str(output.with_suffix(".png"))]
    figures = {line.split("  ")[0].strip(): line for line in result.out.splitlines() if "  " in line}
    assert " dB " in figures["PSNR"]
    assert figures["PSNR"].rstrip().endswith("equal")
    assert {"SSIM", "FLIP", "motion, px a frame", "flicker, grey levels"} <= set(figures)


def test_a_comparison_as_json(rushes: Command, clips: list[Path], tmp_path: Path) -> None:
    result = rushes("compare", clips[0], clips[0], "-o", tmp_path / "aa.mp4", "--json")
    found = json.loads(result.out)
    assert found["comparison"]["psnr_db"] is None
    assert found["comparison"]["ssim"] == pytest.approx(1.0)
    assert found["floor"] is None
    assert Path(found["heat_map"]).is_file()


def test_unequal_clips_are_one_line_and_status_2(rushes: Command, clips: list[Path], tmp_path: Path) -> None:
    longer = save_video(np.zeros((9, 32, 48, 3), np.uint8), 8, tmp_path / "longer.mp4")
    result = rushes("compare", clips[0], longer, "-o", tmp_path / "out.mp4")
    assert (result.status, result.out) == (2, "")
    assert result.err == (
        f"rushes: error: {clips[0]}: has 4 frames, {longer} has more: lengths must be equal\n"
    )
    assert not list(tmp_path.glob("out*"))
