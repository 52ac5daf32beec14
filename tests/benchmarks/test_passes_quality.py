"""The quality table of the passes: its figures by hand, its variants, its verdicts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.judge_clips import Bench
from benchmarks.judge_report import ATTRIBUTES
from benchmarks.passes_quality import FLOOR, Clips, Table, figures, line, make, variants, verdict
from training.clips import ClipSource
from training.world.prompts import evaluation_prompts

from rushes.models.judge import Judge, JudgeConfig
from rushes.passes.presets import reuse_of
from tiny_parts import CPU, TinyParts, tiny_model


@pytest.fixture(scope="module")
def bench() -> Bench:
    parts = TinyParts()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = Judge(JudgeConfig(classes=ClipSource.num_classes, widths=(8, 8, 8, 8), num_frames=5)).eval()
    return Bench(
        model=tiny_model(parts),
        wan=parts.transformers["high"],
        vae=parts.vae(),
        judge=judge,
        device=CPU,
        dtype=torch.float32,
        batch=2,
    )


def clips(value: int, num: int = 3) -> Clips:
    generator = np.random.default_rng(0)
    return Clips(
        frames=torch.full((num, 9, 16, 16, 3), value, dtype=torch.uint8),
        read={name: torch.zeros(num, dtype=torch.int64) for name in ATTRIBUTES},
        features=generator.standard_normal((num, 4)),
        seconds=1.0,
    )


ASKED = {name: torch.tensor([0, 0, 1]) for name in ATTRIBUTES}


def test_equal_clips_are_equal_and_two_levels_are_their_psnr(bench: Bench) -> None:
    same = figures(bench, clips(100), clips(100), ASKED)
    assert (same["psnr_db"], same["ssim"], same["right"], same["num_clips"]) == (None, 1.0, 2, 3)
    other = figures(bench, clips(100), clips(102), ASKED)
    assert other["psnr_db"] == pytest.approx(20 * np.log10(255 / 2), abs=0.01)
    assert other["adherence"]["all"] == pytest.approx(2 / 3)
    one = figures(bench, clips(100, 1), clips(100, 1), {name: each[:1] for name, each in ASKED.items()})
    assert one["frechet"] is None
    json.dumps([same, other, one], allow_nan=False)


def test_clips_of_a_variant_are_made_judged_and_described(bench: Bench) -> None:
    prompts = evaluation_prompts(3)
    plain = make(bench, prompts, {}, is_floor=False)
    floor = make(bench, prompts, {}, is_floor=True)
    assert plain.frames.shape == (3, 5, 8, 16, 3)
    assert plain.features.shape[0] == 3
    assert set(plain.read) >= set(ATTRIBUTES)
    difference = (plain.frames.int() - floor.frames.int()).abs().max()
    assert difference <= 1  # another kernel rounds otherwise, and changes nothing else


def test_every_pass_and_every_preset_is_a_row_or_has_a_reason() -> None:
    from rushes.passes.base import PASSES

    found, refused = variants(CPU)
    names = [variant.name for variant in found]
    assert names[:2] == ["plain", FLOOR]
    assert {"plan exact", "plan fast", "plan turbo", "reuse of steps"} <= set(names)
    assert set(PASSES.names()) <= set(names) | set(refused)
    assert all(refused.values())
    fast = next(variant for variant in found if variant.name == "plan fast")
    assert fast.fields == reuse_of("toy")
    assert fast.fields["step_cache"] > 0


def test_exact_is_held_to_the_floor_and_fast_to_two_points() -> None:
    row = {"psnr_db": 40.0, "adherence": {"all": 0.80}}
    plain = {"psnr_db": None, "adherence": {"all": 0.82}}
    assert verdict("plan exact", row, plain, {"psnr_db": 42.0}) == "met"
    assert verdict("plan exact", row, plain, {"psnr_db": 44.0}) == "short"
    assert verdict("plan exact", {**row, "psnr_db": 50.0}, plain, {"psnr_db": None}) == "met"
    assert verdict("plan exact", {**row, "psnr_db": 5.0}, plain, {}) == "", "nothing to hold it against"
    assert verdict("plan fast", {**row, "adherence": {"all": 0.8001}}, plain, row) == "met"
    assert verdict("plan fast", {**row, "adherence": {"all": 0.79}}, plain, row) == "short"
    assert verdict("fp8-linears", row, plain, row) == ""


def test_the_file_is_whole_after_every_row(
    tmp_path: Path, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Table(tmp_path / "deep" / "x.json", {"prompts": 3})
    row = {**figures(bench, clips(1), replace(clips(1), seconds=2.0), ASKED), "verdict": "met"}
    table.add("plan exact", row)
    table.add("fp8-linears", {"refused": "needs a GPU"})
    assert list(json.loads((tmp_path / "deep" / "x.json").read_text())["rows"]) == [
        "plan exact",
        "fp8-linears",
    ]
    shown = capsys.readouterr().out
    assert "66.7 % right, PSNR equal" in shown
    assert line("fp8-linears", {"refused": "needs a GPU"}) in shown
