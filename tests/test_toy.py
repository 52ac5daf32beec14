"""The shipped model: what it weighs, and that it runs through every path a user has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rushes
from rushes.config import TOY_FOLDER

ASSETS = TOY_FOLDER.parent
SMALL = {"num_inference_steps": 2, "num_frames": 9, "seed": 3}


@pytest.fixture(scope="module")
def toy() -> rushes.Model:
    return rushes.load("toy", device="cpu")


def test_everything_shipped_fits() -> None:
    files = [file for file in ASSETS.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 32_000_000
    assert max(file.stat().st_size for file in files) <= 15 * 2**20


def test_a_clip_has_its_shape_and_repeats(toy: rushes.Model) -> None:
    first, second = (toy.generate("a dog running in the park", **SMALL) for _ in range(2))
    assert first.frames.shape == (9, 128, 192, 3)
    assert np.array_equal(first.frames, second.frames)


def test_the_prompt_decides(toy: rushes.Model) -> None:
    night, snow = (
        toy.generate(f"a red car stands still {place}", **SMALL).frames.astype(float)
        for place in ("under a starry night sky", "in the snow")
    )
    assert snow.mean() > night.mean() + 40


def test_the_causal_mode_streams_frames_before_it_is_done(toy: rushes.Model) -> None:
    events = [type(event).__name__ for event in toy.stream("a cat", mode="causal", **SMALL)]
    assert events == ["Frames"] * 3 + ["Done"]


def test_the_few_step_preset_says_when_its_weights_are_missing(toy: rushes.Model) -> None:
    if (TOY_FOLDER / "few_step.safetensors").is_file():
        assert toy.generate("a cat", preset="few-step-4", num_frames=5).frames.shape[0] == 5
        return
    with pytest.raises(rushes.CheckpointError, match=r"few_step\.safetensors"):
        toy.generate("a cat", preset="few-step-4", num_frames=5)


def test_the_command_makes_a_clip_of_it(tmp_path: Path) -> None:
    output = tmp_path / "x.mp4"
    command = [sys.executable, "-m", "rushes", "generate", "a blue fish", "-o", str(output), "--json"]
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=True, timeout=120)
    made = json.loads(done.stdout)
    assert Path(made["path"]) == output
    assert made["request"]["pipeline"] == "toy"
    assert output.stat().st_size > 1000
