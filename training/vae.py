"""Train the toy's VAE, in parts that resume: `python -m training.vae --seconds 380 --out FOLDER`.

Crops of 17 frames first, whole clips at the end; L1, squared and gradient error, a light KL. Writes the
folder `vae/` of the diffusers layout, weights in float16, and `raw.safetensors` to resume from;
`training.ship` puts them at rest.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import math
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rushes.models import wan_vae
from rushes.models.configs import WanVAEConfig
from rushes.models.loader import open_checkpoint
from rushes.models.wan_vae import WanVAE
from rushes.ops.layout import channels_last
from training.checkpoints import to_layout
from training.clips import ClipSource
from training.optim import Average, Shadow, optimisers, set_rate, warm_cosine

CONFIG = WanVAEConfig(
    base_dim=24,
    decoder_base_dim=48,
    z_dim=16,
    dim_mult=(1, 2, 2),
    num_res_blocks=1,
    temporal_downsample=(True, True),
    is_residual=True,
    patch_size=2,
)
CROP = (17, 96, 96)  # frames, height, width
WHOLE_SHARE = 0.2  # of the time, at the end, on whole clips
KL_WEIGHT = 1e-4


def gradients(video: Tensor) -> Tensor:
    """Differences to the right and lower neighbours, flattened into one vector."""
    return torch.cat([video.diff(dim=-1).flatten(), video.diff(dim=-2).flatten()])


def loss_of(vae: WanVAE, video: Tensor) -> tuple[Tensor, Tensor]:
    """Training loss, and the mean squared error in [0, 1] units."""
    mean, logvar = vae.posterior(video)
    mean, logvar = mean.float(), logvar.float().clamp(-12, 4)
    sample = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
    restored = vae.decode_whole(sample).float()
    video = video.float()
    squared = (restored - video).square().mean()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    sharp = (gradients(restored) - gradients(video)).abs().mean()
    loss = (restored - video).abs().mean() + 20 * squared + 0.5 * sharp + KL_WEIGHT * kl
    return loss, squared.detach() / 4


def psnr(squared: float) -> float:
    """Decibels from a mean squared error in [0, 1] units."""
    return -10 * math.log10(max(squared, 1e-12))


def initial(resume: Path | None) -> WanVAE:
    """A new VAE, the one of an earlier part's `raw.safetensors`, or the one of a shipped model's folder."""
    vae = WanVAE(CONFIG)
    if resume is None:
        return vae
    if resume.is_dir():
        state = open_checkpoint(resume).load_vae("cpu", torch.float32).state_dict()
    else:
        state = load_file(resume)
    vae.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return vae


def train(source: ClipSource, args: argparse.Namespace) -> tuple[WanVAE, Average]:
    """Muon and AdamW, cosine over wall time, an average of the weights."""
    vae = channels_last(initial(args.resume).to(source.device))
    fast = channels_last(copy.deepcopy(vae).to(source.dtype))
    shadow = Shadow(vae, fast)
    average = Average(vae, 0.998)
    group = optimisers(vae, args.lr, edges=("conv_in", "conv_out", "quant"))
    start, step, seen = time.time(), 0, 0
    while (progress := (time.time() - start) / args.seconds) < 1:
        set_rate(group, args.lr * warm_cosine(progress))
        if progress > 1 - WHOLE_SHARE:
            video = source.draw(max(1, args.batch // 4)).video
        else:
            video = source.draw(args.batch, crop=CROP).video
        loss, squared = loss_of(fast, video.contiguous(memory_format=torch.channels_last_3d))
        loss.backward()
        shadow.take_gradients()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for optimiser in group:
            optimiser.step()
        shadow.refresh()
        average.update(vae, step)
        step, seen = step + 1, seen + video.shape[0]
        if step in (5, 50) or step % 200 == 0:
            print(f"vae step {step} {time.time() - start:.0f}s psnr {psnr(squared.item()):.2f}", flush=True)
    print(f"vae: {step} steps, {seen} clips", flush=True)
    return vae, average


@torch.no_grad()
def measure(vae: WanVAE, source: ClipSource, num_clips: int) -> tuple[float, WanVAEConfig]:
    """PSNR of mean reconstructions over fresh clips, and the config with the latents' mean and std."""
    errors, latents = [], []
    for _ in range(math.ceil(num_clips / 16)):
        video = source.draw(min(16, num_clips)).video.float()
        mean, _ = vae.posterior(video)
        restored = vae.decode_whole(mean).clamp(-1, 1)
        errors.append(((restored - video).square() / 4).flatten(1).mean(1))
        latents.append(mean.transpose(0, 1).flatten(1))
    joined = torch.cat(latents, 1)
    statistics = {"latents_mean": joined.mean(1), "latents_std": joined.std(1)}
    config = dataclasses.replace(vae.config, **{k: tuple(v.tolist()) for k, v in statistics.items()})
    return -10 * torch.cat(errors).log10().mean().item(), config


def save(vae: WanVAE, config: WanVAEConfig, folder: Path) -> None:
    """The folder `vae/` as diffusers lays it out."""
    folder.mkdir(parents=True, exist_ok=True)
    raw = {
        "_class_name": "AutoencoderKLWan",
        "base_dim": config.base_dim,
        "decoder_base_dim": config.decoder_base_dim,
        "z_dim": config.z_dim,
        "dim_mult": config.dim_mult,
        "num_res_blocks": config.num_res_blocks,
        "attn_scales": [],
        "temperal_downsample": config.temporal_downsample,
        "dropout": 0.0,
        "is_residual": config.is_residual,
        "in_channels": config.in_channels * config.patch_size**2,
        "out_channels": config.out_channels * config.patch_size**2,
        "patch_size": config.patch_size,
        "scale_factor_spatial": config.spatial_stride,
        "scale_factor_temporal": config.temporal_stride,
        "latents_mean": config.latents_mean,
        "latents_std": config.latents_std,
    }
    (folder / "config.json").write_text(json.dumps(raw, indent=1) + "\n")
    raw = {name: tensor.half().cpu().contiguous() for name, tensor in vae.state_dict().items()}
    save_file(raw, folder / "raw.safetensors")
    state = to_layout(vae.state_dict(), wan_vae.sources(config, "diffusers"), {})
    save_file({name: tensor.half().cpu() for name, tensor in state.items()}, folder / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=380)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--resume", type=Path, help="raw.safetensors of an earlier part, or a model's folder")
    parser.add_argument("--clips", type=int, default=512, help="clips to measure on")
    parser.add_argument("--floor", type=float, default=0.0, help="exit with 3 below this PSNR")
    parser.add_argument("--seed", type=int, default=2, help="another one for each part")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    source = ClipSource(seed=args.seed)
    vae, average = train(source, args)
    vae.load_state_dict(average.state)
    value, config = measure(vae, source, args.clips)
    save(vae, config, args.out)
    print(f"vae: PSNR {value:.2f} dB on {args.clips} fresh whole clips", flush=True)
    raise SystemExit(3 if value < args.floor else 0)


if __name__ == "__main__":
    main()
