"""`rushes calibrate`: from prompts to a file, a plan that runs on it, and who is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import SMALL, Command

from rushes.passes.calibration import read_all


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.txt"
    file.write_text("a red dog running in the park\n\n  two cats  \n", encoding="utf-8")
    return file


def test_a_file_and_a_plan_are_written_and_a_clip_is_made_with_them(
    rushes: Command, prompts: Path, tmp_path: Path
) -> None:
    ranges, plan, clip = tmp_path / "ranges.safetensors", tmp_path / "int8.json", tmp_path / "clip.mp4"
    made = rushes(
        *("calibrate", "--prompts", prompts, "--buckets", "2", *SMALL, "-o", ranges, "--plan-output", plan)
    )
    assert made.status == 0, made.err
    assert made.out.splitlines() == [str(ranges), str(plan)]
    assert [line.split(",")[0] for line in made.err.splitlines()] == [
        "rushes: clip 1 of 2",
        "rushes: clip 2 of 2",
    ]
    found, about = read_all(ranges)
    assert (about["model"], about["prompts"], about["buckets"]) == ("toy", "2", "2")
    assert {len(layer.peaks) for calibration in found.values() for layer in calibration.values()} == {2}
    content = json.loads(plan.read_text())
    assert content["model"] == "toy"
    assert content["passes"][0]["calibration"] == str(ranges)
    # The toy's FFN are token experts, which the pass does not take.
    assert content["passes"][0]["targets"] == ["qkv", "attn_out", "cross_q", "cross_out"]
    generated = rushes("generate", "a dog", "--plan", plan, *SMALL, "-o", clip)
    assert generated.status == 0, generated.err
    assert clip.stat().st_size > 0


def test_both_noise_experts_are_measured_and_another_models_file_is_refused(
    rushes: Command, two_experts: Path, one_expert: Path, prompts: Path, tmp_path: Path
) -> None:
    ranges, plan = tmp_path / "ranges.safetensors", tmp_path / "int8.json"
    size = ("--width", "32", "--height", "32", "--num-frames", "5", "--num-inference-steps", "4")
    asked = ("calibrate", "--model", two_experts, "--prompts", prompts, "-o", ranges, "--plan-output", plan)
    made = rushes(*asked, *size)
    assert made.status == 0, made.err
    found, _ = read_all(ranges)
    assert len(found) == 2
    assert json.loads(plan.read_text())["passes"][0]["targets"][0] == "ffn"
    one_step = rushes(*asked, *size[:-1], "1")
    assert one_step.status == 2
    assert "1 of 2 noise experts ran in these clips; take more steps" in one_step.err
    content = {**json.loads(plan.read_text()), "model": None}
    plan.write_text(json.dumps(content))
    other = rushes(
        "generate", "a dog", "--model", one_expert, "--plan", plan, *size, "-o", tmp_path / "x.mp4"
    )
    assert other.status == 2
    assert "made for other weights of wan2.2-t2v-a14b than this network's" in other.err
    assert "run `rushes calibrate` for this model" in other.err


def test_mistakes_are_told_before_anything_is_loaded(rushes: Command, prompts: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n \n", encoding="utf-8")
    to = ("-o", tmp_path / "x.safetensors")
    for arguments, words in (
        (("--prompts", tmp_path / "none.txt", *to), "cannot be read"),
        (("--prompts", empty, *to), "holds no prompt; write one a line"),
        (("--method", "minmax", *to), "did you mean 'min-max'"),
        (("--width", "13", *to), "nearest: 16"),
        (("-o", tmp_path / "no" / "x.safetensors"), "there is no folder"),
        (("--plan-output", tmp_path, *to), "is a folder"),
    ):
        told = rushes("calibrate", *arguments)
        assert (told.status, told.out) == (2, ""), told.err
        assert words in told.err
    assert not (tmp_path / "x.safetensors").exists()
