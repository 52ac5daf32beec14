"""Plans: what a file may say, what a model does with it, and what it is called by."""

import json
from pathlib import Path

import pytest
import torch

import rushes
from rushes.errors import ConfigError
from rushes.models.configs import WanConfig
from rushes.models.wan import CrossAttention, SelfAttention, Wan
from rushes.passes.attention import Attention
from rushes.passes.plan import Plan, make_pass, plan_of, read_plan

SMALL = WanConfig(
    num_layers=2,
    num_attention_heads=2,
    attention_head_dim=12,
    in_channels=4,
    out_channels=4,
    ffn_dim=32,
    text_dim=8,
)
CLIP = {"width": 64, "height": 64, "num_frames": 5, "num_inference_steps": 2, "seed": 3}


def _write(folder: Path, **content: object) -> Path:
    file = folder / "plan.json"
    file.write_text(json.dumps({"format": 1, **content}))
    return file


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = Plan(
        passes=(Attention(backend="sdpa", cross_backend="flash"),), fields={"step_cache": 0.1}, model="toy"
    )
    file = tmp_path / "plan.json"
    file.write_text(plan.to_json())
    back = read_plan(file)
    assert (back.passes, dict(back.fields), back.model) == (plan.passes, {"step_cache": 0.1}, "toy")
    assert back.identity == plan.identity != ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"format": 2}, "format 1"),
        ({"pases": []}, "did you mean 'passes'"),
        ({"passes": {"name": "attention"}}, "not a list of objects"),
        ({"passes": [{"name": "atention", "backend": "sdpa"}]}, "did you mean 'attention'"),
        ({"passes": [{"name": "attention", "backend": "sdpq"}]}, "did you mean 'sdpa'"),
        ({"passes": [{"name": "attention", "bakend": "sdpa"}]}, "did you mean 'backend'"),
        ({"passes": [{"name": "attention", "backend": "sdpa"}] * 2}, "listed 2 times"),
    ],
)
def test_a_bad_file_gets_one_line(tmp_path: Path, content: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=r"plan\.json") as caught:
        read_plan(_write(tmp_path, **content))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_field_and_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"attention: .*backend"):
        make_pass("attention")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_plan(tmp_path / "nothing.json")


def test_attention_pins_every_kernel() -> None:
    wan = Plan(passes=(Attention(backend="sdpa", cross_backend="flash"),)).apply("transformer", Wan(SMALL))
    kernels = {type(module): module.backend for module in wan.modules() if hasattr(module, "backend")}
    assert kernels == {SelfAttention: "sdpa", CrossAttention: "flash"}


def test_attention_refuses_another_network() -> None:
    with pytest.raises(ConfigError, match="pass attention: a Linear"):
        Plan(passes=(Attention(backend="sdpa"),)).apply("transformer", torch.nn.Linear(1, 1))


def test_an_empty_plan_changes_nothing() -> None:
    wan = Wan(SMALL)
    assert Plan().apply("transformer", wan) is wan
    assert Plan(fields={"guidance_gate": 0.5}).identity == ""


def test_a_model_is_loaded_with_a_plan(tmp_path: Path) -> None:
    file = _write(
        tmp_path, passes=[{"name": "attention", "backend": "sdpa"}], fields={"num_inference_steps": 2}
    )
    plain, planned = rushes.load("toy"), rushes.load("toy", plan=file)
    assert planned.identity != plain.identity
    assert planned.job("a dog").request.sampling.num_inference_steps == 2
    assert planned.job("a dog", num_inference_steps=3).request.sampling.num_inference_steps == 3
    latents = [model.generate("a dog", output="latents", **CLIP).latents for model in (plain, planned)]
    assert torch.equal(*latents)


def test_a_plan_of_another_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"made for wan2\.2-ti2v-5b, not for toy"):
        rushes.load("toy", plan=plan_of({"format": 1, "model": "wan2.2-ti2v-5b"}))
