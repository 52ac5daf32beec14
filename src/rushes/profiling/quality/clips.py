"""Two clips of one shape beside each other, frame by frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rushes.profiling.quality.motion import Motion, MotionMeter
from rushes.profiling.quality.pixels import flip, has_flip, mean_squared_error, psnr_db, ssim

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """How far clip b is from clip a.

    Attributes:
        psnr_db: of the whole clip, from its mean squared error; infinite for equal clips.
        ssim: mean over the frames.
        flip: mean over the frames; None where FLIP is not installed.
        frame_psnr_db: of each frame.
        a, b: motion and flicker of each clip.
    """

    psnr_db: float
    ssim: float
    flip: float | None
    frame_psnr_db: tuple[float, ...]
    a: Motion
    b: Motion

    @property
    def worst_frame(self) -> int:
        """Number of the frame that differs most."""
        return int(np.argmin(self.frame_psnr_db))


class ClipComparison:
    """Takes two clips frame by frame and keeps none of them.

    Args:
        with_flip: measure FLIP too where it is installed; it takes most of the time.
    """

    def __init__(self, *, with_flip: bool = True) -> None:
        self._with_flip = with_flip and has_flip()
        self._errors: list[float] = []
        self._ssims: list[float] = []
        self._flips: list[float] = []
        self._a, self._b = MotionMeter(), MotionMeter()

    def add(self, a: Picture, b: Picture) -> None:
        """The next frame of both, uint8 [H, W, 3]."""
        self._errors.append(mean_squared_error(a, b))
        self._ssims.append(ssim(a, b))
        if self._with_flip:
            self._flips.append(flip(a, b))
        self._a.add(a)
        self._b.add(b)

    def result(self) -> Comparison:
        """Of at least one frame."""
        return Comparison(
            psnr_db=psnr_db(float(np.mean(self._errors))),
            ssim=float(np.mean(self._ssims)),
            flip=float(np.mean(self._flips)) if self._flips else None,
            frame_psnr_db=tuple(psnr_db(error) for error in self._errors),
            a=self._a.result(),
            b=self._b.result(),
        )


def compare_clips(a: Picture, b: Picture) -> Comparison:
    """Of two clips, uint8 [T, H, W, 3].

    Example:
        >>> clip = np.zeros((2, 16, 16, 3), np.uint8)
        >>> compare_clips(clip, clip).psnr_db
        inf
    """
    assert a.shape == b.shape, f"clips of {a.shape} and {b.shape}"
    comparison = ClipComparison()
    for frame_a, frame_b in zip(a, b, strict=True):
        comparison.add(frame_a, frame_b)
    return comparison.result()


def mean_comparison(comparisons: Sequence[Comparison]) -> Comparison:
    """Of several pairs of clips: PSNR from the mean of their squared errors, the rest as plain means."""
    errors = [10 ** (-each.psnr_db / 10) for each in comparisons]
    flips = [each.flip for each in comparisons if each.flip is not None]
    mean_error = float(np.mean(errors))
    return Comparison(
        psnr_db=math.inf if mean_error == 0 else -10 * math.log10(mean_error),
        ssim=float(np.mean([each.ssim for each in comparisons])),
        flip=float(np.mean(flips)) if flips else None,
        frame_psnr_db=tuple(psnr for each in comparisons for psnr in each.frame_psnr_db),
        a=_mean_motion([each.a for each in comparisons]),
        b=_mean_motion([each.b for each in comparisons]),
    )


def _mean_motion(motions: Sequence[Motion]) -> Motion:
    return Motion(
        motion_px=float(np.mean([each.motion_px for each in motions])),
        flicker=float(np.mean([each.flicker for each in motions])),
    )
