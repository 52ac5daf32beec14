"""ETAs that are kept: calibrated from finished jobs, on a simulated device under the real scheduler."""

import random
from statistics import median

import pytest

from rushes.engine.backlog import Backlog
from rushes.engine.promises import PromisePolicy, Promises

EMPTY = Backlog(at=0.0)


def test_the_margin_becomes_the_quantile_that_is_to_be_kept():
    promises, rng, now = Promises(), random.Random(1), 0.0
    for _ in range(400):
        now += 10.0
        eta_s = promises.eta_s("batch", "me", 100.0, Backlog(at=now))
        promises.observe("batch", admitted_at=now, eta_s=eta_s, actual_s=100.0 * rng.uniform(0.4, 0.8))
    assert promises.margin("batch") == pytest.approx(0.76, abs=0.06)
    assert promises.margin("interactive") == PromisePolicy().first_margin


def test_the_margin_is_bounded():
    promises, now = Promises(), 0.0
    for factor, bound in ((100.0, 3.0), (0.001, 0.2)):
        for _ in range(2000):
            now += 1e6
            eta_s = promises.eta_s("batch", "me", 1.0, Backlog(at=now))
            promises.observe("batch", admitted_at=now, eta_s=eta_s, actual_s=factor)
        assert promises.margin("batch") == bound


def test_jobs_promised_under_an_older_margin_do_not_count_again():
    promises = Promises(PromisePolicy(sample=10))
    for _ in range(10):
        promises.observe("batch", admitted_at=0.0, eta_s=10.0, actual_s=20.0)
    margin = promises.margin("batch")
    assert margin == pytest.approx(2 * PromisePolicy().first_margin)
    for _ in range(50):
        promises.observe("batch", admitted_at=5.0, eta_s=10.0, actual_s=20.0)
    assert promises.margin("batch") == margin


def test_others_who_keep_coming_are_counted():
    quiet, loaded = Promises(), Promises()
    for number in range(100):
        loaded.admitted("batch", "other", 25.0, at=50.0 * number)
    backlog = Backlog(at=5000.0, seconds={("batch", "me"): 1000.0})
    assert quiet.eta_s("batch", "me", 100.0, backlog) == pytest.approx(1.15 * 1100)
    assert loaded.eta_s("batch", "me", 100.0, backlog) > 1.5 * 1.15 * 1100
    much_later = Backlog(at=1e6, seconds=backlog.seconds)
    assert loaded.eta_s("batch", "me", 100.0, much_later) == pytest.approx(1.15 * 1100)


def test_an_interactive_load_stretches_the_batch_lane_but_not_without_end():
    promises = Promises()
    for number in range(100):
        promises.admitted("interactive", "other", 25.0, at=50.0 * number)
    backlog = Backlog(at=5000.0)
    assert promises.eta_s("batch", "me", 100.0, backlog) == pytest.approx(1.15 * 100 / (1 - 0.5), rel=0.1)
    for number in range(1000):
        promises.admitted("interactive", "other", 500.0, at=5000.0 + number)
    assert promises.eta_s("batch", "me", 100.0, Backlog(at=6000.0)) == pytest.approx(1.15 * 100 / 0.1)


def test_a_sum_of_jobs_needs_less_of_a_margin_than_each():
    promises = Promises()
    for num, margin in ((1, 1.15), (4, 1.075), (100, 1.015)):
        assert promises.eta_s("batch", "me", 100.0, EMPTY, num_jobs=num) == pytest.approx(100.0 * margin)
    for number in range(80):  # a lane that is always faster than predicted stays so, however many jobs
        eta_s = promises.eta_s("batch", "me", 100.0, EMPTY)
        promises.observe("batch", admitted_at=float(number), eta_s=eta_s, actual_s=50.0)
    margin = promises.margin("batch")
    assert margin < 0.7
    assert promises.eta_s("batch", "me", 100.0, EMPTY, num_jobs=100) == pytest.approx(100.0 * margin)


def test_loads_that_faded_are_forgotten():
    promises = Promises()
    for number in range(1000):
        promises.admitted("batch", f"tenant-{number}", 10.0, at=1000.0 * number)
    assert len(promises._loads) < 50


@pytest.mark.parametrize("lane", ["interactive", "batch"])
def test_alone_is_the_margin_alone(lane):
    promises = Promises()
    assert promises.alone_s(lane, 100.0) == promises.eta_s(lane, "me", 100.0, EMPTY)
    assert median([promises.alone_s(lane, 1.0)] * 3) == PromisePolicy().first_margin
