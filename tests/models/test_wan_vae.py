"""The VAE against diffusers, against itself in stream and whole, and against the committed name lists."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rushes.errors import CheckpointError, ConfigError, InvalidRequest
from rushes.models.configs import WanVAEConfig
from rushes.models.name_lists import expand
from rushes.models.wan_vae import (
    WAN21_VAE,
    WAN22_VAE,
    WanVAE,
    config_from_dict,
    keep_float32,
    sources,
    to_uint8,
)
from rushes.models.wan_vae_blocks import FrameCache, TimeConv3d

TOY = WanVAEConfig(
    base_dim=8,
    decoder_base_dim=12,
    dim_mult=(1, 2, 4),
    num_res_blocks=1,
    temporal_downsample=(True, True),
    is_residual=True,
    patch_size=2,
    latents_mean=tuple(0.1 * i for i in range(16)),
    latents_std=tuple(1 + 0.1 * i for i in range(16)),
)
ONE_TEMPORAL = WanVAEConfig(base_dim=4, dim_mult=(1, 2), num_res_blocks=1, temporal_downsample=(True,))

DIFFUSERS: dict[str, dict[str, Any]] = {
    "wan2.1": {"base_dim": 8},
    "wan2.1, one residual block, other order": {
        "base_dim": 4,
        "dim_mult": [1, 2, 2],
        "num_res_blocks": 1,
        "temperal_downsample": [True, False],
    },
    "wan2.2": {
        "base_dim": 4,
        "decoder_base_dim": 8,
        "z_dim": 48,
        "is_residual": True,
        "patch_size": 2,
        "in_channels": 12,
        "out_channels": 12,
        "scale_factor_spatial": 16,
        "latents_mean": list(WAN22_VAE.latents_mean),
        "latents_std": list(WAN22_VAE.latents_std),
    },
}


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return float((ours - reference).norm() / reference.norm())


def random_vae(config: WanVAEConfig) -> WanVAE:
    """All weights random, also those that start as ones or zeros."""
    torch.manual_seed(0)
    vae = WanVAE(config).eval().requires_grad_(False)
    for parameter in vae.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.3 * torch.randn_like(parameter))
    vae.decoder.mid_block.attention.proj.weight.normal_(std=0.1)
    vae.encoder.mid_block.attention.proj.weight.normal_(std=0.1)
    return vae


def reference_pair(case: str) -> tuple[AutoencoderKLWan, WanVAE]:
    torch.manual_seed(0)
    reference = AutoencoderKLWan(**DIFFUSERS[case]).eval().requires_grad_(False)
    for name, parameter in reference.named_parameters():
        if "gamma" in name:
            parameter.add_(0.3 * torch.randn_like(parameter))
    config = config_from_dict(reference.config, "diffusers")
    theirs = reference.state_dict()
    weights = {}
    for name, source in sources(config, "diffusers").items():
        tensor = theirs.pop(source.names[0])
        weights[name] = tensor.reshape(source.reshape) if source.reshape else tensor
    assert not theirs, "every tensor of theirs is read"
    with torch.device("meta"):
        vae = WanVAE(config).eval().requires_grad_(False)
    vae.load_state_dict(weights, assign=True)
    return reference, vae


@pytest.mark.parametrize("case", DIFFUSERS)
@pytest.mark.parametrize(("num_frames", "height", "width"), [(1, 2, 3), (5, 3, 1), (9, 1, 2), (13, 1, 1)])
def test_parity_with_diffusers(case: str, num_frames: int, height: int, width: int) -> None:
    reference, vae = reference_pair(case)
    config = vae.config
    stride = config.spatial_stride
    video = torch.rand(2, 3, num_frames, height * stride, width * stride) * 2 - 1
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1) for values in (config.latents_mean, config.latents_std)
    )
    posterior = reference.encode(video).latent_dist
    ours_mean, ours_logvar = vae.posterior(video)
    assert relative_error(ours_mean, posterior.mean) <= 1e-5
    assert relative_error(ours_logvar.clamp(-30, 20), posterior.logvar) <= 1e-5
    assert relative_error(vae.encode(video), (posterior.mean - mean) / std) <= 1e-5

    latents = torch.randn_like(posterior.mean)
    decoded = reference.decode(latents * std + mean).sample
    assert relative_error(vae.decode(latents), decoded) <= 1e-5
    assert relative_error(vae.decode_whole(latents).clamp(-1, 1), decoded) <= 1e-5


@pytest.mark.parametrize("config", [TOY, ONE_TEMPORAL, dataclasses.replace(TOY, is_residual=False)])
def test_stream_is_the_decode_and_the_whole_convolution(config: WanVAEConfig) -> None:
    vae = random_vae(config)
    latents = torch.randn(2, 16, 4, 3, 2)
    state, parts = None, []
    for latent in latents.split(1, dim=2):
        frames, state = vae.decode_step(latent, state)
        parts.append(frames)
    stride = config.temporal_stride
    assert [part.shape[2] for part in parts] == [1, stride, stride, stride]
    assert torch.equal(torch.cat(parts, dim=2), vae.decode(latents))
    whole = vae.decode_whole(latents).clamp(-1, 1)
    assert whole.shape == (2, 3, 1 + 3 * stride, 3 * config.spatial_stride, 2 * config.spatial_stride)
    assert relative_error(vae.decode(latents), whole) <= 1e-5


@pytest.mark.parametrize("config", [TOY, ONE_TEMPORAL, dataclasses.replace(TOY, is_residual=False)])
def test_chunked_encode_is_the_whole_convolution(config: WanVAEConfig) -> None:
    vae = random_vae(dataclasses.replace(config, latents_mean=(), latents_std=()))
    video = torch.rand(2, 3, 1 + 3 * config.temporal_stride, 16, 24) * 2 - 1
    mean, logvar = vae.posterior(video)
    assert mean.shape == logvar.shape == (2, 16, 4, 16 // config.spatial_stride, 24 // config.spatial_stride)
    assert relative_error(vae.encode(video), mean) <= 1e-5
    normalised = random_vae(dataclasses.replace(config, latents_mean=(0.3,) * 16, latents_std=(1.7,) * 16))
    assert relative_error(normalised.encode(video), normalised.encode_whole(video)) <= 1e-5


def test_interleaved_videos_decode_to_the_same_bytes() -> None:
    vae = random_vae(TOY)
    clips = torch.randn(2, 1, 16, 3, 2, 3)
    serial = [vae.decode(clip) for clip in clips]
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    states, parts = [None, None], [[], []]
    for i in range(3):
        for video in (0, 1):
            frames, states[video] = vae.decode_step(clips[video][:, :, i : i + 1], states[video])
            parts[video].append(frames)
    for video in (0, 1):
        assert torch.equal(torch.cat(parts[video], dim=2), serial[video])
    assert all(torch.equal(tensor, before[name]) for name, tensor in vae.state_dict().items())
    assert not list(vae.buffers())


def test_an_old_state_stays_valid() -> None:
    vae = random_vae(TOY)
    first, second, other = torch.randn(3, 1, 16, 1, 2, 3)
    _, state = vae.decode_step(first)
    kept = [tensor.clone() for tensor in state.past]
    frames, _ = vae.decode_step(second, state)
    vae.decode_step(other, state)
    again, _ = vae.decode_step(second, state)
    assert torch.equal(frames, again)
    assert all(torch.equal(a, b) for a, b in zip(kept, state.past, strict=True))


def test_state_holds_two_frames_and_no_larger_storage() -> None:
    vae = random_vae(TOY)
    state = None
    for latent in torch.randn(3, 1, 16, 1, 2, 3):
        _, state = vae.decode_step(latent, state)
    assert {tensor.shape[1] for tensor in state.past} == {2}
    held = sum(tensor.untyped_storage().nbytes() for tensor in state.past)
    assert held == sum(tensor.nbytes for tensor in state.past)


def test_a_step_is_one_graph() -> None:
    """What a compile pass relies on: no graph break in a step, and the same frames."""
    vae = random_vae(ONE_TEMPORAL)
    step = torch.compile(vae.decode_step, backend="eager", fullgraph=True)
    latents = torch.randn(1, 16, 2, 1, 2)
    first, state = step(latents[:, :, :1])
    second, _ = step(latents[:, :, 1:], state)
    assert torch.equal(torch.cat([first, second], dim=2), vae.decode(latents))


def test_no_frame_sees_the_future() -> None:
    vae = random_vae(TOY)
    latents = torch.randn(1, 16, 4, 2, 3)
    changed = latents.clone()
    changed[:, :, 2] += 1
    a, b = vae.decode_whole(latents), vae.decode_whole(changed)
    assert torch.allclose(a[:, :, :5], b[:, :, :5], atol=1e-6)
    assert (a - b)[:, :, 5:9].abs().amax() > 1e-2


def test_whole_paths_train_every_weight() -> None:
    vae = random_vae(TOY).requires_grad_(True)
    mean, logvar = vae.posterior(torch.rand(1, 3, 9, 16, 24) * 2 - 1)
    video = vae.decode_whole(mean + torch.randn_like(mean) * torch.exp(0.5 * logvar))
    video.square().mean().backward()
    assert [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_bfloat16_stays_near_float32() -> None:
    vae = random_vae(ONE_TEMPORAL)
    latents = torch.randn(1, 16, 2, 2, 3)
    reference = vae.decode(latents)
    half = vae.to(torch.bfloat16).decode(latents)
    assert half.dtype == torch.bfloat16
    assert relative_error(half.float(), reference) < 0.03
    assert vae.encode(half.float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, (0, 1, 1)), ((3, 1, 1), 1, 0), ((3, 1, 1), (2, 1, 1), 0)]
)
def test_time_conv_is_conv3d(kernel: Any, stride: Any, padding: Any) -> None:
    conv = TimeConv3d(5, 7, kernel, stride=stride, padding=padding).requires_grad_(False)
    x = torch.randn(2, 5, 7, 4, 3)
    expected = F.conv3d(x, conv.weight, conv.bias, stride=stride, padding=padding)
    assert relative_error(conv(x.movedim(1, -1)), expected.movedim(1, -1)) < 1e-6


def test_frame_cache_joins_chunks() -> None:
    x = torch.arange(4.0).view(1, 4, 1, 1, 1)
    start = FrameCache(None)
    assert start.zero_padded(x[:, :1]).flatten().tolist() == [0, 0, 0]
    assert start.overlapped(x[:, :1]).flatten().tolist() == [0]
    later = FrameCache(start.next)
    assert later.zero_padded(x[:, 1:]).flatten().tolist() == [0, 0, 1, 2, 3]
    assert later.overlapped(x[:, 1:]).flatten().tolist() == [0, 1, 2, 3]
    assert [past.flatten().tolist() for past in later.next] == [[2, 3], [3]]


@pytest.mark.parametrize("layout", ["diffusers", "wan"])
@pytest.mark.parametrize(
    ("name_list", "config", "sizes"),
    [
        ("vae21", WAN21_VAE, {"base": 96, "z": 16}),
        ("vae22", WAN22_VAE, {"base": 160, "dec": 256, "z": 48}),
    ],
)
def test_sources_are_the_committed_names_and_shapes(
    name_list: str, config: WanVAEConfig, sizes: dict[str, int], layout: Any
) -> None:
    committed = expand(f"{name_list}_{layout}", sizes)
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in WanVAE(config).state_dict().items()}
    table = sources(config, layout)
    assert sorted(source.names[0] for source in table.values()) == sorted(committed)
    for name, source in table.items():
        stored = committed[source.names[0]]
        if source.reshape is None:
            assert stored == shapes[name], name
        else:
            assert source.reshape == shapes[name], name
            assert tuple(size for size in stored if size > 1) == shapes[name], name


@pytest.mark.parametrize(("name_list", "config"), [("vae21", WAN21_VAE), ("vae22", WAN22_VAE)])
def test_both_layouts_mean_the_same_tensor(name_list: str, config: WanVAEConfig) -> None:
    sizes = {"base": 8, "dec": 8, "z": 4}
    same = zip(expand(f"{name_list}_diffusers", sizes), expand(f"{name_list}_wan", sizes), strict=True)
    wan_of = dict(same)
    diffusers_table, wan_table = sources(config, "diffusers"), sources(config, "wan")
    for name, source in diffusers_table.items():
        assert wan_of[source.names[0]] == wan_table[name].names[0]


@pytest.mark.parametrize(
    ("config", "latent", "decoder_params", "first_tflop", "next_tflop"),
    [
        (WAN21_VAE, (1, 16, 1, 60, 104), 73.3e6, 4.35, 13.55),
        (WAN22_VAE, (1, 48, 1, 44, 80), 555e6, 20.6, 66.4),
    ],
)
def test_full_size_work(
    config: WanVAEConfig,
    latent: tuple[int, ...],
    decoder_params: float,
    first_tflop: float,
    next_tflop: float,
) -> None:
    with torch.device("meta"), torch.no_grad():
        vae = WanVAE(config)
        z = torch.zeros(latent)
        with FlopCounterMode(display=False) as first:
            _, state = vae.decode_step(z)
        _, state = vae.decode_step(z, state)
        with FlopCounterMode(display=False) as later:
            vae.decode_step(z, state)
    assert sum(p.numel() for p in vae.decoder.parameters()) == pytest.approx(decoder_params, rel=2e-3)
    assert first.get_total_flops() / 1e12 == pytest.approx(first_tflop, rel=5e-3)
    assert later.get_total_flops() / 1e12 == pytest.approx(next_tflop, rel=5e-3)


def test_latent_statistics_are_the_public_ones() -> None:
    default = AutoencoderKLWan(base_dim=2).config
    assert list(WAN21_VAE.latents_mean) == default["latents_mean"]
    assert list(WAN21_VAE.latents_std) == default["latents_std"]
    # First and last channel as printed in Wan-Video/Wan2.2 wan/modules/vae2_2.py.
    assert (WAN22_VAE.latents_mean[0], WAN22_VAE.latents_mean[-1]) == (-0.2289, -0.0667)
    assert (WAN22_VAE.latents_std[0], WAN22_VAE.latents_std[-1]) == (0.4765, 0.7744)
    assert len(WAN22_VAE.latents_mean) == len(WAN22_VAE.latents_std) == WAN22_VAE.z_dim


def test_config_of_a_wan22_folder() -> None:
    raw = {
        **DIFFUSERS["wan2.2"],
        "base_dim": 160,
        "decoder_base_dim": 256,
        "_class_name": "AutoencoderKLWan",
        "dim_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "temperal_downsample": [False, True, True],
        "attn_scales": [],
    }
    assert config_from_dict(raw, "diffusers") == WAN22_VAE


@pytest.mark.parametrize(
    ("raw", "layout", "reason"),
    [
        ({"_class_name": "AutoencoderKL"}, "diffusers", "AutoencoderKL;"),
        ({"attn_scales": [0.5]}, "diffusers", "attn_scales"),
        ({}, "wan", "WAN21_VAE"),
    ],
)
def test_config_refused(raw: dict[str, Any], layout: Any, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        config_from_dict(raw, layout)


@pytest.mark.parametrize(
    ("shape", "reason"), [((4, 16, 16), "4 is not 4n \\+ 1"), ((5, 12, 16), "16x12 is not a multiple of 8")]
)
def test_wrong_video_size_refused(shape: tuple[int, ...], reason: str) -> None:
    vae = random_vae(TOY)
    for method in (vae.encode, vae.posterior):
        with pytest.raises(InvalidRequest, match=reason):
            method(torch.zeros(1, 3, *shape))


@pytest.mark.parametrize(("dim_mult", "verb"), [((1, 3, 7), "average"), ((1, 1, 16), "unfold")])
def test_widths_without_a_shortcut_refused(dim_mult: tuple[int, ...], verb: str) -> None:
    with pytest.raises(ConfigError, match=verb):
        WanVAE(dataclasses.replace(TOY, base_dim=8, dim_mult=dim_mult))


def test_uint8_rounds_and_saturates() -> None:
    frames = torch.tensor([-2.0, -1.0, 0.0, 0.999, 3.0]).view(1, 1, 1, 1, 5).expand(2, 3, 4, 6, 5)
    pixels = to_uint8(frames)
    assert pixels.shape == (2, 4, 6, 5, 3)
    assert pixels.is_contiguous()
    assert pixels[0, 0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]


def test_no_weight_needs_float32() -> None:
    assert not any(keep_float32(name) for name in sources(TOY, "diffusers"))
