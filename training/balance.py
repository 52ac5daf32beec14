"""Even out the experts' loads where the sampler goes:

    python -m training.balance --dit RUN/dit2 --out RUN/dit3

Training balances the router over noised clips and images. The sampler passes elsewhere: through states of
its own making, half of them without a prompt. Here training's captions are sampled with guidance, and after
each round every router's bias moves by its experts' shortfall; nothing else changes.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rushes.models.wan import TextContext, Wan
from rushes.sampling.schedules import Schedule, uniform_schedule
from training.checkpoints import load_resume, save_resume
from training.dit import CONFIG, fast_copy
from training.optim import Average
from training.text import TextFeatures
from training.world.captions import captions
from training.world.scenes import sample_scenes

LATENT_SHAPE = (16, 9, 16, 24)
RATE = 0.02  # of the bias's move, times the relative shortfall
EVEN = 1.1  # max/mean at which to stop


@torch.no_grad()
def sampled_loads(
    model: Wan, x: Tensor, texts: tuple[TextContext, TextContext], schedule: Schedule, guidance: float
) -> Tensor:
    """Tokens by layer and expert [layers, E] while noise `x` [B, C, T, h, w] becomes clips, with the prompt
    and without."""
    loads: list[Tensor] = []
    for i, timestep in enumerate(schedule.timesteps):
        times = torch.full((len(x),), timestep, device=x.device)
        cond, uncond = (model(x, times, text, router_loads=loads) for text in texts)
        x = x + (schedule.sigmas[i + 1] - schedule.sigmas[i]) * torch.lerp(uncond, cond, guidance)
    return torch.stack(loads).unflatten(0, (-1, model.config.num_layers)).sum(0)


@torch.no_grad()
def even_out(models: list[Wan], measure: Callable[[], Tensor], rounds: int) -> list[float]:
    """Move the biases of `models`, all of one shape, by what `measure` tells; the worst max/mean of each
    round, the first before any move."""
    worst = []
    for _ in range(rounds):
        loads = measure()
        mean = loads.mean(1, keepdim=True)
        worst.append((loads / mean).max().item())
        if worst[-1] <= EVEN:
            break
        for model in models:
            for block, shortfall in zip(model.blocks, 1 - loads / mean, strict=True):
                block.ffn.router_bias.add_(RATE * shortfall)
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dit", type=Path, required=True, help="folder of a resumable checkpoint")
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--shift", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=16)
    parser.add_argument("--seed", type=int, default=40)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    model = Wan(CONFIG, expert_kernel="dense").to(device)
    average = Average(model, 0.0)
    step = load_resume(args.dit, model, average)
    served = Wan(CONFIG, expert_kernel="dense").to(device)
    served.load_state_dict(average.state)
    fast = fast_copy(served, is_compiled=False)
    torch.manual_seed(args.seed)
    scenes = sample_scenes(args.batch * args.rounds, np.random.default_rng(args.seed))
    words = captions(scenes, random.Random(args.seed))
    features = TextFeatures(device)
    schedule = uniform_schedule(args.steps, args.shift)
    batches = iter(range(0, len(words), args.batch))

    def context(some: list[str]) -> TextContext:
        states, pooled = features.encode(some)
        padded = F.pad(states, (0, 0, 0, features.text_len - states.shape[1]))
        return fast.encode_text(padded.float(), pooled.float())

    @torch.no_grad()
    def measure() -> Tensor:
        start = next(batches)
        texts = context(words[start : start + args.batch]), context([""] * args.batch)
        noise = torch.randn(args.batch, *LATENT_SHAPE, device=device)
        return sampled_loads(fast, noise, texts, schedule, args.guidance)

    for number, worst in enumerate(even_out([fast, served], measure, args.rounds)):
        print(f"balance round {number}: worst load {worst:.3f}", flush=True)
    for name, tensor in served.state_dict().items():
        if name.endswith("router_bias"):
            average.state[name] = tensor.float()
            model.state_dict()[name].copy_(tensor)
    save_resume(args.out, model, average, step)


if __name__ == "__main__":
    main()
