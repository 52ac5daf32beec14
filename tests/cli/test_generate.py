"""From a prompt to a file, with every field, on tiny checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest
from command_line import SMALL, Command
from PIL import Image

import rushes
from rushes.cli.generate import write_clip
from rushes.errors import OutputError
from rushes.types import JobOptions


def num_frames(path: Path) -> int:
    with av.open(path) as container:
        return sum(1 for _ in container.decode(video=0))


def test_the_path_is_all_that_stdout_gets(rushes: Command, one_expert: Path, tmp_path: Path) -> None:
    path = tmp_path / "dog.mp4"
    result = rushes("generate", "a dog", "-o", path, "--model", one_expert, *SMALL)
    assert (result.status, result.out) == (0, f"{path}\n")
    assert "5 frames of 64x64 at 24 fps, seed 7; text_encode" in result.err
    assert " + " in result.err.rsplit(";", 1)[1]
    assert num_frames(path) == 5
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_one_object_with_every_field_as_asked(
    rushes: Command, two_experts: Path, tmp_path: Path
) -> None:
    video = {"width": 48, "height": 32, "num_frames": 5, "fps": 12}
    sampling = {
        "num_inference_steps": 3,
        "flow_shift": 7.5,
        "solver": "euler",
        "guidance_high": 2.0,
        "guidance_low": 1.5,
        "guidance_gate": 0.5,
        "step_cache": 0.1,
        "seed": 11,
    }
    flags = [
        text
        for name, value in {**video, **sampling}.items()
        for text in (f"--{name}".replace("_", "-"), str(value))
    ]
    path = tmp_path / "dog.webm"
    command = (
        "generate",
        "a dog",
        "-o",
        path,
        "--model",
        two_experts,
        "--negative-prompt",
        "a cat",
        "--json",
    )
    result = rushes(*command, *flags)
    assert result.err == ""
    made = json.loads(result.out)
    assert made["path"] == str(path)
    request = made["request"]
    assert (request["prompt"], request["negative_prompt"]) == ("a dog", "a cat")
    assert request["video"] == video
    assert {name: request["sampling"][name] for name in sampling} == sampling
    assert [timing["stage"] for timing in made["timings"]] == ["text_encode", "denoise", "vae_decode"]
    # With three steps nothing is reused.
    assert made["forwards"] == {"conditional": 3, "unconditional": 3}
    assert num_frames(path) == 5


def test_the_same_seed_gives_the_same_bytes(rushes: Command, one_expert: Path, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.mp4", "b.mp4", "c.mp4")]
    for path, seed in zip(paths, ("1", "1", "2"), strict=True):
        result = rushes("generate", "a dog", "-o", path, "--model", one_expert, *SMALL, "--seed", seed)
        assert result.status == 0
    first, again, other = (path.read_bytes() for path in paths)
    assert first == again
    assert first != other


def test_preview_is_an_animation_of_the_clips_size(rushes: Command, one_expert: Path, tmp_path: Path) -> None:
    path = tmp_path / "dog.gif"
    assert rushes("generate", "a dog", "-o", path, "--model", one_expert, "--preview", *SMALL).status == 0
    with Image.open(tmp_path / "dog.preview.webp") as image:
        assert (image.size, image.n_frames) == ((64, 64), 2)


def test_no_ending_makes_a_folder_of_images(rushes: Command, one_expert: Path, tmp_path: Path) -> None:
    result = rushes("generate", "a dog", "-o", tmp_path / "frames", "--model", one_expert, *SMALL)
    assert result.status == 0
    assert len(list((tmp_path / "frames").glob("frame_*.png"))) == 5


@pytest.mark.parametrize("prompt", ["🐕🌳 → 🏃", "كلب يركض في الحديقة", "chien\tet\nchat", "犬" * 2000])
def test_prompts_of_any_script(rushes: Command, one_expert: Path, tmp_path: Path, prompt: str) -> None:
    (tmp_path / "prompt.txt").write_text(prompt, encoding="utf-8")
    path = tmp_path / "dog.mp4"
    command = (
        "generate",
        "--prompt-file",
        tmp_path / "prompt.txt",
        "-o",
        path,
        "--model",
        one_expert,
        "--json",
    )
    result = rushes(*command, *SMALL)
    assert result.status == 0
    assert json.loads(result.out)["request"]["prompt"] == prompt
    assert path.exists()


def test_a_sheet_that_fails_costs_no_clip(one_expert: Path, tmp_path: Path) -> None:
    model = rushes.load(one_expert)
    size = {"width": 64, "height": 64, "num_frames": 5, "num_inference_steps": 1, "seed": 7}
    request = model.job("a dog", **size).request
    clip, seen = tmp_path / "dog.mp4", []
    with pytest.raises(OutputError, match=r"absent/x\.png"):
        write_clip(model, request, JobOptions(), clip, seen.append, tmp_path / "absent" / "x.png")
    assert num_frames(clip) == 5
    assert [progress.stage for progress in seen] == ["text_encode", "denoise", "vae_decode", "vae_decode"]
    assert list(tmp_path.iterdir()) == [clip]


def test_a_sheet_shows_every_frame_of_a_short_clip(rushes: Command, one_expert: Path, tmp_path: Path) -> None:
    flags = ["-o", tmp_path / "dog.mp4", "--sheet", tmp_path / "dog.PNG", "--model", one_expert, *SMALL]
    assert rushes("generate", "a dog", *flags).status == 0
    with Image.open(tmp_path / "dog.PNG") as image:
        assert image.size == (5 * 64, 64)
