"""The sweep of reused steps: forwards remembered and shared, pairs counted by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmarks.judge_clips import Bench
from benchmarks.step_reuse import (
    PLAIN,
    RememberingWan,
    Setting,
    Sweep,
    arguments,
    paired_interval,
    rows_of,
    run,
    setting_of,
)
from training.clips import ClipSource
from training.world.prompts import evaluation_prompts

from rushes.models.judge import Judge, JudgeConfig
from tiny_parts import CPU, TinyParts, tiny_model, tiny_rules

NUM_STEPS = 12


@pytest.fixture(scope="module")
def bench() -> Bench:
    parts = TinyParts()
    preset = replace(tiny_rules().preset(), num_inference_steps=NUM_STEPS)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        judge = Judge(JudgeConfig(classes=ClipSource.num_classes, widths=(8, 8, 8, 8), num_frames=5)).eval()
    return Bench(
        model=tiny_model(parts, presets={"quality": preset}),
        wan=parts.transformers["high"],
        vae=parts.vae(),
        judge=judge,
        device=CPU,
        dtype=torch.float32,
        batch=2,
    )


def test_a_loss_is_counted_in_pairs_and_its_interval_narrows_with_more_of_them() -> None:
    low, high = paired_interval(lost=6, won=2, num=48)
    assert low < 4 / 48 < high
    wide, narrow = paired_interval(0, 0, 48), paired_interval(0, 0, 512)
    assert wide[0] == -wide[1]
    assert narrow[1] < wide[1] / 5
    assert paired_interval(40, 0, 48)[0] > 0.5


def test_settings_share_forwards_and_the_plain_one_equals_the_model_alone(bench: Bench) -> None:
    gate = Setting(guidance_gate=0.75)
    reckless = Setting(step_cache=100.0, guidance_gate=0.5)
    sweep = Sweep(bench, [gate, reckless], "quality")
    prompts = evaluation_prompts(3)
    sweep.add(prompts.texts[:2], prompts.seeds[:2])
    # The gated clips go the plain ones' way until the gate closes, at step 9 of 12, and one step beyond.
    assert sweep.num_run < 2 * (2 * NUM_STEPS + 6 + NUM_STEPS)
    sweep.add(prompts.texts[2:], prompts.seeds[2:])
    rows = sweep.rows(prompts)
    assert [row["forwards"] for row in rows.values()][:2] == [[NUM_STEPS, NUM_STEPS], [NUM_STEPS, 9]]
    assert sum(rows[reckless.name]["forwards"]) < NUM_STEPS
    assert rows["plain"]["psnr_db"] is None
    assert rows["plain"]["loss"] == 0
    assert rows[gate.name]["psnr_db"] > rows[reckless.name]["psnr_db"]
    assert {row["num_clips"] for row in rows.values()} == {3}


def test_a_forward_is_remembered_by_all_that_it_depends_on(bench: Bench) -> None:
    wan = RememberingWan(bench.wan)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((2, 4, 3, 4, 8), generator=generator)
    context = bench.wan.encode_text(torch.randn((2, 6, 8), generator=generator), None)
    first = wan(latents, torch.tensor([500.0, 500.0]), context, phase=())
    torch.testing.assert_close(first, bench.wan(latents, torch.tensor([500.0, 500.0]), context))
    assert wan.num_run == 2
    again = wan(latents, torch.tensor([500.0, 400.0]), context, phase=())
    assert wan.num_run == 3
    assert torch.equal(again[0], first[0])
    assert not torch.equal(again[1], first[1])
    wan.forget()
    wan(latents[:1], torch.tensor([500.0]), rows_of(context, [0]), phase=())
    assert wan.num_run == 4


def test_the_file_is_whole_after_every_batch_and_time_ends_it(
    tmp_path: Path, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "x.json"
    args = ["--prompts", "6", "--setting", "0,0.75", "--out", str(out), "--seconds", "0"]
    assert run(arguments(args), bench) == 0
    found = json.loads(out.read_text())
    assert (found["asked_prompts"], found["rows"]["plain"]["num_clips"]) == (6, 2)
    assert list(found["rows"]) == ["plain", "cache 0, gate 0.75"]
    assert "loses" in capsys.readouterr().out


def test_a_setting_reads_as_it_is_written() -> None:
    assert setting_of("0.02,0.75") == Setting(step_cache=0.02, guidance_gate=0.75)
    assert PLAIN.name == "plain"
    with pytest.raises(SystemExit):
        arguments(["--setting", "x"])
