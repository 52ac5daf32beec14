"""Train the toy's diffusion transformer, in parts that resume:

    python -m training.dit --vae RUN/vae --seconds 450 --out RUN/dit
    python -m training.dit --vae RUN/vae --seconds 300 --resume RUN/dit --out RUN/dit2 --begin 0.6

Rectified flow (x_s = (1-s) x0 + s eps, v = eps - x0). Half of every batch sees the whole clip at one noise
level; the other half is block-causal over latent frames with a noise level per frame, part of it behind a
clean prefix, as in streaming.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import time
from pathlib import Path

import torch
from torch import Tensor

from rushes.models.configs import ExpertsConfig, WanConfig
from rushes.models.wan import Wan, cast_weights
from training.checkpoints import load_resume, save_resume
from training.optim import Average, Shadow, optimisers, set_rate, warm_cosine
from training.pool import Batch, LatentPool, build_pool

CONFIG = WanConfig(
    num_layers=8,
    num_attention_heads=5,
    attention_head_dim=64,
    in_channels=16,
    out_channels=16,
    ffn_dim=1280,
    text_dim=384,
    text_len=64,
    freq_dim=256,
    experts=ExpertsConfig(num_experts=8, top_k=2, expert_dim=96, shared_dim=320),
    pooled_dim=384,
)
SHIFT = 2.5  # of the training noise levels, sigma = s u / (1 + (s-1) u)
EDGES = ("patch_embed", "text_embed", "time_embed", "pooled_embed", "modulation", "head", "router")
BALANCE_RATE = 2e-3
COVER_WEIGHT = 4.0  # of the error where sprites are, above 1 elsewhere: they are a tenth of the picture


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Noised:
    """Noised latents, what to predict, and where the loss counts."""

    latents: Tensor
    velocity: Tensor
    timestep: Tensor
    weight: Tensor


def levels(*shape: int, device: torch.device) -> Tensor:
    """Noise levels in (0, 1], shifted towards noise; stratified along the first dimension."""
    rows = torch.arange(shape[0], device=device).view(-1, *[1] * (len(shape) - 1))
    u = (rows + torch.rand(shape, device=device)) / shape[0]
    for column in range(shape[1] if len(shape) > 1 else 0):
        u[:, column] = u[torch.randperm(shape[0], device=device), column]
    return SHIFT * u / (1 + (SHIFT - 1) * u)


def noise_whole(latents: Tensor) -> Noised:
    """One noise level a clip."""
    sigma = levels(latents.shape[0], device=latents.device)
    return _noised(latents, sigma[:, None].expand(-1, latents.shape[2]), sigma * 1000)


def noise_frames(latents: Tensor) -> Noised:
    """A noise level a latent frame; half of the clips begin with frames that are clean or nearly so."""
    batch, _, frames = latents.shape[:3]
    device = latents.device
    sigma = levels(batch, frames, device=device)
    first = torch.randint(0, frames, (batch, 1), device=device) * (torch.rand(batch, 1, device=device) < 0.5)
    prefix = torch.arange(frames, device=device) < first
    nearly = 0.08 * torch.rand(batch, 1, device=device) * (torch.rand(batch, 1, device=device) < 0.5)
    sigma = torch.where(prefix, nearly, sigma)
    noised = _noised(latents, sigma, sigma * 1000)
    return dataclasses.replace(noised, weight=(~prefix).float()[:, None, :, None, None])


def _noised(latents: Tensor, sigma: Tensor, timestep: Tensor) -> Noised:
    noise = torch.randn_like(latents)
    s = sigma[:, None, :, None, None]
    mixed = (1 - s) * latents + s * noise
    weight = torch.ones_like(s)
    return Noised(latents=mixed, velocity=noise - latents, timestep=timestep, weight=weight)


def loss_of(model: Wan, batch: Batch, loads: list[Tensor]) -> Tensor:
    """Weighted mean of the squared velocity error: first half of the batch whole, second half causal."""
    half = batch.latents.shape[0] // 2
    losses = []
    for causal, part in ((False, slice(None, half)), (True, slice(half, None))):
        latents = batch.latents[part]
        noised = noise_frames(latents) if causal else noise_whole(latents)
        context = model.encode_text(batch.states[part], batch.pooled[part])
        out = model(noised.latents, noised.timestep, context, causal=causal, router_loads=loads)
        weight = noised.weight * (1 + COVER_WEIGHT * batch.cover[part])
        error = (out - noised.velocity).square().mean(1, keepdim=True)
        losses.append((error * weight).sum() / weight.sum())
    return (losses[0] + losses[1]) / 2


@torch.no_grad()
def balance(model: Wan, loads: list[Tensor], rate: float) -> Tensor:
    """Move each router's bias towards the experts with too little to do; returns the worst max/mean load."""
    routed = [block.ffn for block in model.blocks if hasattr(block.ffn, "router_bias")]
    worst = torch.zeros((), device=loads[0].device)
    for layer, ffn in enumerate(routed):
        load = sum(loads[layer :: len(routed)])
        ffn.router_bias.add_(rate * torch.sign(load.mean() - load))
        worst = torch.maximum(worst, load.max() / load.mean())
    return worst


