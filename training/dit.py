"""Train the toy's diffusion transformer, in parts that resume:

    torchrun --nproc-per-node 2 -m training.dit --vae RUN/vae --seconds 400 --end 0.5 --out RUN/dit
    python -m training.dit --vae RUN/vae --seconds 400 --resume RUN/dit --begin 0.5 --out RUN/dit2

Rectified flow (x_s = (1-s) x0 + s eps, v = eps - x0). A batch holds images (clips of one frame) or whole
clips. An image shows as many subjects as a clip for a ninth of the work: images come first, and in between.
Half of a batch of clips sees the whole clip at one noise level; the other half is block-causal over latent
frames with a noise level per frame, part of it behind a clean prefix, as in streaming.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import random
import time
from pathlib import Path

import torch
from torch import Tensor

from rushes.models.configs import ExpertsConfig, WanConfig
from rushes.models.wan import Wan, cast_weights
from training.checkpoints import load_resume, save_resume
from training.optim import Average, Shadow, optimisers, set_rate, warm_cosine
from training.pool import Batch, LatentPool, build_pool
from training.team import Team, join

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
IMAGES_A_CLIP = 8  # images in a batch for every clip: about as many tokens
SHIFT = 2.5  # of the training noise levels, sigma = s u / (1 + (s-1) u)
EDGES = ("patch_embed", "text_embed", "time_embed", "pooled_embed", "modulation", "head", "router")
BALANCE_RATE = 2e-3
CLOCK_STEPS = 10  # between two looks at the clock
COVER_WEIGHT = 8.0  # of the error where sprites are, above 1 elsewhere: they are a tenth of the picture


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
    """Weighted mean of the squared velocity error; of clips, the second half of the batch is causal."""
    if batch.latents.shape[2] == 1:
        return _loss(model, batch, slice(None), loads, causal=False)
    half = batch.latents.shape[0] // 2
    whole = _loss(model, batch, slice(None, half), loads, causal=False)
    return (whole + _loss(model, batch, slice(half, None), loads, causal=True)) / 2


def _loss(model: Wan, batch: Batch, part: slice, loads: list[Tensor], *, causal: bool) -> Tensor:
    latents = batch.latents[part]
    noised = noise_frames(latents) if causal else noise_whole(latents)
    context = model.encode_text(batch.states[part], batch.pooled[part])
    out = model(noised.latents, noised.timestep, context, causal=causal, router_loads=loads)
    weight = noised.weight * (1 + COVER_WEIGHT * batch.cover[part])
    error = (out - noised.velocity).square().mean(1, keepdim=True)
    return (error * weight).sum() / weight.sum()


@torch.no_grad()
def balance(model: Wan, loads: list[Tensor], rate: float, team: Team) -> Tensor:
    """Move each router's bias towards the experts with too little to do; returns the worst max/mean load."""
    routed = [block.ffn for block in model.blocks if hasattr(block.ffn, "router_bias")]
    worst = torch.zeros((), device=loads[0].device)
    by_layer = team.total(torch.stack(loads).unflatten(0, (-1, len(routed))).sum(0))
    for load, ffn in zip(by_layer, routed, strict=True):
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


@dataclasses.dataclass(slots=True, kw_only=True)
class Timetable:
    """How far a part is, by its wall time, and what its next step learns from.

    Attributes:
        begin, end: of the part on the learning rate's cosine.
        images_first: share of the part that is spent on images alone, at its beginning.
        image_share: share of the steps after that which learn from images.
    """

    seconds: float
    begin: float
    end: float
    images_first: float
    image_share: float
    place: float = 0.0

    def look(self, start: float, team: Team) -> bool:
        """Read the clock; False when the part is over. All processes read the leader's."""
        self.place = team.agree((time.time() - start) / self.seconds)
        return self.place < 1

    def shorten(self, seconds: float) -> None:
        """Take no longer than this."""
        self.seconds = min(self.seconds, seconds)

    def takes_images(self, chance: random.Random) -> bool:
        """Whether the next step learns from images."""
        return self.place < self.images_first or chance.random() < self.image_share

    @property
    def rate(self) -> float:
        """Factor of the learning rate."""
        return warm_cosine(self.begin + (self.end - self.begin) * self.place)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pools:
    """What there is to learn from."""

    images: LatentPool
    clips: LatentPool

    def batch(self, size: int, *, takes_images: bool) -> Batch:
        """As many clips, or the images that weigh as much."""
        return self.images.batch(size * IMAGES_A_CLIP) if takes_images else self.clips.batch(size)


