"""From similarity to the step at which a clip goes on."""

from __future__ import annotations

import pytest
from cache_parts import snapshots
from hypothesis import given
from hypothesis import strategies as st

from rushes.errors import ConfigError
from rushes.reuse.staircase import STAIRCASE, Stair, Staircase, pick_snapshot, pick_step
from rushes.sampling.schedules import uniform_schedule


@given(st.floats(-1, 1), st.floats(-1, 1), st.none() | st.floats(0, 1))
def test_the_more_alike_the_lower_and_never_below_the_boundary(
    one: float, other: float, boundary: float | None
) -> None:
    low, high = (STAIRCASE.lowest_sigma(s, boundary=boundary) for s in sorted((one, other)))
    if low is not None:
        assert high is not None
        assert high <= low
    if high is not None:
        assert high >= (boundary or 0)


@pytest.mark.parametrize(
    "stairs",
    [
        ((0.9, 0.8), (0.95, 0.85)),
        ((0.9, 0.8), (0.9, 0.7)),
        ((0.9, 0.0),),
        ((2.0, 0.5),),
    ],
)
def test_stairs_out_of_order_or_range_are_refused(stairs: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ConfigError, match="staircase"):
        Staircase(stairs=tuple(Stair(similarity=similarity, sigma=sigma) for similarity, sigma in stairs))


@given(st.integers(1, 60), st.floats(1, 12), st.floats(0.001, 1))
def test_the_step_is_the_last_at_or_above_the_level(num_steps: int, shift: float, lowest: float) -> None:
    sigmas = uniform_schedule(num_steps, shift).sigmas
    step = pick_step(sigmas, lowest)
    assert 0 <= step < num_steps
    assert sigmas[step] >= lowest or step == 0
    assert sigmas[step + 1] < lowest


def test_the_snapshot_is_that_of_the_least_noise_allowed() -> None:
    found = pick_snapshot(snapshots("a"), 0.65)
    assert found is not None
    assert found.sigma == 0.7
    found = pick_snapshot(snapshots("a"), 0.8)
    assert found is not None
    assert found.sigma == 0.9
    assert pick_snapshot(snapshots("a"), 0.95) is None
