"""Train the judge on rendered clips: `python -m training.judge --seconds 150 --out FOLDER`."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from rushes.models.judge import FRAME_STRIDE, Judge, JudgeConfig
from rushes.models.at_rest import quantize_state
from training.clips import ATTRIBUTES, ClipSource, Clips
from training.optim import warm_cosine


def augment(video: Tensor) -> Tensor:
    """What a VAE or a sampler may do to a clip: blur, noise, brightness; each to a random share of the batch."""
    batch, device = video.shape[0], video.device
    some = lambda share: torch.rand(batch, 1, 1, 1, 1, device=device) < share  # noqa: E731
    small = F.interpolate(video.flatten(1, 2), scale_factor=0.5, mode="area")
    blurred = F.interpolate(small, size=video.shape[-2:], mode="bilinear").view_as(video)
    video = torch.where(some(0.3), blurred, video)
    strength = 0.12 * torch.rand(batch, 1, 1, 1, 1, device=device) * some(0.4)
    coarse = torch.randn(batch, 3, 3, 16, 24, device=device, dtype=video.dtype)
    coarse = F.interpolate(coarse, size=video.shape[2:], mode="trilinear")
    video = video + strength.to(video.dtype) * (torch.randn_like(video) + coarse)
    gain = 1 + 0.1 * (torch.rand(batch, 1, 1, 1, 1, device=device) - 0.5) * some(0.5)
    return video * gain.to(video.dtype)


@torch.no_grad()
def score(judge: Judge, clips: Clips) -> dict[str, float]:
    """Share of clips read right, by attribute and jointly (the five of the joint score)."""
    judge.eval()
    right = {name: logits.argmax(1) == clips.labels[name] for name, logits in judge.read(clips.video.float()).items()}
    joint = torch.stack([right[name] for name in ATTRIBUTES]).all(0)
    return {name: hits.float().mean().item() for name, hits in (right | {"joint": joint}).items()}


def train(source: ClipSource, seconds: float, batch: int, lr: float) -> Judge:
    """AdamW, cosine over wall time; `source` renders every clip afresh."""
    config = JudgeConfig(classes=source.num_classes)
    judge = Judge(config).to(source.device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(judge.parameters(), lr=lr, weight_decay=0.02, fused=source.on_gpu)
    start, step = time.time(), 0
    while (progress := (time.time() - start) / seconds) < 1:
        judge.train()
        for group in optimiser.param_groups:
            group["lr"] = lr * warm_cosine(progress)
        clips = source.draw(batch, pairs=False, every=FRAME_STRIDE)
        with torch.autocast(source.device.type, torch.bfloat16, enabled=source.on_gpu):
            logits = judge.read(augment(clips.video))
            loss = sum(F.cross_entropy(logits[name].float(), clips.labels[name]) for name in logits)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 5.0)
        optimiser.step()
        step += 1
        if step in (5, 50) or step % 200 == 0:
            print(f"judge step {step} {time.time() - start:.0f}s loss {loss.item():.3f}", flush=True)
    print(f"judge: {step} steps, {step * batch / seconds:.0f} clips/s", flush=True)
    return judge.eval()


def save(judge: Judge, folder: Path) -> None:
    """Config and int8 weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"classes": judge.config.classes, "widths": judge.config.widths, "num_frames": judge.config.num_frames}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    state = {name: tensor for name, tensor in judge.state_dict().items() if "num_batches" not in name}
    save_file(quantize_state(state), folder / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    source = ClipSource(seed=1)
    judge = train(source, args.seconds, args.batch, args.lr)
    save(judge, args.out)
    clips = source.draw(min(8 * args.batch, 768), pairs=False, every=FRAME_STRIDE)
    print("judge on fresh rendered clips", {k: round(v, 4) for k, v in score(judge, clips).items()}, flush=True)


if __name__ == "__main__":
    main()
