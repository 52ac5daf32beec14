"""The tiny decoder: the public layout, streams, and files that do not fit."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from rushes.errors import ConfigError
from rushes.models.at_rest import quantize_state
from rushes.models.configs import WanVAEConfig
from rushes.models.tiny_vae import TRAINED_FOR, TinyDecoder, load_tiny_decoder, statistics_of
from rushes.models.wan_vae import WAN21_VAE, WAN22_VAE, WanVAE
from rushes.passes.vae import VaeTiny

CPU = torch.device("cpu")
SMALL = WanVAEConfig(base_dim=4, num_res_blocks=1, latents_mean=(0.5,) * 16, latents_std=(1.0,) * 16)
WIDTHS = (8, 6, 4, 4)

PUBLIC = {
    "1": (256, 16, 3, 3),
    **{f"{3 + i}.conv.0": (256, 512, 3, 3) for i in range(3)},
    "7.conv": (256, 256, 1, 1),
    "8": (128, 256, 3, 3),
    **{f"{9 + i}.conv.2": (128, 128, 3, 3) for i in range(3)},
    "13.conv": (256, 128, 1, 1),
    "14": (64, 128, 3, 3),
    **{f"{15 + i}.conv.4": (64, 64, 3, 3) for i in range(3)},
    "19.conv": (128, 64, 1, 1),
    "20": (64, 64, 3, 3),
    "22": (3, 64, 3, 3),
}
"""Weights of `taew2_1.pth`, as madebyollin/taehv `taehv.py` builds them."""


def random_decoder(**settings: object) -> TinyDecoder:
    torch.manual_seed(1)
    return TinyDecoder(z_dim=16, widths=WIDTHS, **settings).eval().requires_grad_(False)  # type: ignore[arg-type]


def pickled(decoder: TinyDecoder, folder: Path) -> Path:
    """A `.pth` file with an encoder in it, as the public ones have."""
    file = folder / "taew2_1.pth"
    torch.save({**decoder.state_dict(), "encoder.0.weight": torch.zeros(2, 3, 3, 3)}, file)
    return file


def test_names_and_shapes_are_the_public_ones() -> None:
    with torch.device("meta"):
        state = TinyDecoder(z_dim=16, widths=(256, 128, 64, 64)).state_dict()
    for name, shape in PUBLIC.items():
        assert state[f"decoder.{name}.weight"].shape == shape
    with_bias = {name.removesuffix(".bias") for name in state if name.endswith(".bias")}
    blocks = {f"decoder.{i}.conv.{j}" for i in (3, 4, 5, 9, 10, 11, 15, 16, 17) for j in (0, 2, 4)}
    assert with_bias == blocks | {"decoder.1", "decoder.22"}
    assert len(state) == 2 * len(with_bias) + 6


def public_decode(weights: dict[str, Tensor], latents: Tensor, doubles: tuple[int, ...]) -> Tensor:
    """The public definition, read off frame by frame: [T', z, h, w] -> all frames [4 T', 3, H, W]."""

    def conv(x: Tensor, name: str) -> Tensor:
        weight = weights[f"decoder.{name}.weight"]
        return F.conv2d(x, weight, weights.get(f"decoder.{name}.bias"), padding=weight.shape[-1] // 2)

    x = F.relu(conv(torch.tanh(latents / 3) * 3, "1"))
    for level in range(3):
        for block in range(3):
            name = f"{3 + 6 * level + block}.conv"
            past = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
            h = F.relu(conv(torch.cat([x, past], 1), f"{name}.0"))
            x = F.relu(conv(F.relu(conv(h, f"{name}.2")), f"{name}.4") + x)
        if doubles[level]:
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        grown = conv(x, f"{7 + 6 * level}.conv")
        x = conv(grown.reshape(-1, *x.shape[1:]), f"{8 + 6 * level}")
    return conv(F.relu(x), "22")


def test_a_stream_is_the_public_decode(tmp_path: Path) -> None:
    decoder = random_decoder()
    vae = VaeTiny(weights=str(pickled(decoder, tmp_path))).apply(WanVAE(SMALL))
    assert isinstance(vae, WanVAE)
    latents = torch.randn(2, 16, 3, 2, 3)
    video = vae.decode(latents)
    assert video.shape == (2, 3, 9, 16, 24)
    weights = decoder.state_dict()
    for clip in (0, 1):
        frames = public_decode(weights, latents[clip].movedim(1, 0), (1, 1, 1))[3:]
        expected = frames.clamp(0, 1).movedim(1, 0) * 2 - 1
        assert torch.allclose(video[clip], expected, atol=1e-5)
    assert video.std() > 0


def test_interleaved_clips(tmp_path: Path) -> None:
    vae = VaeTiny(weights=str(pickled(random_decoder(), tmp_path))).apply(WanVAE(SMALL))
    assert isinstance(vae, WanVAE)
    clips = torch.randn(2, 1, 16, 2, 2, 2)
    states = [vae.decode_step(clip[:, :, :1], None) for clip in clips]
    for clip, (first, state) in zip(clips, states, strict=True):
        second, _ = vae.decode_step(clip[:, :, 1:], state)
        assert torch.equal(torch.cat([first, second], dim=2), vae.decode(clip))


def test_at_rest_with_a_patch(tmp_path: Path) -> None:
    decoder = random_decoder(doubles=(True, True, False), patch_size=2)
    file = tmp_path / "tiny.safetensors"
    save_file(quantize_state(decoder.state_dict()), file, metadata={TRAINED_FOR: statistics_of(SMALL)})
    loaded = load_tiny_decoder(file, SMALL, CPU, torch.float32)
    latents = torch.randn(1, 16, 2, 2, 3)
    ours, theirs = loaded(latents, None)[0], decoder(latents, None)[0]
    assert ours.shape == (1, 3, 8, 16, 24)
    assert (ours - theirs).norm() < 0.05 * theirs.norm()


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = pickled(random_decoder(), tmp_path)
    latents = torch.randn(1, 16, 1, 2, 2)
    loaded = load_tiny_decoder(file, WAN21_VAE, CPU, torch.float32)
    torch.testing.assert_close(loaded(latents, None)[0], random_decoder()(latents, None)[0])
    with pytest.raises(ConfigError, match="has 16 channels, the model's latents 48"):
        VaeTiny(weights=str(file)).apply(WanVAE(WanVAEConfig(base_dim=4, z_dim=48, num_res_blocks=1)))
    with pytest.raises(ConfigError, match=r"nothing\.pth: no such file"):
        VaeTiny(weights=str(tmp_path / "nothing.pth")).apply(WanVAE(SMALL))
    other = tmp_path / "other.safetensors"
    save_file({"conv.weight": torch.zeros(2)}, other)
    with pytest.raises(ConfigError, match="not a tiny decoder in the layout of taehv"):
        VaeTiny(weights=str(other)).apply(WanVAE(SMALL))
    named = tmp_path / "named.safetensors"
    save_file(random_decoder().state_dict(), named, metadata={TRAINED_FOR: statistics_of(WAN22_VAE)})
    with pytest.raises(ConfigError, match="distilled from another VAE"):
        VaeTiny(weights=str(named)).apply(WanVAE(SMALL))
