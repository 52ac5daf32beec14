"""What the tensors of the VAE are called in the two checkpoint layouts.

Sources: diffusers `AutoencoderKLWan`; Wan-Video/Wan2.2 `wan/modules/vae2_1.py` and `vae2_2.py`. We keep a
level in `down_blocks.N` or `up_blocks.N` with `resnets.M` and one `downsample` or `upsample`. They number the
blocks of the Wan2.1 encoder (diffusers), or of both its halves (original), in one flat list, resamplings too.
"""

from __future__ import annotations

import re

from rushes.models.configs import WanVAEConfig

_WAN_LEVELS = {"down_blocks": "downsamples", "up_blocks": "upsamples"}
_WAN_TOP = {"quant_conv": "conv1", "post_quant_conv": "conv2"}
_WAN_HALF = {"conv_in": "conv1", "norm_out": "head.0", "conv_out": "head.2"}
_WAN_BLOCK = {
    "norm1": "residual.0",
    "conv1": "residual.2",
    "norm2": "residual.3",
    "conv2": "residual.6",
    "conv_shortcut": "shortcut",
}
_RESAMPLE = {"conv": "resample.1"}


def diffusers_name(name: str, config: WanVAEConfig) -> str:
    """Our tensor's name in a diffusers `vae/` folder."""
    match _with_gamma(name).split("."):
        case [half, ("down_blocks" | "up_blocks") as levels, level, kind, *tail]:
            index, flat_index, [leaf, *rest] = _position(levels, int(level), kind, tail, config)
            if levels == "down_blocks" and not config.is_residual:
                place = [flat_index]
            elif kind == "resnets":
                place = [level, kind, index]
            else:
                place = [level, f"{kind}r" if config.is_residual else f"{kind}rs.0"]
            path = [half, levels, *place, _RESAMPLE.get(leaf, leaf), *rest]
        case [half, "mid_block", "attention", *tail]:
            path = [half, "mid_block.attentions.0", *tail]
        case path:
            pass
    return ".".join(path)


def wan_name(name: str, config: WanVAEConfig) -> str:
    """Our tensor's name in `Wan2.1_VAE.pth` or `Wan2.2_VAE.pth`."""
    match _with_gamma(name).split("."):
        case [half, ("down_blocks" | "up_blocks") as levels, level, kind, *tail]:
            index, flat_index, [leaf, *rest] = _position(levels, int(level), kind, tail, config)
            blocks = _WAN_LEVELS[levels]
            place = [level, blocks, index] if config.is_residual else [flat_index]
            path = [half, blocks, *place, (_WAN_BLOCK | _RESAMPLE).get(leaf, leaf), *rest]
        case [half, "mid_block", "attention", *tail]:
            path = [half, "middle.1", *tail]
        case [half, "mid_block", "resnets", index, leaf, *tail]:
            path = [half, "middle", str(2 * int(index)), _WAN_BLOCK[leaf], *tail]
        case [("encoder" | "decoder") as half, leaf, *tail]:
            path = [half, _WAN_HALF[leaf], *tail]
        case [leaf, *tail]:
            path = [_WAN_TOP[leaf], *tail]
    return ".".join(path)


def _with_gamma(name: str) -> str:
    return re.sub(r"(norm\w*)\.weight$", r"\1.gamma", name)


def _position(
    levels: str, level: int, kind: str, tail: list[str], config: WanVAEConfig
) -> tuple[str, str, list[str]]:
    """A block's number in its level and in the flat list of all levels, and the path inside the block."""
    num_resnets = config.num_res_blocks + (levels == "up_blocks")
    index, inside = (int(tail[0]), tail[1:]) if kind == "resnets" else (num_resnets, tail)
    return str(index), str(level * (num_resnets + 1) + index), inside
