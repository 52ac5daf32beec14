"""Distil the toy to four steps without guidance, as a LoRA:

    python -m training.few_step --vae RUN/vae --base RUN/dit2 --guidance 2 --seconds 90 --out RUN/few_step

The student's one step over a quarter of the schedule learns where the guided teacher's five steps end
(progressive distillation, arXiv:2202.00512, in one round), from noised latents of the pool.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rushes.models.wan import TextContext, Wan, cast_weights, sources
from rushes.sampling.schedules import uniform_schedule
from training.checkpoints import load_resume
from training.dit import CONFIG
from training.optim import Average, set_rate, warm_cosine
from training.pool import LatentPool, build_pool

STUDENT_STEPS, TEACHER_STEPS = 4, 20
RANK = 16
ADAPTED = ("self_attn.qkv.weight", "self_attn.out.weight", "cross_attn.q.weight", "cross_attn.out.weight")
ADAPTED += ("ffn.shared_up", "ffn.shared_down")


class LowRank(nn.Module):
    """weight + b a, b zero at the start."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        out, width = weight.shape
        self.a = nn.Parameter(torch.randn(RANK, width, device=weight.device) / width**0.5)
        self.b = nn.Parameter(torch.zeros(out, RANK, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


def adapt(model: Wan) -> dict[str, LowRank]:
    """Freeze the model and put a low-rank update on the adapted matrices; by our parameter names."""
    model.requires_grad_(False)
    updates = {}
    for name, parameter in list(model.named_parameters()):
        if name.endswith(ADAPTED):
            owner, leaf = name.rsplit(".", 1)
            updates[name] = LowRank(parameter)
            parametrize.register_parametrization(model.get_submodule(owner), leaf, updates[name])
    return updates


def as_lora(updates: dict[str, LowRank]) -> dict[str, Tensor]:
    """The updates under diffusers' tensor names, with the usual suffixes; the parts of a fused matrix share
    `a`."""
    table = sources(CONFIG, "diffusers")
    state = {}
    for name, update in updates.items():
        names = table[name].names
        for theirs, b in zip(names, update.b.detach().chunk(len(names)), strict=True):
            stem = theirs.removesuffix(".weight")
            state[f"{stem}.lora_A.weight"] = update.a.detach().bfloat16().cpu().clone()
            state[f"{stem}.lora_B.weight"] = b.bfloat16().cpu().contiguous()
    return state


@torch.no_grad()
def teach(
    teacher: Wan,
    x: Tensor,
    start: Tensor,
    sigmas: Tensor,
    text: tuple[TextContext, TextContext],
    guidance: float,
) -> Tensor:
    """Guided Euler from place `start` [B] of the fine schedule over one quarter of it: x -> x."""
    for i in range(TEACHER_STEPS // STUDENT_STEPS):
        now, then = sigmas[start + i], sigmas[start + i + 1]
        cond = teacher(x, now * 1000, text[0])
        velocity = cond if guidance == 1 else torch.lerp(teacher(x, now * 1000, text[1]), cond, guidance)
        x = x + (then - now)[:, None, None, None, None] * velocity
    return x


def train(pool: LatentPool, base: Wan, args: argparse.Namespace) -> dict[str, LowRank]:
    """AdamW on the low-rank updates."""
    device = pool.latents.device
    student = copy.deepcopy(base)
    is_gpu = device.type == "cuda"
    teacher = cast_weights(base.requires_grad_(False), torch.bfloat16 if is_gpu else torch.float32)
    updates = adapt(student)
    if args.compile:
        for block in teacher.blocks:
            block.compile(dynamic=False)
    params = [p for update in updates.values() for p in update.parameters()]
    optimiser = torch.optim.AdamW(params, lr=args.lr, weight_decay=0.0, betas=(0.9, 0.95))
    sigmas = torch.tensor(uniform_schedule(TEACHER_STEPS, args.shift).sigmas, device=device)
    stride = TEACHER_STEPS // STUDENT_STEPS
    empty = pool.batch(args.batch, dropped=1.0)
    with torch.no_grad():
        unguided = teacher.encode_text(empty.states, empty.pooled)
    start, step = time.time(), 0
    while (progress := (time.time() - start) / args.seconds) < 1:
        set_rate([optimiser], args.lr * warm_cosine(progress, warm=0.05))
        batch = pool.batch(args.batch, dropped=0.0)
        place = stride * torch.randint(STUDENT_STEPS, (args.batch,), device=device)
        begin, end = (
            sigmas[place][:, None, None, None, None],
            sigmas[place + stride][:, None, None, None, None],
        )
        x = (1 - begin) * batch.latents + begin * torch.randn_like(batch.latents)
        with torch.no_grad():
            text = teacher.encode_text(batch.states, batch.pooled), unguided
            target = (teach(teacher, x, place, sigmas, text, args.guidance) - x) / (end - begin)
        with torch.autocast(device.type, torch.bfloat16, enabled=is_gpu):
            context = student.encode_text(batch.states, batch.pooled)
            loss = (student(x, sigmas[place] * 1000, context) - target).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimiser.step()
        step += 1
        if step == 3:
            start = time.time()  # compilation is not training
        if step % 50 == 0:
            print(f"few-step {step} {time.time() - start:.0f}s loss {loss.item():.4f}", flush=True)
    return updates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument(
        "--base", type=Path, required=True, help="folder of a resumable transformer checkpoint"
    )
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--shift", type=float, default=3.0)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--pool", type=int, default=20_000)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seed", type=int, default=30, help="another one for each part")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    pool = build_pool(args.vae, args.pool, 60.0, args.seed)
    base = Wan(CONFIG, expert_kernel="dense").to(pool.latents.device)
    average = Average(base, 0.0)
    load_resume(args.base, base, average)
    base.load_state_dict(average.state)
    updates = train(pool, base, args)
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(as_lora(updates), args.out / "few_step.safetensors", metadata={"steps": "4", "guidance": "1"})


if __name__ == "__main__":
    main()
