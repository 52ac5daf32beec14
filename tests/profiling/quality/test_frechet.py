"""The distance against closed forms and another square root; what its interval covers."""

from __future__ import annotations

import numpy as np
import pytest

from rushes.profiling.quality.frechet import (
    MAX_WIDTH,
    frechet_distance,
    frechet_of_normals,
    project,
    root_of,
)


def covariance(seed: int, size: int = 6, rank: int | None = None) -> np.ndarray:
    factor = np.random.default_rng(seed).standard_normal((size, rank or size))
    return factor @ factor.T


def denman_beavers(matrix: np.ndarray) -> np.ndarray:
    """The principal square root of any matrix without eigenvalues on the negative axis (Denman and Beavers,
    Appl. Math. Comput. 2, 1976)."""
    root, inverse = matrix, np.eye(len(matrix))
    for _ in range(60):
        root, inverse = (root + np.linalg.inv(inverse)) / 2, (inverse + np.linalg.inv(root)) / 2
    return root


@pytest.mark.parametrize("seed", range(4))
def test_the_root_is_a_root(seed: int) -> None:
    matrix = covariance(seed)
    assert root_of(matrix) @ root_of(matrix) == pytest.approx(matrix, abs=1e-10)
    assert root_of(matrix) == pytest.approx(denman_beavers(matrix), abs=1e-6)


def test_the_root_of_a_singular_matrix() -> None:
    matrix = covariance(0, rank=2)
    assert root_of(matrix) @ root_of(matrix) == pytest.approx(matrix, abs=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_the_formula_with_a_root_of_the_product(seed: int) -> None:
    """As it is usually written, with the root of a matrix that is not symmetric."""
    cov_a, cov_b = covariance(seed), covariance(seed + 10)
    mean_a, mean_b = np.random.default_rng(seed).standard_normal((2, 6))
    expected = np.square(mean_a - mean_b).sum() + np.trace(cov_a + cov_b - 2 * denman_beavers(cov_a @ cov_b))
    assert frechet_of_normals(mean_a, cov_a, mean_b, cov_b) == pytest.approx(expected, rel=1e-6)


def test_diagonal_covariances_by_hand() -> None:
    """Independent coordinates add up: (m - n)^2 + (s - t)^2 of each."""
    found = frechet_of_normals(np.zeros(2), np.diag([1.0, 4.0]), np.array([3.0, 0.0]), np.diag([1.0, 9.0]))
    assert found == pytest.approx(9 + (2 - 3) ** 2)


def draw(num: int, seed: int, shift: float = 0.0, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num, width)) + shift


def test_the_interval_covers_the_truth() -> None:
    """Both sets are normal and differ by 0.5 in each of 8 coordinates: the distance is 2."""
    found = [
        frechet_distance(draw(300, seed), draw(300, seed + 1000, 0.5), seed=seed, num_resamples=100)
        for seed in range(25)
    ]
    assert sum(each.low <= 2.0 <= each.high for each in found) >= 20
    plain, corrected = np.mean([(each.distance - 2, each.corrected - 2) for each in found], 0)
    assert plain > 0.08, "few clips make the plain distance too large"
    assert abs(corrected) < plain / 2


def test_equal_sources_are_near_zero_and_others_are_not() -> None:
    same = frechet_distance(draw(400, 1), draw(400, 2))
    assert abs(same.corrected) < 0.1
    other = frechet_distance(draw(400, 1), draw(400, 2, 1.0))
    assert other.low > same.high


def test_few_clips_are_no_figure_to_quote() -> None:
    few = frechet_distance(draw(3, 1), draw(1000, 2))
    assert not few.is_reportable
    assert few.caveat == "not to be quoted: 3 and 1000 clips, 1000 a side are needed"
    many = frechet_distance(draw(1000, 1, width=2), draw(1000, 2, width=2))
    assert (many.is_reportable, many.caveat) == (True, "")


def test_wide_features_are_projected_to_64_and_distances_kept_in_order() -> None:
    wide = np.random.default_rng(0).standard_normal((50, 160))
    assert project(wide).shape == (50, MAX_WIDTH)
    assert project(wide) == pytest.approx(project(wide.copy()))
    assert project(wide[:, :10]).shape == (50, 10)
    # An orthonormal map keeps 64 of 160 parts of the squared length, on average.
    lengths = np.square(project(wide)).sum(1) / np.square(wide).sum(1)
    assert lengths.mean() == pytest.approx(MAX_WIDTH / 160, rel=0.1)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((1, 4)), np.zeros((5, 4)), "N, M >= 2"),
        (np.zeros((5, 4)), np.zeros((5, 3)), r"got \(5, 4\) and \(5, 3\)"),
        (np.full((5, 4), np.nan), np.zeros((5, 4)), "finite"),
    ],
)
def test_what_are_no_features(a: np.ndarray, b: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frechet_distance(a, b)
