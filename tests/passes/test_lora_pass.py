"""LoRA files of both noise experts, fused as the folder is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import rushes
from rushes.errors import CheckpointError, ConfigError
from rushes.models.checkpoint import Expert, open_checkpoint
from rushes.models.checkpoint_writer import make_checkpoint
from rushes.passes.lora import Lora
from rushes.passes.plan import Plan, plan_of

NAME = "diffusion_model.blocks.0.ffn.0"
STEPS: tuple[Expert, Expert] = ("high", "low")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("a14b", tmp_path_factory.mktemp("lora") / "tiny")


def write(file: Path, seed: int, up: Tensor, stem: str = NAME) -> dict[str, Tensor]:
    """A file as LightX2V writes it for one expert."""
    generator = torch.Generator().manual_seed(seed)
    lora = {
        f"{stem}.lora_down.weight": torch.randn((4, up.shape[1]), generator=generator).bfloat16(),
        f"{stem}.lora_up.weight": torch.randn((up.shape[0], 4), generator=generator).bfloat16(),
        f"{stem}.diff_b": torch.randn(up.shape[0], generator=generator).bfloat16(),
    }
    save_file(lora, file)
    return lora


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_expert_gets_its_own_file_and_is_rounded_once(
    folder: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    plain = {e: open_checkpoint(folder).load_transformer(e, "cpu", dtype).blocks[0].ffn for e in STEPS}
    loras = {e: write(tmp_path / f"{e}.st", len(e), plain[e].up.weight) for e in STEPS}
    plan = Plan(passes=(Lora(high=str(tmp_path / "high.st"), low=str(tmp_path / "low.st"), scale=0.5),))
    experts = rushes.load(folder, device="cpu", dtype=dtype, plan=plan).parts.experts()
    for expert, timestep in (("high", 1000.0), ("low", 0.0)):
        fused, lora = experts.select(timestep).blocks[0].ffn, loras[expert]
        down, up, bias = (tensor.float() for tensor in lora.values())
        expected = (plain[expert].up.weight.float() + 0.5 * (up @ down)).to(dtype)
        torch.testing.assert_close(fused.up.weight, expected, rtol=0, atol=0)
        torch.testing.assert_close(
            fused.up.bias, (plain[expert].up.bias.float() + 0.5 * bias).to(dtype), rtol=0, atol=0
        )
        assert torch.equal(fused.down.weight, plain[expert].down.weight)


def test_a_distilled_folder_runs_four_steps_by_its_plan(folder: Path, tmp_path: Path) -> None:
    weight = open_checkpoint(folder).load_transformer("high", "cpu", torch.float32).blocks[0].ffn.up.weight
    files = {expert: str(tmp_path / f"{expert}.st") for expert in STEPS}
    for expert, file in files.items():
        write(Path(file), len(expert), weight)
    plan = plan_of({"format": 1, "passes": [{"name": "lora", **files}], "fields": {"preset": "distilled-4"}})
    model = rushes.load(folder, device="cpu", dtype="float32", plan=plan)
    clip = model.generate("a dog", output="latents", width=32, height=32, num_frames=5, seed=1)
    assert clip.forwards.conditional == 4
    assert clip.forwards.unconditional == 0
    before = plan.identity
    write(Path(files["low"]), 9, weight)
    assert plan.identity != before


def test_files_and_experts_must_match(folder: Path, tmp_path: Path) -> None:
    weight = torch.zeros(8, 8)
    write(tmp_path / "a.st", 0, weight, stem="diffusion_model.blocks.0.self_atn.q")
    file = str(tmp_path / "a.st")
    with pytest.raises(ConfigError, match="there is no file"):
        Lora(high=str(tmp_path / "b.st"))
    with pytest.raises(ConfigError, match="give the file of the low one too"):
        Lora(high=file).for_expert("low")
    with pytest.raises(ConfigError, match="this model has one network"):
        Lora(high=file, low=file).for_expert("only")
    with pytest.raises(ConfigError, match="a Linear takes no LoRA"):
        Lora(high=file).apply(torch.nn.Linear(1, 1))
    model = rushes.load(folder, device="cpu", plan=Plan(passes=(Lora(high=file, low=file),)))
    with pytest.raises(CheckpointError, match=r"did you mean 'blocks\.0\.self_attn\.q'"):
        model.parts.experts()


def test_a_fastwan_folder_loads_as_it_is(tmp_path: Path) -> None:
    """Whole weights in diffusers' layout, under the name of FastVideo's own pipeline."""
    folder = make_checkpoint("ti2v-5b", tmp_path / "FastWan2.2-TI2V-5B-FullAttn-Diffusers")
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace('"WanPipeline"', '"WanDMDPipeline"'))
    model = rushes.load(folder, device="cpu", dtype="float32")
    assert any("fastwan-3" in note for note in model.notes)
    clip = model.generate(
        "a dog", output="latents", preset="fastwan-3", width=64, height=64, num_frames=5, seed=1
    )
    assert clip.forwards.conditional == 3
