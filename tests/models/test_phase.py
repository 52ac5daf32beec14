"""Labels of steps."""

import pytest

from rushes.models.phase import PLAIN, MiddleSteps, num_steps_of, phase_of, phases_of
from rushes.passes.calibration import TimestepBuckets
from rushes.sampling.schedules import unipc_schedule


@pytest.mark.parametrize(
    ("share", "num_steps", "expected"),
    [(0, 40, 0), (0.001, 40, 1), (0.25, 40, 10), (0.25, 8, 1), (0.9, 3, 1)],
)
def test_a_share_of_steps(share: float, num_steps: int, expected: int) -> None:
    assert num_steps_of(share, num_steps) == expected


def test_ends_are_left_out() -> None:
    rule = MiddleSteps(label="a", first=0.1, last=0.2)
    held = [bool(rule.labels(step, 20, 0.0)) for step in range(20)]
    assert held == [False] * 2 + [True] * 14 + [False] * 4


def test_labels_of_all_rules_in_one_order() -> None:
    rules = (MiddleSteps(label="z"), MiddleSteps(label="a", first=0.5), MiddleSteps(label="z"))
    assert phase_of(rules, 0, 4, 0.0) == ("z",)
    assert phase_of(rules, 3, 4, 0.0) == phase_of(rules[::-1], 3, 4, 0.0) == ("a", "z")
    assert phase_of((), 0, 4, 0.0) == PLAIN


def test_every_phase_once() -> None:
    rules = (MiddleSteps(label="a", first=0.5), MiddleSteps(label="b", first=0.1, last=0.1))
    assert phases_of(rules) == ((), ("a", "b"), ("a",), ("b",))
    assert phases_of(()) == (PLAIN,)


def test_no_phase_of_a_shifted_trajectory_is_missed() -> None:
    rules = (MiddleSteps(label="a", first=0.1, last=0.1), TimestepBuckets(num_buckets=4))
    met = {
        phase_of(rules, step, num_steps, timestep)
        for num_steps in range(3, 51)
        for shift in (1.0, 3.3, 5.0, 8.0, 12.0)
        for step, timestep in enumerate(unipc_schedule(num_steps, shift).timesteps)
    }
    assert {("a", "timesteps-3"), ("timesteps-2",)} <= met
    assert met <= set(phases_of(rules))
