"""The GPU benchmark's code, proven on the CPU in tiny shapes."""

import json

import pytest
import torch
from benchmarks.gpu_report import Report
from benchmarks.random_wan import TINY, cast_twin, diffusers_twin, random_wan
from diffusers import WanTransformer3DModel

from benchmarks import wan_gpu
from rushes.models.checkpoint_writer import make_checkpoint

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUT", str(folder))
        assert wan_gpu.main(["--tiny", "--commit", "abc", "--skip", "ti2v-5b-full"]) == 0
    return json.loads((folder / "wan_gpu.json").read_text())


def test_every_part_runs_but_the_skipped_one(content):
    status = {name: part["status"] for name, part in content["parts"].items()}
    assert status.pop("ti2v-5b-full") == "skipped: as asked"
    assert set(status.values()) == {"done"}
    assert (content["commit"], content["tiny"]) == ("abc", True)


@pytest.mark.parametrize("kind", ["a14b", "ti2v-5b"])
def test_weights_are_the_same_in_both_libraries(content, kind):
    figures = content["parts"][kind]["figures"]
    assert figures["diffusers float32 against float32, relative"] < 1e-5
    assert 1e-5 < figures["ours bf16 against float32, relative"] < 0.1
    assert 1e-5 < figures["diffusers bf16 against float32, relative"] < 0.1


def test_the_clip_is_written_and_every_stage_timed(content):
    figures = content["parts"]["generation"]["figures"]
    assert figures["frames"] == figures["mp4 frames decoded"] == TINY.video.num_frames
    assert figures["frames' standard deviation, smallest"] > 0
    assert len(figures["denoise, each step [s]"]) == 4
    for stage, units in (("text_encode", 1), ("denoise", 4), ("vae_decode", 2), ("video_encode", 3)):
        assert figures[f"{stage}, {units} units [s]"] > 0


def test_small_kernels_are_near_their_references(content):
    figures = content["parts"]["small"]["figures"]
    for name in ("experts float32 grouped", "experts float32 dense", "attention sdpa float32"):
        assert figures[f"{name}, relative"] < 1e-5
    assert figures["VAE float32 2.1 stream against whole, relative"] < 1e-5
    assert figures["attention fa3 bf16"].startswith("failed: ConfigError")


def test_the_twin_is_cast_as_diffusers_loads(tmp_path):
    folder = make_checkpoint("a14b", tmp_path / "tiny") / "transformer"
    loaded = WanTransformer3DModel.from_pretrained(folder, torch_dtype=torch.bfloat16)
    ours = random_wan(TINY.transformers["a14b"], 0, CPU, torch.float32)
    cast = cast_twin(diffusers_twin(ours), torch.bfloat16)
    expected = {name: parameter.dtype for name, parameter in loaded.named_parameters()}
    assert set(expected.values()) == {torch.float32, torch.bfloat16}
    assert {name: parameter.dtype for name, parameter in cast.named_parameters()} == expected


def test_a_part_that_fails_or_has_no_time_left_does_not_stop_the_next(tmp_path):
    def fail(report):
        report.add("before", 1)
        raise ValueError("broken\nsecond line")

    report = Report(tmp_path / "deep" / "x.json", {"gpu": "", "torch": "", "commit": ""}, 10.0)
    report.part("bad", fail, expected_s=1.0)
    report.part("long", fail, expected_s=11.0)
    report.part("good", lambda report: report.add("speed", 1 / 3, "m/s"), expected_s=1.0)
    parts = json.loads((tmp_path / "deep" / "x.json").read_text())["parts"]
    assert parts["bad"]["status"] == "failed: ValueError: broken"
    assert parts["bad"]["figures"] == {"before": 1}
    assert parts["long"]["status"].startswith("skipped: takes about 11 s")
    assert parts["good"]["figures"] == {"speed [m/s]": 0.333333}
    assert report.has_failed