def start_small(model: Wan) -> None:
    """Gates, shifts and output start at zero: the untrained model predicts 0 and every block is the
    identity."""
    for tensor in (model.head.weight, model.head.bias, model.head_modulation, model.time_proj.weight):
        torch.nn.init.zeros_(tensor)
    for block in model.blocks:
        torch.nn.init.zeros_(block.modulation)


def train(pool: LatentPool, args: argparse.Namespace) -> tuple[Wan, Average, int]:
    """`args.seconds` of training, the learning rate from place `args.begin` to 1 of its cosine."""
    device = pool.latents.device
    model = Wan(CONFIG, expert_kernel="dense").to(device)
    start_small(model)
    average, step = Average(model, args.decay), 0
    if args.resume:
        step = load_resume(args.resume, model, average)
    fast = cast_weights(copy.deepcopy(model), torch.bfloat16 if device.type == "cuda" else torch.float32)
    shadow = Shadow(model, fast)
    group = optimisers(model, args.lr, edges=EDGES)
    if args.compile:
        for block in fast.blocks:
            block.compile(dynamic=False)
    start, first = time.time(), step
    seconds = args.seconds
    while (place := (time.time() - start) / seconds) < 1:
        resumed = min(1.0, (step - first + 1) / 100) if args.resume else 1.0  # momentum restarts
        rate = args.lr * resumed * warm_cosine(args.begin + (args.end - args.begin) * place)
        set_rate(group, rate)
        loads: list[Tensor] = []
        loss = loss_of(fast, pool.batch(args.batch), loads)
        loss.backward()
        shadow.take_gradients()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in group:
            optimiser.step()
        worst = balance(model, loads, BALANCE_RATE * max(rate / args.lr, 0.05))
        shadow.refresh()
        average.update(model, step)
        step += 1
        if step == first + 5:
            start = time.time()  # compilation is not training
        if step % 100 == 0:
            rest = time.time() - start
            print(f"dit step {step} {rest:.0f}s loss {loss.item():.4f} load {worst.item():.2f}", flush=True)
    print(f"dit: {(step - first) * args.batch / seconds:.0f} clips/s", flush=True)
    return model, average, step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=450)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--decay", type=float, default=0.996)
    parser.add_argument(
        "--begin", type=float, default=0.0, help="place in the learning rate's cosine to begin at"
    )
    parser.add_argument("--end", type=float, default=1.0, help="and to end at")
    parser.add_argument("--pool", type=int, default=100_000, help="clips in the latent pool")
    parser.add_argument("--pool-seconds", type=float, default=100.0, help="at most, for building it")
    parser.add_argument(
        "--seed", type=int, default=10, help="another one for each part: its clips follow from it"
    )
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(args.seed)
    pool = build_pool(args.vae, args.pool, args.pool_seconds, args.seed)
    model, average, step = train(pool, args)
    save_resume(args.out, model, average, step)


if __name__ == "__main__":
    main()
