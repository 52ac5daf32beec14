"""Distil the toy's VAE decoder into a tiny one: `python -m training.tiny_vae --seconds 45 --out FOLDER`.

The whole decoder's frames of rendered clips are the target: squared, L1 and gradient error. Crops of 17
frames, fresh ones on a GPU; on a CPU a pool of crops that is gone through again, since a teacher's call costs
more than the student's step. Writes `tiny_decoder.safetensors`, int8 at rest, which goes into
`src/rushes/assets/toy/tiny_vae`.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rushes.models.at_rest import quantize_int8, restore
from rushes.models.configs import WanVAEConfig
from rushes.models.tiny_vae import TRAINED_FOR, TinyDecoder, statistics_of
from rushes.models.wan_vae import WanVAE
from training.clips import ClipSource
from training.optim import Average, Shadow, optimisers, set_rate, warm_cosine
from training.vae import gradients
from training.vae_folder import load_vae

WIDTHS = (28, 20, 16, 14)
CROP = (17, 96, 96)  # frames, height, width
POOL = 48  # crops that a CPU goes through again
FILE = "tiny_decoder.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """Normalised latents [B, z, T', h, w], and the teacher's frames [B, 3, T, H, W] in [0, 1]."""

    latents: Tensor
    frames: Tensor


def new_student(vae: WanVAE) -> TinyDecoder:
    """For the teacher's latents; the last level keeps its size, a patch of 2 doubles it."""
    return TinyDecoder(z_dim=vae.config.z_dim, widths=WIDTHS, doubles=(True, True, False), patch_size=2)


class Teacher:
    """Lessons from rendered clips; without a GPU, from a pool of them."""

    def __init__(self, vae: WanVAE, source: ClipSource, batch: int) -> None:
        self._vae, self._source, self._batch = vae, source, batch
        self._pool: list[Lesson] = []
        self._next = 0

    def lesson(self) -> Lesson:
        """The next."""
        if self._source.on_gpu:
            return self.make(self._batch, CROP)
        if len(self._pool) * self._batch < POOL:
            self._pool.append(self.make(self._batch, CROP))
            return self._pool[-1]
        self._next += 1
        return self._pool[self._next % len(self._pool)]

    @torch.no_grad()
    def make(self, size: int, crop: tuple[int, int, int] | None) -> Lesson:
        """A fresh one; whole clips without a crop."""
        video = self._source.draw(size, crop=crop).video
        latents = self._vae.encode_whole(video)
        frames = self._vae.decode_whole(latents).float().clamp(-1, 1) / 2 + 0.5
        return Lesson(latents=latents, frames=frames)


def frames_of(student: TinyDecoder, latents: Tensor) -> Tensor:
    """[B, 3, T, H, W] of a whole clip."""
    dtype = next(student.parameters()).dtype
    frames: Tensor = student(latents.to(dtype), None)[0]
    return frames[:, :, student.frames_a_latent - 1 :].float()


def loss_of(student: TinyDecoder, lesson: Lesson) -> tuple[Tensor, Tensor]:
    """Training loss, and the mean squared error."""
    made = frames_of(student, lesson.latents)
    difference = made - lesson.frames
    squared = difference.square().mean()
    sharp = (gradients(made) - gradients(lesson.frames)).abs().mean()
    return difference.abs().mean() + 20 * squared + 0.5 * sharp, squared.detach()


def train(teacher: Teacher, student: TinyDecoder, dtype: torch.dtype, args: argparse.Namespace) -> Average:
    """Muon and AdamW, cosine over wall time, an average of the weights."""
    student = student.to(memory_format=torch.channels_last)
    fast = copy.deepcopy(student).to(dtype)
    shadow, average = Shadow(student, fast), Average(student, 0.995)
    group = optimisers(student, args.lr, edges=("decoder.1.", "decoder.22."))
    start, step = time.time(), 0
    while (progress := (time.time() - start) / args.seconds) < 1:
        set_rate(group, args.lr * warm_cosine(progress))
        loss, squared = loss_of(fast, teacher.lesson())
        loss.backward()
        shadow.take_gradients()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for optimiser in group:
            optimiser.step()
        shadow.refresh()
        average.update(student, step)
        step += 1
        if step in (5, 50) or step % 200 == 0:
            seconds = time.time() - start
            print(f"tiny step {step} {seconds:.0f}s psnr {-10 * math.log10(squared.item()):.2f}", flush=True)
    print(f"tiny: {step} steps", flush=True)
    return average


def write(average: Average, config: WanVAEConfig, file: Path) -> None:
    """The weights as they are shipped: kernels int8 with a float32 scale a row, biases float32."""
    stored: dict[str, Tensor] = {}
    for name, tensor in average.state.items():
        parts = quantize_int8(tensor.cpu()) if tensor.ndim > 1 else {"": tensor.cpu()}
        stored |= {name + suffix: part for suffix, part in parts.items()}
    save_file(stored, file, metadata={TRAINED_FOR: statistics_of(config)})


@torch.no_grad()
def measure(student: TinyDecoder, file: Path, teacher: Teacher, num_clips: int) -> float:
    """PSNR against the teacher over fresh whole clips, with the weights of the file."""
    stored = load_file(file)
    names = [name for name in stored if not name.endswith(".scale")]
    student.load_state_dict({name: restore(stored, name) for name in names})
    errors = []
    for _ in range(math.ceil(num_clips / 8)):
        lesson = teacher.make(min(8, num_clips), None)
        made = frames_of(student, lesson.latents).clamp(0, 1)
        errors.append((made - lesson.frames).square().flatten(1).mean(1))
    return -10 * torch.cat(errors).log10().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, default=Path("src/rushes/assets/toy/vae"))
    parser.add_argument("--seconds", type=float, default=45)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--clips", type=int, default=64, help="clips to measure on")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(5)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    source = ClipSource(seed=5)
    vae = load_vae(args.vae, source.device, source.dtype)
    teacher = Teacher(vae, source, args.batch)
    student = new_student(vae).to(source.device)
    average = train(teacher, student, source.dtype, args)
    args.out.mkdir(parents=True, exist_ok=True)
    write(average, vae.config, args.out / FILE)
    value = measure(student, args.out / FILE, teacher, args.clips)
    size = (args.out / FILE).stat().st_size
    print(
        f"tiny: PSNR {value:.2f} dB against the whole decoder on {args.clips} clips, {size} bytes", flush=True
    )


if __name__ == "__main__":
    main()
