"""The judge's table: its arithmetic by hand, its batches against the library, its verdict on a sample."""

import json
from dataclasses import replace

import pytest
import torch
from benchmarks.judge import outliers
from benchmarks.judge_clips import Bench
from benchmarks.judge_report import (
    ATTRIBUTES,
    COLUMNS,
    Figure,
    Report,
    Row,
    binomial_interval,
    count_right,
    short_line,
    table,
    wilson,
    with_bars,
)
from benchmarks.judge_rows import TableMaker, varied_scenes
from training.clips import ClipSource
from training.world.prompts import evaluation_prompts
from training.world.scenes import NO_SUBJECT

from benchmarks import judge_clips
from rushes.models.configs import ExpertsConfig
from rushes.models.judge import Judge, JudgeConfig
from rushes.models.wan import Wan
from rushes.stages.denoise_causal import DenoiseCausal
from tiny_parts import CPU, TRANSFORMER, TinyParts, tiny_model

CLASSES = {"subject": 10, "background": 5, "motion": 4, "colour": 5, "count": 3}


@pytest.fixture(scope="module")
def bench():
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


def figures(right, num=100):
    return {name: Figure(right=right, num=num, chance=0.1) for name in COLUMNS}


@pytest.mark.parametrize(
    ("right", "num", "low", "high"),
    # z = 1.96: centre (k + z^2/2) / (n + z^2), half width z sqrt(k (n-k) / n + z^2/4) / (n + z^2).
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)],
)
def test_wilson_interval(right, num, low, high):
    assert wilson(right, num) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    ("num", "rate", "expected"),
    [
        (2, 0.5, (0, 2)),  # every outcome has at least 25 %
        (24, 0.5, (6, 18)),  # P(X <= 5) = 0.33 %, P(X <= 6) = 1.1 %
        (10, 0.9, (6, 10)),  # P(X <= 5) = 0.16 %, P(X <= 6) = 1.3 %; P(X = 10) = 35 %
        (3, 1.0, (3, 3)),
        (3, 0.0, (0, 0)),
    ],
)
def test_binomial_interval(num, rate, expected):
    assert binomial_interval(num, rate) == expected


def test_shares_are_counted_by_attribute_and_jointly():
    asked = {name: torch.tensor([0, 1, 2, 1]) for name in ATTRIBUTES}
    read = {name: labels.clone() for name, labels in asked.items()}
    read["motion"][0] = 3
    read["count"][0] = 2
    read["count"][3] = 0
    found = count_right(read, asked, CLASSES)
    assert {name: figure.right for name, figure in found.items()} == {
        "subject": 4,
        "background": 4,
        "motion": 3,
        "colour": 4,
        "count": 2,
        "all": 2,
    }
    assert found["colour"].chance == 0.2
    assert found["all"].chance == pytest.approx(1 / (10 * 5 * 4 * 5 * 3))


def test_labels_of_other_prompts_are_met_by_chance_alone():
    generator = torch.Generator().manual_seed(0)
    asked = {name: torch.randint(CLASSES[name], (4000,), generator=generator) for name in ATTRIBUTES}
    shuffled = {name: labels.roll(1) for name, labels in asked.items()}
    assert count_right(asked, asked, CLASSES)["all"].share == 1
    for name, figure in count_right(asked, shuffled, CLASSES).items():
        assert figure.share == pytest.approx(figure.chance, abs=0.03), name


def test_bars_and_verdicts():
    quality = Row(
        name="quality", title="20 steps", figures=with_bars("quality", figures(92), None), seconds=1
    )
    verdicts = {name: figure.verdict for name, figure in quality.figures.items()}
    assert verdicts == {**dict.fromkeys(COLUMNS, "met"), "background": "short", "motion": "short"}
    assert {each.verdict for each in with_bars("fast", figures(87), quality).values()} == {"met"}
    assert {each.verdict for each in with_bars("causal", figures(86), quality).values()} == {"short"}
    assert with_bars("synonyms", figures(80), quality)["subject"].verdict == "met"
    assert with_bars("few-step", figures(80), quality)["subject"].verdict == ""


def test_a_report_survives_json_and_its_table_says_everything():
    row = Row(name="quality", title="20 steps", figures=with_bars("quality", figures(92), None), seconds=3)
    report = Report(
        about={"commit": "abc"}, rows=[row], numbers={"VAE PSNR, dB": 31.5}, skipped={"causal": "no time"}
    )
    again = Report.from_json(json.loads(json.dumps(report.to_json())))
    assert again == report
    shown = table(again)
    for words in (
        "abc",
        "20 steps",
        "92.0 (85.0-95.9)",
        ">= 95.0 short",
        "31.5",
        "causal: not made, no time",
    ):
        assert words in shown


