"""ship: what it writes opens as the toy, generates, and holds the trained average."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from training.checkpoints import save_resume
from training.optim import Average
from training.ship import LORA, MAX_BYTES, MAX_FILE_BYTES, WEIGHTS, check_sizes, num_bytes, ship, sizes

import rushes
from rushes.models.checkpoint import open_checkpoint
from rushes.models.configs import ExpertsConfig, WanConfig, WanVAEConfig
from rushes.models.judge import Judge, JudgeConfig, load_judge
from rushes.models.lora import read_lora
from rushes.models.wan import Wan
from rushes.models.wan_vae import WanVAE
from training import judge as judge_training
from training import vae as vae_training

TRANSFORMER = WanConfig(
    num_layers=2,
    num_attention_heads=2,
    attention_head_dim=32,
    in_channels=16,
    out_channels=16,
    ffn_dim=64,
    text_dim=384,
    text_len=64,
    freq_dim=64,
    experts=ExpertsConfig(num_experts=4, top_k=2, expert_dim=32, shared_dim=64),
    pooled_dim=384,
)
VAE = WanVAEConfig(
    base_dim=8,
    decoder_base_dim=8,
    z_dim=16,
    dim_mult=(1, 2, 2),
    num_res_blocks=1,
    temporal_downsample=(True, True),
    is_residual=True,
    patch_size=2,
    latents_mean=(0.1,) * 16,
    latents_std=(0.9,) * 16,
)
JUDGE = JudgeConfig(classes={"subject": 5, "count": 3}, widths=(8, 8, 8, 8), num_frames=5)
SMALL = {"width": 32, "height": 32, "num_frames": 5, "num_inference_steps": 2, "seed": 1}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folders, and the networks as they were before they were written."""
    run = tmp_path_factory.mktemp("run")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, vae, judge = Wan(TRANSFORMER), WanVAE(VAE), Judge(JUDGE).eval()
        average = Average(model, decay=0.9)
        for tensor in average.state.values():
            tensor.add_(0.1 * torch.randn_like(tensor))
        save_resume(run / "dit", model, average, step=3)
        up = {"blocks.0.attn1.to_q.lora_B.weight": torch.randn(64, 80)}
        save_file(up | {"blocks.0.attn1.to_q.lora_A.weight": torch.randn(80, 64)}, run / "lora.safetensors")
    vae_training.save(vae, VAE, run / "vae")
    judge_training.save(judge, run / "judge")
    return run, average, vae, judge


@pytest.fixture(scope="module")
def shipped(trained, tmp_path_factory):
    run, *_ = trained
    out = tmp_path_factory.mktemp("assets")
    ship(run / "vae", run / "dit", run / "judge", run / "lora.safetensors", out, config=TRANSFORMER)
    return out


def within_half_a_step(found, original):
    """int8 with a scale a row of the last dimension moves a number by half a step at most."""
    step = original.abs().amax(-1, keepdim=True) / 127
    return bool(((found - original).abs() <= 0.502 * step + 1e-7).all())


def test_the_folder_is_the_toy(shipped):
    checkpoint = open_checkpoint(shipped / "toy")
    assert (checkpoint.pipeline, checkpoint.layout) == ("toy", "diffusers")
    assert checkpoint.boundary.value is None
    assert (checkpoint.flow_shift.value, checkpoint.solver.value) == (3.0, "ddim")
    assert set(checkpoint.parts) == {"transformer", "vae", "text_encoder", "tokenizer"}
    assert checkpoint.load_transformer("high", CPU, torch.float32).config == TRANSFORMER
    assert checkpoint.load_vae(CPU, torch.float32).config == VAE


def test_it_generates_with_and_without_the_few_step_lora(shipped):
    model = rushes.load(shipped / "toy", device="cpu")
    prompt = "a dog running in the park"
    assert model.generate(prompt, **SMALL).frames.shape == (5, 32, 32, 3)
    plain, adapted = (
        model.generate(prompt, output="latents", guidance_high=1.0, preset=preset, **SMALL)
        for preset in ("quality", "few-step-4")
    )
    assert plain.request.sampling == replace(adapted.request.sampling, lora=None)
    assert (plain.latents - adapted.latents).norm() > 1e-3 * plain.latents.norm()


def test_the_transformer_is_the_average_within_half_a_step(trained, shipped):
    _, average, *_ = trained
    wan = open_checkpoint(shipped / "toy").load_transformer("high", CPU, torch.float32)
    for name, tensor in wan.state_dict().items():
        original = average.state[name]
        assert within_half_a_step(tensor, original.reshape(tensor.shape)), name
        if "modulation" in name or "norm" in name or "router" in name or name.endswith("bias"):
            assert torch.equal(tensor, original), name


def test_large_matrices_are_int8_and_rows_of_experts_have_their_own_scales(shipped):
    stored = load_file(shipped / "toy" / "transformer" / WEIGHTS)
    assert stored["blocks.1.attn1.to_k.weight"].dtype == torch.int8
    assert stored["blocks.0.ffn.experts_up"].shape == (4, 32, 64)
    assert stored["blocks.0.ffn.experts_up.scale"].shape == (4, 32, 1)
    assert stored["blocks.0.scale_shift_table"].shape == (1, 6, 64)
    assert stored["patch_embedding.weight"].shape == (64, 16, 1, 2, 2)
    assert {tensor.dtype for tensor in stored.values()} == {torch.int8, torch.float32}


def test_the_vae_restores_what_the_trained_one_does(trained, shipped):
    *_, vae, _ = trained
    found = open_checkpoint(shipped / "toy").load_vae(CPU, torch.float32)
    video = torch.rand((1, 3, 5, 32, 32), generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        # The trained module's own config knows no statistics of latents; what is compared needs none.
        expected, again = (each.decode_whole(each.posterior(video)[0]) for each in (vae, found))
    assert (again - expected).norm() <= 0.02 * expected.norm()


def test_the_judge_reads_clips_as_the_trained_one(trained, shipped):
    *_, judge = trained
    found = load_judge(shipped / "judge")
    video = torch.rand((2, 3, 5, 32, 32), generator=torch.Generator().manual_seed(3)) * 2 - 1
    assert not found.training
    with torch.no_grad():
        for name, logits in judge(video).items():
            torch.testing.assert_close(found(video)[name], logits, rtol=0.02, atol=0.02)


def test_an_old_lora_goes_when_the_new_weights_have_none(trained, shipped, tmp_path):
    run, *_ = trained
    original = load_file(run / "lora.safetensors")
    for name, tensor in read_lora(shipped / "toy" / LORA).items():
        assert within_half_a_step(tensor, original[name])
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / LORA).write_bytes(b"of another run")
    ship(run / "vae", run / "dit", run / "judge", None, tmp_path, config=TRANSFORMER)
    assert not (tmp_path / "toy" / LORA).exists()


def test_sizes_add_up_and_too_much_is_refused(shipped, tmp_path):
    assert sum(sizes(shipped).values()) == num_bytes(shipped)
    check_sizes(shipped)
    (tmp_path / "toy").mkdir()
    with (tmp_path / "toy" / "large").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(SystemExit, match="toy/large: 15728641 bytes"):
        check_sizes(tmp_path)
    for name in ("large", "b", "c"):
        with (tmp_path / "toy" / name).open("wb") as file:
            file.truncate(MAX_BYTES // 3 + 1)
    with pytest.raises(SystemExit, match="more than 32000000"):
        check_sizes(tmp_path)
