"""Distil the toy to four steps without guidance, as a LoRA:

    torchrun --nproc-per-node 2 -m training.few_step --vae RUN/vae --base RUN/dit2 --seconds 90 \\
        --compile --out RUN/few_step

The student's one step over a quarter of the schedule learns where the guided teacher's five steps end
(progressive distillation, arXiv:2202.00512, in one round), from noised latents of the pool.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rushes.models.wan import TextContext, Wan, sources
from rushes.sampling.schedules import uniform_schedule
from training.checkpoints import load_resume
from training.dit import CLOCK_STEPS, CONFIG, COVER_WEIGHT, fast_copy
from training.optim import Average, set_rate, warm_cosine
from training.pool import LatentPool, build_pool
from training.team import Team, join

STUDENT_STEPS, TEACHER_STEPS = 4, 20
RANK = 16
ADAPTED = ("self_attn.qkv.weight", "self_attn.out.weight", "cross_attn.q.weight", "cross_attn.out.weight")
ADAPTED += ("ffn.shared_up", "ffn.shared_down")


class LowRank(nn.Module):
    """An update b a of one matrix, b zero at the start."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        out, width = weight.shape
        self.a = nn.Parameter(torch.randn(RANK, width, device=weight.device) / width**0.5)
        self.b = nn.Parameter(torch.zeros(out, RANK, device=weight.device))

    @torch.no_grad()
    def take_gradient(self, gradient: Tensor) -> None:
        """From the matrix's own gradient G, by the chain rule: b^T G and G a^T."""
        gradient = gradient.float()
        self.a.grad, self.b.grad = self.b.T @ gradient, gradient @ self.a.T


class Student:
    """The base model with low-rank updates; the plain model in `fast` is what runs, so that it compiles like
    any other."""

    def __init__(self, base: Wan, *, is_compiled: bool) -> None:
        self.fast = fast_copy(base, is_compiled=is_compiled).requires_grad_(False)
        weights = {name: p for name, p in base.named_parameters() if name.endswith(ADAPTED)}
        self.updates = {name: LowRank(weight) for name, weight in weights.items()}
        fast = dict(self.fast.named_parameters())
        self._matrices = [(weight, fast[name].requires_grad_(True)) for name, weight in weights.items()]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Of the updates."""
        return [p for update in self.updates.values() for p in update.parameters()]

    def take_gradients(self) -> None:
        """Pass the running matrices' gradients on to their updates."""
        for update, (_, matrix) in zip(self.updates.values(), self._matrices, strict=True):
            assert matrix.grad is not None
            update.take_gradient(matrix.grad)
            matrix.grad = None

    @torch.no_grad()
    def refresh(self) -> None:
        """Give the running matrices what the updates have become."""
        for update, (weight, matrix) in zip(self.updates.values(), self._matrices, strict=True):
            matrix.copy_(weight + update.b @ update.a)


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


def train(pool: LatentPool, base: Wan, args: argparse.Namespace, team: Team) -> dict[str, LowRank]:
    """AdamW on the low-rank updates."""
    device = pool.latents.device
    teacher = fast_copy(base, is_compiled=args.compile).requires_grad_(False)
    student = Student(base, is_compiled=args.compile)
    for p in student.parameters:
        team.share(p)
    optimiser = torch.optim.AdamW(student.parameters, lr=args.lr, weight_decay=0.0, betas=(0.9, 0.95))
    sigmas = torch.tensor(uniform_schedule(TEACHER_STEPS, args.shift).sigmas, device=device)
    stride = TEACHER_STEPS // STUDENT_STEPS
    empty = pool.batch(args.batch, dropped=1.0)
    with torch.no_grad():
        unguided = teacher.encode_text(empty.states, empty.pooled)
    start, step, progress = time.time(), 0, 0.0
    while progress < 1:
        set_rate([optimiser], args.lr * warm_cosine(progress, warm=0.05))
        batch = pool.batch(args.batch, dropped=0.0)
        place = stride * torch.randint(STUDENT_STEPS, (args.batch,), device=device)
        begin, end = (sigmas[place + shift][:, None, None, None, None] for shift in (0, stride))
        x = (1 - begin) * batch.latents + begin * torch.randn_like(batch.latents)
        with torch.no_grad():
            text = teacher.encode_text(batch.states, batch.pooled), unguided
            target = (teach(teacher, x, place, sigmas, text, args.guidance) - x) / (end - begin)
        context = student.fast.encode_text(batch.states, batch.pooled)
        error = (student.fast(x, sigmas[place] * 1000, context) - target).square().mean(1, keepdim=True)
        weight = 1 + COVER_WEIGHT * batch.cover
        loss = (error * weight).sum() / weight.sum()
        loss.backward()
        student.take_gradients()
        team.average_gradients(student.parameters)
        torch.nn.utils.clip_grad_norm_(student.parameters, 1.0)
        optimiser.step()
        student.refresh()
        step += 1
        if step == 3:
            start = time.time()  # compilation is not training
        if step % CLOCK_STEPS == 0 or step < 4:
            progress = team.agree((time.time() - start) / args.seconds) if step > 3 else 0.0
        if step % 50 == 0 and team.leads:
            print(f"few-step {step} {time.time() - start:.0f}s loss {loss.item():.4f}", flush=True)
    return student.updates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument(
        "--base", type=Path, required=True, help="folder of a resumable transformer checkpoint"
    )
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--shift", type=float, default=3.0)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--pool", type=int, default=20_000)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--seed", type=int, default=30, help="another one for each part")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    team = join()
    seed = team.seed(args.seed)
    torch.manual_seed(seed)
    pool = build_pool(args.vae, args.pool, 60.0, seed)
    base = Wan(CONFIG, expert_kernel="dense").to(pool.latents.device)
    average = Average(base, 0.0)
    load_resume(args.base, base, average)
    torch.manual_seed(seed)  # the checkpoint brings one random state for all
    base.load_state_dict(average.state)
    updates = train(pool, base, args, team)
    if team.leads:
        args.out.mkdir(parents=True, exist_ok=True)
        metadata = {"steps": str(STUDENT_STEPS), "guidance": "1"}
        save_file(as_lora(updates), args.out / "few_step.safetensors", metadata=metadata)
    team.leave()


if __name__ == "__main__":
    main()
