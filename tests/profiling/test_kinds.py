"""Every kind of work gets its name, in our networks, in diffusers' and in the U-Net family."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import UNet3DConditionModel, UNetMotionModel
from torch import nn

from rushes.profiling.calls import calls_of
from rushes.profiling.capture import SpanNotes, record
from rushes.profiling.rows import RowKey
from rushes.profiling.session import Session
from rushes.trace import listen, span

DENOISE = RowKey(stage="denoise", part="conditional")


def kinds(work: Callable[[], object], key: RowKey = DENOISE) -> dict[str, float]:
    """Device microseconds of each kind of what `work` does, as if it were a step's forward."""

    def listened(notes: SpanNotes) -> None:
        with torch.no_grad(), listen(notes), span("forward"):
            work()

    recorded = record(listened, is_cuda=False)
    found: dict[str, float] = {}
    for call in calls_of(recorded.capture, {0: (key, 1.0)}):
        if call.device_us:
            found[call.kind] = found.get(call.kind, 0.0) + call.device_us
    return found


def unet_3d() -> nn.Module:
    """ModelScope's: spatial convolutions and attention, temporal convolutions and attention."""
    return UNet3DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
    ).eval()


def motion_unet() -> nn.Module:
    """AnimateDiff's: motion modules between spatial blocks."""
    return UNetMotionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        cross_attention_dim=16,
        num_attention_heads=2,
        motion_num_attention_heads=2,
        norm_num_groups=8,
    ).eval()


@pytest.mark.parametrize("unet", [unet_3d, motion_unet])
def test_the_u_net_family(unet: Callable[[], nn.Module]) -> None:
    model = unet()
    latents, text = torch.randn(1, 4, 3, 8, 8), torch.randn(1, 5, 16)
    text = text if unet is unet_3d else text.repeat_interleave(3, 0)  # it wants one for each frame
    found = kinds(lambda: model(latents, torch.tensor(500), encoder_hidden_states=text))
    wanted = {
        "conv2d 8x8",
        "conv2d 4x4",
        "self-attention",
        "cross-attention",
        "QKV and out",
        "temporal attention",
        "temporal attention q/k/v and out",
        "FFN",
        "resample",
        "norm, modulation, RoPE",
    }
    if unet is unet_3d:
        wanted.add("temporal conv 8x8")
    assert wanted <= found.keys()
    assert "other" not in found


def test_our_networks(routed: Session) -> None:
    run = routed.run
    found = {(op.stage, op.kind) for op in run.operators}
    for kind in (
        "self-attention",
        "cross-attention",
        "QKV and out",
        "token experts",
        "norm, modulation, RoPE",
        "text keys and values",
        "solver and guidance",
        "embeddings and head",
        "copies",
    ):
        assert ("denoise", kind) in found
    for kind in ("conv3d 8x16", "conv3d 4x8", "VAE attention", "resample", "norm and activation", "copies"):
        assert ("vae_decode", kind) in found
    assert run.explained is not None
    assert run.explained >= 0.98
