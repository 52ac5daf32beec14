"""The shipped model: what it weighs, and that it runs through every path a user has."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import rushes
from rushes.config import TOY_FOLDER
from rushes.stages.base import Job

ASSETS = TOY_FOLDER.parent
BATCH = (  # of other steps, scales and solvers
    {"seed": 1, "num_inference_steps": 2},
    {"seed": 2, "num_inference_steps": 3, "solver": "unipc", "guidance_high": 1.0},
    {"seed": 3, "num_inference_steps": 3, "guidance_high": 4.0},
)
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
    command += ["--mode", "causal"]
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=True, timeout=120)
    made = json.loads(done.stdout)
    assert Path(made["path"]) == output
    assert made["request"]["pipeline"] == "toy"
    assert made["request"]["mode"] == "causal"
    assert output.stat().st_size > 1000


def denoised(model: rushes.Model, jobs: list[Job]) -> list[torch.Tensor]:
    """Final latents of jobs that go through text encoder and denoiser together, as long as each has steps."""
    text, denoise, _ = model.pipeline.stages(jobs[0])
    text.run(jobs)
    left = jobs
    while left:
        denoise.run(left)
        left = [job for job in left if not denoise.done(job)]
    return [torch.cat(list(job.latents), dim=2) for job in jobs]


def test_a_batch_of_mixed_jobs_is_what_each_of_them_is_alone(toy: rushes.Model) -> None:
    def jobs() -> list[Job]:
        return [toy.job(f"{n} dogs", width=64, height=64, num_frames=5, **BATCH[n]) for n in range(3)]

    alone = [denoised(toy, [job])[0] for job in jobs()]
    for one, other in zip(alone, denoised(toy, jobs()), strict=True):
        assert float((other - one).norm() / one.norm()) <= 1e-4


def test_loading_the_toy_does_not_load_torchs_compiler() -> None:
    """It takes longer than all else: a draw of numbers on the meta device is enough to load it."""
    code = (
        "import sys, rushes; from rushes.engine.planner import planner_for; planner_for(rushes.load('toy'));"
        "print([name for name in ('torch._dynamo', 'sympy', 'transformers') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
