"""What a device held at most corrects the memory model; the device is a list of figures."""

from __future__ import annotations

import pytest
from engine_parts import FixedPlanner, working

from rushes.engine.client import result
from rushes.engine.memory import DeviceMemory
from rushes.engine.peaks import NoMeter, PeakWatch
from rushes.engine.planner import planner_for, shape_of
from tiny_parts import request, tiny_model


class Figures:
    """A meter that reads its peaks from a list, the last one over and over."""

    def __init__(self, *peaks):
        self.peaks = list(peaks)
        self.num_taken = 0

    def take(self):
        self.num_taken += 1
        return self.peaks.pop(0) if len(self.peaks) > 1 else self.peaks[0]


@pytest.fixture(scope="module")
def shapes():
    return {"toy": shape_of(tiny_model())}


def watch_of(shapes, *beside):
    """A watch that sees these bytes beside the weights, as parts of what one clip is predicted to need, after
    a loading that took far more."""
    memory = DeviceMemory(shapes, 10**9, reserve_bytes=0)
    weights = memory.weights_bytes
    one = memory.needed_bytes([request()]) - weights
    loading = 100 * memory.needed_bytes([request()])
    figures = Figures(loading, *[weights + int(part * one) for part in beside])
    return memory, PeakWatch(memory, figures), one


def ratio(memory, one):
    return (memory.needed_bytes([request()]) - memory.weights_bytes) / one


def test_a_peak_above_the_prediction_counts_at_once(shapes):
    memory, watch, one = watch_of(shapes, 1.5)
    watch.unit("denoise", {"a": request()}, is_last=False)
    assert ratio(memory, one) == pytest.approx(1.5, rel=0.01)


def test_a_lower_one_counts_for_a_whole_clip_alone_only(shapes):
    memory, watch, one = watch_of(shapes, 0.1, 0.5, 0.1)
    there = {"a": request()}
    watch.unit("text_encode", there, is_last=False)
    watch.unit("denoise", there, is_last=False)
    watch.unit("vae_decode", there, is_last=False)
    assert ratio(memory, one) == 1.0, "the worst moment may be still to come"
    watch.unit("vae_decode", there, is_last=True)
    assert ratio(memory, one) == pytest.approx(0.9, rel=0.01), "a fifth of the way to its highest peak"


def test_a_lower_one_says_nothing_about_a_clip_with_company_or_of_which_a_part_was_seen(shapes):
    memory, watch, one = watch_of(shapes, 0.5)
    for stage in ("denoise", "vae_decode"):
        watch.unit(stage, {"a": request(), "b": request()}, is_last=True)
    watch.unit("vae_decode", {"c": request()}, is_last=True)  # a and b left a moment ago
    watch.unit("vae_decode", {"c": request()}, is_last=True)  # no step of it was seen
    assert ratio(memory, one) == 1.0


def test_a_job_that_left_is_not_held_against_those_that_stay(shapes):
    memory, watch, _ = watch_of(shapes, 1.0)
    both = memory.needed_bytes([request(), request()])
    watch._meter = Figures(both)
    watch.unit("denoise", {"a": request(), "b": request()}, is_last=False)
    watch.unit("denoise", {"b": request()}, is_last=False)
    assert memory.needed_bytes([request(), request()]) == both
    watch.unit("denoise", {"b": request()}, is_last=False)
    assert memory.needed_bytes([request(), request()]) > both, "by now it is its own"


def test_what_nobody_can_measure_changes_nothing(shapes):
    memory, _, one = watch_of(shapes, 1.0)
    PeakWatch(memory, NoMeter()).unit("denoise", {"a": request()}, is_last=True)
    assert ratio(memory, one) == 1.0


def test_a_worker_learns_from_what_its_device_held(tmp_path):
    model = tiny_model()
    planner = planner_for(model, reserve_bytes=0, meter=Figures(0))
    before = planner.needed_bytes(request())
    weights = planner.memory.weights_bytes
    planner._peaks._meter = figures = Figures(weights + 2 * (before - weights))
    with working(tmp_path, model=model, planner=planner) as place:
        result(place.client, place.client.submit(request()))
    assert figures.num_taken >= 3
    assert planner.needed_bytes(request()) == pytest.approx(weights + 2 * (before - weights), rel=0.01)


def test_a_unit_is_told_beside_whom_it_ran(tmp_path):
    planner = FixedPlanner(room=1)
    with working(tmp_path, planner=planner) as place:
        ids = [place.client.submit(request(f"a {n}")) for n in range(3)]
        for job_id in ids:
            result(place.client, job_id)
    assert {frozenset(begun) for begun in planner.begun} == {frozenset([job_id]) for job_id in ids}, (
        "those without room hold nothing yet"
    )