class Trainer:
    """A float32 model, its moving average, and the copy in serving dtypes that does the arithmetic."""

    def __init__(self, device: torch.device, args: argparse.Namespace, team: Team) -> None:
        self.model = Wan(CONFIG, expert_kernel="dense").to(device)
        start_small(self.model)
        self.average, self.step = Average(self.model, args.decay), 0
        if args.resume:
            self.step = load_resume(args.resume, self.model, self.average)
        for parameter in self.model.parameters():
            team.share(parameter)
        self.fast = fast_copy(self.model, is_compiled=args.compile)
        self._shadow = Shadow(self.model, self.fast)
        self._optimisers = optimisers(self.model, args.lr, edges=EDGES)
        self._team, self._lr = team, args.lr

    def learn(self, batch: Batch, factor: float) -> tuple[Tensor, Tensor]:
        """One step at this factor of the learning rate; the loss and the worst expert load, on the device."""
        set_rate(self._optimisers, self._lr * factor)
        loads: list[Tensor] = []
        loss = loss_of(self.fast, batch, loads)
        loss.backward()
        self._shadow.take_gradients()
        self._team.average_gradients(self.model.parameters())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimiser in self._optimisers:
            optimiser.step()
        worst = balance(self.model, loads, BALANCE_RATE * max(factor, 0.05), self._team)
        self._shadow.refresh()
        self.average.update(self.model, self.step)
        self.step += 1
        return loss.detach(), worst


def fast_copy(model: Wan, *, is_compiled: bool) -> Wan:
    """A copy in the dtypes that the model serves in, its blocks compiled if asked for."""
    on_gpu = next(model.parameters()).is_cuda
    fast = cast_weights(copy.deepcopy(model), torch.bfloat16 if on_gpu else torch.float32)
    if is_compiled:
        torch._dynamo.config.recompile_limit = 64  # images, whole and causal clips, in each of the blocks
        for block in fast.blocks:
            block.compile(dynamic=False)
    return fast


def train(trainer: Trainer, pools: Pools, timetable: Timetable, args: argparse.Namespace, team: Team) -> None:
    """`timetable.seconds` of training; the clock starts anew once every kind of batch has been compiled."""
    chance = random.Random(args.seed)  # one for all processes, which take the same kind of batch
    for takes_images in (True, False):
        loss, _ = trainer.learn(pools.batch(args.batch, takes_images=takes_images), 1e-4)
        if team.leads:
            print(f"dit: loss {loss.item():.4f} before, {'images' if takes_images else 'clips'}", flush=True)
    start, first, seen = time.time(), trainer.step, {True: 0, False: 0}
    timetable.shorten(args.within - (start - args.started))
    while timetable.look(start, team):
        for _ in range(CLOCK_STEPS):
            takes_images = timetable.takes_images(chance)
            batch = pools.batch(args.batch, takes_images=takes_images)
            resumed = min(1.0, (trainer.step - first + 1) / 100) if args.resume else 1.0  # no momentum yet
            loss, worst = trainer.learn(batch, resumed * timetable.rate)
            seen[takes_images] += len(batch.latents) * team.size
        if team.leads and (trainer.step - first) % (10 * CLOCK_STEPS) < CLOCK_STEPS:
            kind = "images" if takes_images else "clips"
            print(
                f"dit step {trainer.step} {time.time() - start:.0f}s {kind} loss {loss.item():.4f} "
                f"load {worst.item():.2f}, {seen[True]} images, {seen[False]} clips",
                flush=True,
            )
    if team.leads:
        print(f"dit: {seen[True]} images and {seen[False]} clips in {time.time() - start:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=450)
    parser.add_argument(
        "--within", type=float, default=1e9, help="seconds for everything; shortens --seconds"
    )
    parser.add_argument("--batch", type=int, default=128, help="clips in each process's step")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--decay", type=float, default=0.996)
    parser.add_argument(
        "--begin", type=float, default=0.0, help="place in the learning rate's cosine to begin at"
    )
    parser.add_argument("--end", type=float, default=1.0, help="and to end at")
    parser.add_argument("--images", type=int, default=100_000, help="in each process's pool")
    parser.add_argument("--clips", type=int, default=40_000, help="in each process's pool")
    parser.add_argument("--pool-seconds", type=float, default=60.0, help="at most, for building each of them")
    parser.add_argument("--images-first", type=float, default=0.0, help="share of the time on images alone")
    parser.add_argument("--image-share", type=float, default=0.3, help="of the steps after that")
    parser.add_argument(
        "--seed", type=int, default=10, help="another one for each part: its clips follow from it"
    )
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(namespace=argparse.Namespace(started=time.time()))
    torch.set_float32_matmul_precision("high")
    team = join()
    seed = team.seed(args.seed)
    torch.manual_seed(seed)
    images = build_pool(args.vae, args.images, args.pool_seconds, seed + 500, num_frames=1)
    pools = Pools(images=images, clips=build_pool(args.vae, args.clips, args.pool_seconds, seed))
    trainer = Trainer(pools.clips.latents.device, args, team)
    torch.manual_seed(seed)  # a checkpoint brings one random state for all
    timetable = Timetable(
        seconds=args.seconds,
        begin=args.begin,
        end=args.end,
        images_first=args.images_first,
        image_share=args.image_share,
    )
    train(trainer, pools, timetable, args, team)
    if team.leads:
        save_resume(args.out, trainer.model, trainer.average, trainer.step)
    team.leave()


if __name__ == "__main__":
    main()
