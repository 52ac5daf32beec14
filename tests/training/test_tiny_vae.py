"""Distilling a tiny decoder: a few steps, a file that loads."""

import math

import pytest
import torch
from training.clips import ClipSource
from training.vae_folder import load_vae

from benchmarks import tiny_vae as benchmark
from rushes.config import TOY_FOLDER
from rushes.models.tiny_vae import load_tiny_decoder
from training import tiny_vae


def test_a_student_learns_and_is_small_at_rest(tmp_path):
    torch.manual_seed(0)
    source = ClipSource(seed=1)
    vae = load_vae(TOY_FOLDER / "vae", source.device, source.dtype)
    teacher = tiny_vae.Teacher(vae, source, 1)
    lesson = teacher.make(1, (5, 32, 32))
    student = tiny_vae.new_student(vae)
    assert tiny_vae.frames_of(student, lesson.latents).shape == lesson.frames.shape
    optimiser = torch.optim.Adam(student.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss, _ = tiny_vae.loss_of(student, lesson)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    file = tmp_path / tiny_vae.FILE
    tiny_vae.write(tiny_vae.Average(student, 0.9), vae.config, file)
    assert file.stat().st_size <= 250_000
    loaded = load_tiny_decoder(file, vae.config, torch.device("cpu"), torch.float32)
    with torch.no_grad():
        loss_at_rest, _ = tiny_vae.loss_of(loaded, lesson)
    assert float(loss_at_rest) < 1.1 * losses[-1]


def test_psnr_of_known_errors():
    black, grey = (
        torch.zeros(2, 1, 4, 4, 3, dtype=torch.uint8),
        torch.full((2, 1, 4, 4, 3), 51, dtype=torch.uint8),
    )
    assert benchmark.psnr([grey], [black]) == pytest.approx(-20 * math.log10(0.2), abs=1e-3)
    assert benchmark.psnr([black], [black]) == 100