def test_a_sample_is_judged_by_the_tables_rates():
    whole = figures(900, 1000)
    assert outliers(figures(22, 24), whole) == []
    # P(X <= 16) = 0.18 %, P(X <= 17) = 0.78 % of 24 draws at 90 %
    assert outliers(figures(17, 24), whole) == []
    assert outliers(figures(16, 24), whole)[0] == "subject (16, expected 17 to 24)"
    assert len(outliers(figures(10, 24), whole)) == len(COLUMNS)
    sure = figures(1000, 1000)
    assert outliers(figures(23, 24), sure) == []
    assert outliers(figures(22, 24), sure)[0].startswith("subject (22, expected 23 to 24)")


def test_batches_through_the_stages_are_the_librarys_clips(bench):
    prompts = evaluation_prompts(3)
    found = torch.cat(list(judge_clips.generate(bench, prompts, {"preset": "fast"})))
    for text, seed, frames in zip(prompts.texts, prompts.seeds, found, strict=True):
        expected = torch.from_numpy(bench.model.generate(text, seed=seed, preset="fast").frames)
        assert (frames.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_batched_causal_sampler_is_the_librarys(bench, guidance):
    prompts = evaluation_prompts(2)
    fields = {"solver": "ddim", "guidance_high": guidance, "num_inference_steps": 3}
    jobs, expected = (
        [
            bench.model.job(text, seed=seed, mode=mode, wants_video=False, **fields)
            for text, seed in zip(prompts.texts, prompts.seeds, strict=True)
        ]
        for mode in ("full", "causal")
    )
    text, *_ = bench.model.pipeline.stages(jobs[0])
    text.run([*jobs, *expected])
    judge_clips.denoise_causal(bench.wan, jobs)
    stage = DenoiseCausal("toy", TinyParts().experts, CPU)
    for job, other in zip(jobs, expected, strict=True):
        while not stage.done(other):
            stage.run([other])
        found, wanted = (torch.cat(list(each.latents), dim=2) for each in (job, other))
        assert (found - wanted).norm() <= 1e-4 * wanted.norm()


def test_every_generated_row_is_made_and_the_rest_is_refused_without_time(bench, capsys):
    maker = TableMaker(bench, Report(about={}), num=2, limit_s=60)
    maker.add_generated(["quality", "causal", "few-step"], has_few_step=False)
    report = maker.report
    assert [row.name for row in report.rows] == ["quality", "shuffled", "causal"]
    assert all(figure.num == 2 for row in report.rows for figure in row.figures.values())
    assert report.skipped == {"few-step": "the folder holds no few-step LoRA"}
    assert sum(map(len, maker.first_clips)) == 2
    late = TableMaker(bench, Report(about={}), num=2, limit_s=0)
    late.add_generated(["fast"], has_few_step=True)
    assert "0 of 0 s are gone" in late.report.skipped["fast"]
    assert "fast: skipped" in capsys.readouterr().out


def test_loads_count_what_the_routers_choose(bench):
    config = replace(TRANSFORMER, experts=ExpertsConfig(num_experts=4, top_k=2, expert_dim=8))
    parts = TinyParts()
    wan = parts.transformers["high"] = Wan(config).eval()
    for block, favourites in zip(wan.blocks, ([0, 1], []), strict=True):
        block.ffn.router_bias.data[favourites] = 100.0
    routed = replace(bench, wan=wan, model=tiny_model(parts))
    first, second = judge_clips.expert_loads(routed, evaluation_prompts(2))
    assert first == 2.0  # two of four experts take everything
    assert 1 <= second < 2


def test_psnr_is_that_of_pixels_in_0_to_1():
    video = torch.zeros(2, 3, 1, 4, 4)
    restored = video + torch.tensor([0.2, 0.02]).view(2, 1, 1, 1, 1)
    assert judge_clips.psnr(video, restored).tolist() == pytest.approx([20.0, 40.0], abs=1e-3)


def test_varied_scenes_are_held_out_and_show_one_subject():
    scenes = varied_scenes(20)
    assert len(scenes) == 20
    assert scenes.held_out().all()
    assert (scenes.subject2 == NO_SUBJECT).all()
    assert len(set(scenes.camera.tolist())) > 1


def test_the_short_line_names_every_column():
    line = short_line("sample", figures(50))
    assert line == "sample subject 50.0 background 50.0 motion 50.0 colour 50.0 count 50.0 all 50.0"
