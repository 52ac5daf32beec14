"""The VAE's passes: the frames of the plain step, states of their own, graphs made once, clear refusals."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

import rushes
from rushes.errors import ConfigError
from rushes.models.configs import WanVAEConfig
from rushes.models.wan_vae import DecodeState, WanVAE
from rushes.ops.frame_window import window_kernels
from rushes.passes.base import ClipShape
from rushes.passes.plan import Plan, read_plan
from rushes.passes.vae import VaeCompile, VaeFused, VaeTiling
from rushes.passes.vae_compiled_step import CompiledStep
from rushes.passes.vae_fused_step import Convs, own_convs

WAN21 = WanVAEConfig(base_dim=8, num_res_blocks=1)
WAN22 = WanVAEConfig(
    base_dim=4,
    decoder_base_dim=8,
    z_dim=12,
    num_res_blocks=1,
    is_residual=True,
    patch_size=2,
    latents_mean=tuple(0.1 * i for i in range(12)),
    latents_std=tuple(1 + 0.1 * i for i in range(12)),
)
SHALLOW = WanVAEConfig(base_dim=4, dim_mult=(1, 2), num_res_blocks=1, temporal_downsample=(True,))
CONFIGS = {
    "2.1": WAN21,
    "2.2": WAN22,
    "shallow": SHALLOW,
    "other order": dataclasses.replace(SHALLOW, dim_mult=(1, 2, 2), temporal_downsample=(True, False)),
}


def random_vae(config: WanVAEConfig) -> WanVAE:
    """All weights random, also those that start as ones or zeros."""
    torch.manual_seed(0)
    vae = WanVAE(config).eval().requires_grad_(False)
    for parameter in vae.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.3 * torch.randn_like(parameter))
    vae.decoder.mid_block.attention.proj.weight.normal_(std=0.1)
    return vae


def stream(vae: WanVAE, latents: Tensor) -> tuple[Tensor, DecodeState]:
    """Frames of a clip decoded latent by latent, and the last state."""
    state: DecodeState | None = None
    parts = []
    for latent in latents.split(1, dim=2):
        frames, state = vae.decode_step(latent, state)
        parts.append(frames)
    assert state is not None
    return torch.cat(parts, dim=2), state


def relative(ours: Tensor, reference: Tensor) -> float:
    return float((ours - reference).norm() / reference.norm())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(("batch", "rows", "columns"), [(1, 3, 5), (2, 2, 1)])
@pytest.mark.parametrize("convs", ["own", "cudnn"])
def test_fused_is_plain(config: WanVAEConfig, batch: int, rows: int, columns: int, convs: Convs) -> None:
    vae = random_vae(config)
    latents = torch.randn(batch, config.z_dim, 3, rows, columns)
    plain, plain_state = stream(vae, latents)
    fused, state = stream(VaeFused(kernels="torch", convs=convs).apply(vae), latents)
    assert fused.shape == plain.shape
    assert relative(fused, plain) < 2e-6
    assert torch.equal(vae.decode(latents), fused)
    assert len(state.past) == len(plain_state.past)
    for ours, theirs in zip(state.past, plain_state.past, strict=True):
        assert relative(ours, theirs) < 1e-5


def test_which_layers_our_own_convolution_computes() -> None:
    def layers(vae: WanVAE, convs: Convs) -> int:
        step = VaeFused(kernels="torch", convs=convs).apply(vae).step
        vae.step = None
        return len(step.own_convs)

    small = random_vae(WAN21)
    assert [layers(small, convs) for convs in ("auto", "own", "cudnn")] == [0, 11, 0]
    with torch.device("meta"):
        vae = WanVAE(WanVAEConfig())
    kernels = window_kernels("torch", torch.device("cpu"), torch.bfloat16)
    assert len(own_convs(vae, kernels, "auto")) == 6
    assert len(own_convs(vae, kernels, "own")) == 28
    elsewhere = dataclasses.replace(kernels, conv=None)
    assert not own_convs(vae, elsewhere, "auto")
    with pytest.raises(ConfigError, match="made for Hopper GPUs and bfloat16; choose auto or cudnn"):
        own_convs(vae, elsewhere, "own")


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9, reason="needs a Hopper GPU"
)
def test_our_own_convolution_within_the_step_is_cudnns() -> None:
    vae = random_vae(WanVAEConfig(base_dim=32, num_res_blocks=1)).to("cuda", torch.bfloat16)
    latents = torch.randn(2, 16, 3, 5, 7, device="cuda")
    found = []
    for convs in ("own", "cudnn"):
        found.append(stream(VaeFused(convs=convs).apply(vae), latents)[0].float())
        vae.step = None
    assert relative(*found) < 0.02


def test_two_clips_of_a_stack_are_those_two_clips() -> None:
    vae = VaeFused(kernels="torch").apply(random_vae(WAN22))
    assert isinstance(vae, WanVAE)
    assert vae.takes_batches
    latents = torch.randn(2, 12, 3, 2, 3)
    states = []
    for clip in latents.split(1):
        _, state = vae.decode_step(clip[:, :, :1])
        states.append(state)
    both, after = vae.decode_step(latents[:, :, 1:2], DecodeState.stack(states))
    for number, state in enumerate(states):
        alone, own = vae.decode_step(latents[number : number + 1, :, 1:2], state)
        assert torch.allclose(both[number], alone[0], atol=1e-5)
        for a, b in zip(after.clip(number).past, own.past, strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_fused_keeps_to_bfloat16() -> None:
    vae = random_vae(WAN22)
    latents = torch.randn(1, 12, 2, 2, 3)
    reference = vae.decode(latents)
    vae.to(torch.bfloat16)
    plain_error = relative(vae.decode(latents).float(), reference)
    frames, state = stream(VaeFused(kernels="torch").apply(vae), latents)
    assert {frames.dtype, *(past.dtype for past in state.past)} == {torch.bfloat16}
    assert relative(frames.float(), reference) < 1.2 * plain_error < 0.05


def test_interleaved_clips_and_old_states() -> None:
    vae = VaeFused(kernels="torch").apply(random_vae(WAN21))
    assert isinstance(vae, WanVAE)
    clips = torch.randn(2, 1, 16, 3, 2, 3)
    serial = [stream(vae, clip)[0] for clip in clips]
    states: list[DecodeState | None] = [None, None]
    parts: list[list[Tensor]] = [[], []]
    for i in range(3):
        for clip in (0, 1):
            frames, states[clip] = vae.decode_step(clips[clip][:, :, i : i + 1], states[clip])
            parts[clip].append(frames)
    assert all(torch.equal(torch.cat(parts[clip], dim=2), serial[clip]) for clip in (0, 1))
    kept = states[0]
    assert kept is not None
    before = [past.clone() for past in kept.past]
    again = [vae.decode_step(clips[1][:, :, :1], kept)[0] for _ in range(2)]
    assert torch.equal(again[0], again[1])
    assert all(torch.equal(a, b) for a, b in zip(before, kept.past, strict=True))


def test_fused_state_is_two_frames_and_no_larger_storage() -> None:
    _, state = stream(VaeFused(kernels="torch").apply(random_vae(WAN22)), torch.randn(1, 12, 3, 2, 2))
    assert {past.shape[1] for past in state.past} == {2}
    assert all(past.untyped_storage().nbytes() == past.nbytes for past in state.past)


def test_compiled_is_plain_in_two_graphs_a_size() -> None:
    vae = random_vae(SHALLOW)
    clips = torch.randn(2, 1, SHALLOW.z_dim, 4, 2, 3)
    with torch.no_grad():
        plain = [vae.decode(clip) for clip in clips]
        VaeCompile(backend="eager").apply(vae)
        counters.clear()
        assert relative(vae.decode(clips[0]), plain[0]) < 1e-6
        assert counters["stats"]["unique_graphs"] == 2
        assert relative(vae.decode(clips[1]), plain[1]) < 1e-6
        assert relative(stream(vae, clips[0])[0], plain[0]) < 1e-6
        assert counters["stats"]["unique_graphs"] == 2
        vae.decode(clips[0][..., :2])
        assert counters["stats"]["unique_graphs"] == 4
        assert isinstance(vae.step, CompiledStep)
        assert vae.step.num_graphs == 4
    assert not counters["graph_break"]


def test_warm_up_makes_every_graph_of_a_size() -> None:
    plan = Plan(passes=(VaeCompile(backend="eager"), VaeTiling(tile=(3, 4), overlap=1)))
    vae = plan.apply("vae", random_vae(SHALLOW))
    counters.clear()
    plan.warm_up("vae", vae, ClipShape(latent_shape=(SHALLOW.z_dim, 3, 3, 7), text_len=4, batch=2))
    assert counters["stats"]["unique_graphs"] == 2
    with torch.no_grad():
        vae.decode(torch.randn(1, SHALLOW.z_dim, 3, 3, 7))
    assert counters["stats"]["unique_graphs"] == 2


def test_more_sizes_than_the_compilers_limit() -> None:
    vae = random_vae(SHALLOW)
    with torch.no_grad():
        expected = vae.decode_step(torch.ones(1, 16, 1, 1, 10))[0]
        VaeCompile(backend="eager").apply(vae)
        for columns in range(1, 11):
            frames, _ = vae.decode_step(torch.ones(1, 16, 1, 1, columns))
    assert relative(frames, expected) < 1e-6


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "vae-fused", "kernels": "cuda"}, "'cuda' is none of triton, torch"),
        ({"name": "vae-fused", "convs": "cutlass"}, "'cutlass' is none of auto, own, cudnn"),
        ({"name": "vae-compile", "backend": "trt"}, "'trt' is none of inductor, eager"),
        ({"name": "vae-fused", "kernel": "torch"}, "did you mean 'kernels'"),
    ],
)
def test_bad_settings_refused(tmp_path: Path, settings: dict[str, str], words: str) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"format": 1, "passes": [settings]}))
    with pytest.raises(ConfigError, match=words):
        read_plan(file)


def test_what_cannot_be_changed_is_refused() -> None:
    with pytest.raises(ConfigError, match="on cpu, Triton runs on cuda; use torch"):
        VaeFused().apply(random_vae(SHALLOW))
    with pytest.raises(ConfigError, match="a Linear is no WanVAE"):
        VaeCompile().apply(torch.nn.Linear(1, 1))
    both = Plan(passes=(VaeCompile(), VaeFused(kernels="torch")))
    with pytest.raises(ConfigError, match="pass vae-compile: the decode step is a FusedStep already"):
        both.apply("vae", random_vae(SHALLOW))


def test_a_plan_of_the_toy() -> None:
    clip = {"width": 64, "height": 64, "num_frames": 5, "num_inference_steps": 2, "seed": 3}
    plain = rushes.load("toy", device="cpu").generate("a red fox", **clip).frames.astype(int)
    plan = Plan(passes=(VaeFused(kernels="torch"),))
    fused = rushes.load("toy", device="cpu", plan=plan).generate("a red fox", **clip).frames.astype(int)
    assert abs(fused - plain).max() <= 1
