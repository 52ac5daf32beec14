"""The Fréchet distance between two sets of clips, over features of at most 64 numbers a clip.

Over the toy judge's features it says something of toy clips alone, and is called a Fréchet distance, not FVD:
that name means I3D features, which the same functions take where a user has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

MAX_WIDTH = 64
MIN_CLIPS = 1000
NUM_RESAMPLES = 200
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class FrechetDistance:
    """Of two sets of clips.

    Attributes:
        num_a, num_b: clips of each set.
        distance: by the formula; too large, as covariances of few clips differ by chance.
        corrected: without the part that the bootstrap finds to be chance; may be below 0 for equal sets.
        low, high: 95 % interval of the corrected distance (basic bootstrap, both sets drawn anew). In trials
            with 300 normal clips a side and 8 features it held the truth 90 times of 100.
    """

    num_a: int
    num_b: int
    distance: float
    corrected: float
    low: float
    high: float

    @property
    def is_reportable(self) -> bool:
        """Whether both sets have the 1,000 clips that a quoted figure needs."""
        return min(self.num_a, self.num_b) >= MIN_CLIPS

    @property
    def caveat(self) -> str:
        """Empty, or why this is no figure to quote."""
        if self.is_reportable:
            return ""
        return f"not to be quoted: {self.num_a} and {self.num_b} clips, {MIN_CLIPS} a side are needed"


def frechet_distance(
    a: Array, b: Array, *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> FrechetDistance:
    """Between features [N, D] and [M, D]; wider ones than 64 are projected first.

    Args:
        seed, num_resamples: of the bootstrap.

    Raises:
        ValueError: fewer than 2 clips a side, other shapes, or values that are not finite.
    """
    a, b = _checked(a, b)
    a, b = project(a), project(b)
    chance = np.random.default_rng(seed)
    drawn = np.array([_distance(_resample(a, chance), _resample(b, chance)) for _ in range(num_resamples)])
    distance = _distance(a, b)
    tail = (1 - CONFIDENCE) / 2
    return FrechetDistance(
        num_a=len(a),
        num_b=len(b),
        distance=distance,
        corrected=2 * distance - float(drawn.mean()),
        low=2 * distance - float(np.quantile(drawn, 1 - tail)),
        high=2 * distance - float(np.quantile(drawn, tail)),
    )


def project(features: Array, width: int = MAX_WIDTH) -> Array:
    """[N, D] -> [N, width] by a fixed random orthonormal map; as it is where D is no larger."""
    num_features = features.shape[1]
    if num_features <= width:
        return features
    chance = np.random.default_rng(num_features)
    basis, _ = np.linalg.qr(chance.standard_normal((num_features, width)))
    projected: Array = features @ basis
    return projected


def frechet_of_normals(mean_a: Array, cov_a: Array, mean_b: Array, cov_b: Array) -> float:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)) (Dowson and Landau, J. Multivariate Anal. 12, 1982).

    The trace of the root is that of (C_a^(1/2) C_b C_a^(1/2))^(1/2), which is symmetric.
    """
    root_a = root_of(cov_a)
    cross = np.linalg.eigvalsh(root_a @ cov_b @ root_a).clip(min=0)
    shift = np.square(mean_a - mean_b).sum()
    return float(shift + np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(cross).sum())


def root_of(matrix: Array) -> Array:
    """The symmetric square root of a symmetric positive semi-definite matrix; eigenvalues that rounding made
    negative count as 0.

    Example:
        >>> root_of(np.diag([4.0, 9.0])).tolist()
        [[2.0, 0.0], [0.0, 3.0]]
    """
    values, vectors = np.linalg.eigh(matrix)
    root: Array = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    return root


def _checked(a: Array, b: Array) -> tuple[Array, Array]:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"features must be [N, D] and [M, D] with N, M >= 2, got {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("features must be finite")
    return a.astype(np.float64), b.astype(np.float64)


def _distance(a: Array, b: Array) -> float:
    covariances = [np.atleast_2d(np.cov(features, rowvar=False)) for features in (a, b)]
    return frechet_of_normals(a.mean(0), covariances[0], b.mean(0), covariances[1])


def _resample(features: Array, chance: np.random.Generator) -> Array:
    return features[chance.integers(len(features), size=len(features))]
