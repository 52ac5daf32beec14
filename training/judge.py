"""Train the judge on rendered clips: `python -m training.judge --seconds 150 --out FOLDER`.

First on single frames, of which a second holds many times more scenes than of clips (subjects are what is
slow to learn), then on clips.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rushes.models.at_rest import quantize_state, restore
from rushes.models.judge import FRAME_STRIDE, Judge, JudgeConfig
from training.clips import ATTRIBUTES, Clips, ClipSource
from training.optim import set_rate, warm_cosine
from training.world.attributes import HEIGHT, WIDTH


def augment(video: Tensor) -> Tensor:
    """What a VAE or a sampler may do to a clip: blur, noise, brightness; each to a random share of the
    batch."""
    batch, device = video.shape[0], video.device
    some = lambda share: torch.rand(batch, 1, 1, 1, 1, device=device) < share  # noqa: E731
    small = F.interpolate(video.flatten(1, 2), size=(video.shape[-2] // 2, video.shape[-1] // 2), mode="area")
    blurred = F.interpolate(small, size=video.shape[-2:], mode="bilinear").view_as(video)
    video = torch.where(some(0.3), blurred, video)
    strength = 0.12 * torch.rand(batch, 1, 1, 1, 1, device=device) * some(0.4)
    coarse = torch.randn(batch, 3, 1, 16, 24, device=device, dtype=video.dtype)
    coarse = F.interpolate(coarse, size=video.shape[2:], mode="trilinear")
    video = video + strength.to(video.dtype) * (torch.randn_like(video) + coarse)
    gain = 1 + 0.1 * (torch.rand(batch, 1, 1, 1, 1, device=device) - 0.5) * some(0.5)
    return video * gain.to(video.dtype)


@torch.no_grad()
def score(judge: Judge, clips: Clips) -> dict[str, float]:
    """Share of clips read right, by attribute and jointly (the five of the joint score)."""
    judge.eval()
    right = {
        name: logits.argmax(1) == clips.labels[name]
        for name, logits in judge.read(clips.video.float()).items()
    }
    joint = torch.stack([right[name] for name in ATTRIBUTES]).all(0)
    return {name: hits.float().mean().item() for name, hits in (right | {"joint": joint}).items()}


class FrameReader(nn.Module):
    """The judge's convolutions with heads of their own for what one frame shows; thrown away afterwards."""

    def __init__(self, judge: Judge) -> None:
        super().__init__()
        self.judge = judge
        width = 2 * judge.config.widths[-1]
        classes = judge.config.classes
        self.heads = nn.ModuleDict(
            {name: nn.Linear(width, classes[name]) for name in classes if name != "motion"}
        )

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        """[B, 3, 1, H, W] -> logits."""
        pooled = self.judge.describe(frames)[:, 0]
        return {name: head(pooled) for name, head in self.heads.items()}


def fit(model: nn.Module, source: ClipSource, draw: Callable[[], Clips], seconds: float, lr: float) -> None:
    """AdamW, cosine over wall time, cross-entropy of every head; each batch is rendered afresh."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.02, fused=source.on_gpu)
    model.train()
    start, step = time.time(), 0
    while (progress := (time.time() - start) / seconds) < 1:
        set_rate([optimiser], lr * warm_cosine(progress, warm=0.05))
        clips = draw()
        with torch.autocast(source.device.type, torch.bfloat16, enabled=source.on_gpu):
            logits = model(augment(clips.video))
            loss = sum(F.cross_entropy(logits[name].float(), clips.labels[name]) for name in logits)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        step += 1
        if step in (5, 50) or step % 200 == 0:
            print(f"judge step {step} {time.time() - start:.0f}s loss {loss.item():.3f}", flush=True)
    model.eval()


def train(source: ClipSource, args: argparse.Namespace) -> Judge:
    """Frames for `args.frame_share` of the time, then clips."""
    judge = Judge(JudgeConfig(classes=source.num_classes)).to(source.device)
    if args.resume:
        stored = load_file(args.resume)
        state = {name: restore(stored, name) for name in stored if not name.endswith(".scale")}
        judge.load_state_dict(
            {name: state[name] for name in judge.state_dict() if name in state}, strict=False
        )
    judge = judge.to(memory_format=torch.channels_last)
    many = args.batch * 8
    frame = functools.partial(source.draw, many, pairs=False, crop=(1, HEIGHT, WIDTH))
    if args.frame_share:
        reader = FrameReader(judge).to(source.device)
        fit(reader, source, frame, args.seconds * args.frame_share, args.lr)
    clip = functools.partial(source.draw, args.batch, pairs=False, every=FRAME_STRIDE)
    fit(Reading(judge), source, clip, args.seconds * (1 - args.frame_share), args.lr)
    return judge


class Reading(nn.Module):
    """`Judge.read` as a module's forward."""

    def __init__(self, judge: Judge) -> None:
        super().__init__()
        self.judge = judge

    def forward(self, frames: Tensor) -> dict[str, Tensor]:
        return self.judge.read(frames)


def save(judge: Judge, folder: Path) -> None:
    """Config and int8 weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "classes": judge.config.classes,
        "widths": judge.config.widths,
        "num_frames": judge.config.num_frames,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    state = {name: tensor for name, tensor in judge.state_dict().items() if "num_batches" not in name}
    save_file(quantize_state(state), folder / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--frame-share", type=float, default=0.6, help="of the time, for single frames")
    parser.add_argument("--resume", type=Path, help="model.safetensors of an earlier part")
    parser.add_argument("--seed", type=int, default=1, help="another one for each part")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.backends.cudnn.benchmark = True
    source = ClipSource(seed=args.seed)
    judge = train(source, args)
    save(judge, args.out)
    clips = source.draw(min(8 * args.batch, 768), pairs=False, every=FRAME_STRIDE)
    print(
        "judge on fresh rendered clips", {k: round(v, 4) for k, v in score(judge, clips).items()}, flush=True
    )


if __name__ == "__main__":
    main()
