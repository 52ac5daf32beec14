"""Planted motion and flicker are found, each by itself and both together."""

from __future__ import annotations

import numpy as np
import pytest

from rushes.profiling.quality.motion import MAX_WIDTH, Motion, MotionMeter

HEIGHT, WIDTH, NUM_FRAMES = 64, 80, 4


def texture(seed: int, height: int = 160, width: int = 200) -> np.ndarray:
    """Smooth random grey levels, [H, W]."""
    waves = np.random.default_rng(seed).uniform([-0.4, -0.4, 0], [0.4, 0.4, 6.28], (30, 3))
    y, x = np.mgrid[:height, :width]
    total = sum(np.sin(fy * y + fx * x + phase) for fy, fx, phase in waves)
    return 128 + 15 * total


def meter(frames: list[np.ndarray]) -> Motion:
    found = MotionMeter()
    for frame in frames:
        found.add(np.repeat(frame[..., None], 3, 2).clip(0, 255).round().astype(np.uint8))
    return found.result()


def moving(seed: int, dy: int, dx: int, flicker: float = 0.0) -> list[np.ndarray]:
    whole = 0.8 * texture(seed) + 25
    return [
        whole[40 + dy * t : 40 + dy * t + HEIGHT, 60 + dx * t : 60 + dx * t + WIDTH] + flicker * (t % 2)
        for t in range(NUM_FRAMES)
    ]


@pytest.mark.parametrize("step", [(0, 3), (-4, 0), (2, -5)])
def test_planted_motion_is_found(step: tuple[int, int]) -> None:
    found = meter(moving(1, *step))
    assert found.motion_px == pytest.approx(np.hypot(*step), rel=0.1)
    assert found.flicker < 3.0  # what comes into view at the border was nowhere before


def test_planted_flicker_is_no_motion() -> None:
    found = meter(moving(2, 0, 0, flicker=10.0))
    assert found.motion_px < 0.05
    assert found.flicker == pytest.approx(10.0, abs=0.2)


def test_flicker_is_found_beside_motion() -> None:
    found = meter(moving(3, 1, 4, flicker=10.0))
    assert found.motion_px == pytest.approx(np.hypot(1, 4), rel=0.1)
    assert found.flicker == pytest.approx(10.0, abs=1.0)


def test_a_still_clip_and_a_picture() -> None:
    assert meter(moving(4, 0, 0)) == Motion(motion_px=0.0, flicker=0.0)
    assert meter(moving(4, 0, 0)[:1]) == Motion(motion_px=0.0, flicker=0.0)


def test_large_frames_are_reduced_and_their_pixels_count() -> None:
    factor = 2 * MAX_WIDTH // WIDTH
    large = [np.kron(frame, np.ones((factor, factor))) for frame in moving(5, 0, 1)]
    assert meter(large).motion_px == pytest.approx(factor, rel=0.1)
