"""How far two pictures are apart: PSNR, SSIM, and FLIP where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

PEAK = 255.0
WINDOW_RADIUS = 5
_GAUSSIAN = [math.exp(-(offset**2) / (2 * 1.5**2)) for offset in range(-WINDOW_RADIUS, WINDOW_RADIUS + 1)]
WINDOW = [weight / sum(_GAUSSIAN) for weight in _GAUSSIAN]
LUMA = (0.2126, 0.7152, 0.0722)
K1, K2 = 0.01, 0.03

FLIP_MISSING = "FLIP: the package flip-evaluator is not installed (pip install flip-evaluator)"


def mean_squared_error(a: Picture, b: Picture) -> float:
    """Of two uint8 arrays of one shape, in squared grey levels."""
    difference = a.astype(np.float32) - b.astype(np.float32)
    return float(np.mean(np.square(difference), dtype=np.float64))


def psnr_db(mse: float) -> float:
    """Peak signal-to-noise ratio of a mean squared error of 8-bit values, in decibels; infinite for equals.

    Example:
        >>> round(psnr_db(1.0), 2)
        48.13
    """
    return math.inf if mse == 0 else 10 * math.log10(PEAK**2 / mse)


@torch.no_grad()
def ssim(a: Picture, b: Picture) -> float:
    """Structural similarity of the luma of two pictures, uint8 [H, W, 3], at most 1.

    Wang et al., IEEE Trans. Image Processing 13(4), 2004, eq. 13, with their constants, a Gaussian window of
    11x11 and sigma 1.5, and only windows that lie inside the picture. Both sides are at least 11 pixels.
    """
    x, y = luma(a).double(), luma(b).double()
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x = _blurred(x * x) - mean_x * mean_x
    var_y = _blurred(y * y) - mean_y * mean_y
    covariance = _blurred(x * y) - mean_x * mean_y
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return float((luminance * structure).mean())


def luma(picture: Picture) -> Tensor:
    """float32 [H, W] in grey levels of uint8 [H, W, 3] (ITU-R BT.709)."""
    return torch.from_numpy(picture).float() @ torch.tensor(LUMA)


def _blurred(x: Tensor) -> Tensor:
    """[H, W] under the Gaussian window, without the borders."""
    return _blurred_along(_blurred_along(x, 0), 1)


def _blurred_along(x: Tensor, dim: int) -> Tensor:
    length = x.shape[dim] - 2 * WINDOW_RADIUS
    blurred = torch.zeros_like(x.narrow(dim, 0, length))
    for start, weight in enumerate(WINDOW):
        blurred.add_(x.narrow(dim, start, length), alpha=weight)
    return blurred


def has_flip() -> bool:
    """Whether FLIP is installed."""
    return importlib.util.find_spec("flip_evaluator") is not None


def flip(reference: Picture, picture: Picture) -> float:
    """The mean FLIP error of uint8 [H, W, 3], 0 for equals and at most 1 (Andersson et al., HPG 2020), seen
    at 67 pixels a degree. Needs `has_flip`."""
    evaluate = importlib.import_module("flip_evaluator").evaluate
    pair = [(image / PEAK).astype(np.float32) for image in (reference, picture)]
    _, mean, _ = evaluate(*pair, "LDR", inputsRGB=True, applyMagma=False, computeMeanError=True)
    return float(mean)
