"""PSNR and SSIM against their definitions, written out slowly; FLIP where it is installed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rushes.profiling.quality.clips import compare_clips, mean_comparison
from rushes.profiling.quality.pixels import flip, has_flip, luma, mean_squared_error, psnr_db, ssim


def noisy_pair(seed: int, height: int = 23, width: int = 31) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(seed)
    smooth = np.add.outer(np.linspace(0, 160, height), np.linspace(0, 90, width))[..., None]
    a = np.broadcast_to(smooth, (height, width, 3)) + chance.normal(0, 8, (height, width, 3))
    b = a * chance.uniform(0.8, 1.1) + chance.normal(0, 12, a.shape)
    return tuple(x.clip(0, 255).round().astype(np.uint8) for x in (a, b))


def slow_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Window by window, weighted sums as in the paper; no separable filter, no shortcut for the variance."""
    grid = np.arange(-5, 6)
    weights = np.exp(-(grid[:, None] ** 2 + grid[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    x, y = (luma(picture).numpy().astype(np.float64) for picture in (a, b))
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            u, v = (image[top : top + 11, left : left + 11] for image in (x, y))
            mean_u, mean_v = (weights * u).sum(), (weights * v).sum()
            var_u, var_v = (weights * (u - mean_u) ** 2).sum(), (weights * (v - mean_v) ** 2).sum()
            both = (weights * (u - mean_u) * (v - mean_v)).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            top_part = (2 * mean_u * mean_v + c1) * (2 * both + c2)
            values.append(top_part / ((mean_u**2 + mean_v**2 + c1) * (var_u + var_v + c2)))
    return float(np.mean(values))


@pytest.mark.parametrize("seed", range(3))
def test_ssim_is_the_papers(seed: int) -> None:
    a, b = noisy_pair(seed)
    assert ssim(a, b) == pytest.approx(slow_ssim(a, b), abs=1e-9)
    assert ssim(a, b) == pytest.approx(ssim(b, a), abs=1e-12)


def test_equal_pictures() -> None:
    a, _ = noisy_pair(0)
    assert ssim(a, a) == pytest.approx(1.0)
    assert psnr_db(mean_squared_error(a, a)) == math.inf


def test_psnr_by_hand() -> None:
    a = np.full((16, 16, 3), 100, np.uint8)
    assert psnr_db(mean_squared_error(a, a + 5)) == pytest.approx(10 * math.log10(255**2 / 25))
    assert psnr_db(mean_squared_error(a + 5, a)) == pytest.approx(34.15, abs=0.01)


def test_a_clips_figures_are_those_of_its_frames() -> None:
    pairs = [noisy_pair(seed) for seed in range(4)]
    a, b = (np.stack([pair[i] for pair in pairs]) for i in (0, 1))
    found = compare_clips(a, b)
    assert found.ssim == pytest.approx(np.mean([ssim(*pair) for pair in pairs]))
    assert found.psnr_db == pytest.approx(psnr_db(mean_squared_error(a, b)))
    assert found.worst_frame == int(np.argmin([psnr_db(mean_squared_error(*pair)) for pair in pairs]))


def test_several_clips_share_one_error() -> None:
    a, b = (np.stack([picture] * 2) for picture in noisy_pair(1))
    equal, different = compare_clips(a, a), compare_clips(a, b)
    both = mean_comparison([equal, different])
    assert both.psnr_db == pytest.approx(different.psnr_db + 10 * math.log10(2))
    assert mean_comparison([equal, equal]).psnr_db == math.inf


@pytest.mark.skipif(not has_flip(), reason="flip-evaluator is not installed")
def test_flip_grows_with_the_difference() -> None:
    a, b = noisy_pair(2)
    assert flip(a, a) == 0.0
    assert 0.0 < flip(a, ((a.astype(int) + b) // 2).astype(np.uint8)) < flip(a, b) <= 1.0


def test_without_flip_there_is_none() -> None:
    a, b = (picture[None] for picture in noisy_pair(0))
    assert (compare_clips(a, b).flip is None) == (not has_flip())
