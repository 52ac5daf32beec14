"""The simulation and its report, at a size that proves the code; `make bench-scheduling` proves the goals."""

import json
from itertools import pairwise

import pytest
from benchmarks.scheduling import GOALS, LOADS, figures_of, interval, main, quantile
from benchmarks.scheduling_capacity import SHAPES, capacities, largest_batch
from benchmarks.scheduling_simulation import (
    KINDS,
    NUM_TENANTS,
    SPREAD,
    arrivals,
    mean_job_s,
    run_fcfs,
    run_rushes,
    units_of,
)

from rushes.pipelines.rules import load_rules, resolve


def seconds_of(kind):
    return sum(unit.seconds for unit in units_of(kind))


def test_the_mix_is_the_one_of_the_issue():
    interactive, quality, large, small = KINDS
    assert sum(kind.share for kind in KINDS) == pytest.approx(1.0)
    assert interactive.share == pytest.approx(0.1)
    shares = [kind.share / 0.9 for kind in (quality, large, small)]
    assert shares == pytest.approx([0.60, 0.25, 0.15])
    steps = [kind.request.sampling.num_inference_steps for kind in KINDS]
    assert steps == [4, 40, 4, 50]
    sizes = [(kind.request.video.width, kind.request.video.num_frames) for kind in KINDS]
    assert sizes == [(832, 81), (832, 81), (1280, 81), (1280, 121)]


def test_stage_times_are_the_measured_ones():
    interactive, quality, large, small = (seconds_of(kind) for kind in KINDS)
    assert interactive == pytest.approx(0.029 + 4 * 3.155 + 1.836)
    assert quality == pytest.approx(0.029 + 80 * 3.155 + 1.836)
    assert large == pytest.approx(0.029 + 4 * 11.768 + 4.186)
    assert small == pytest.approx(0.029 + 100 * 1.037 + 5.854)


def test_the_cost_model_has_learned_them():
    for kind in KINDS:
        first = units_of(kind)[0]
        assert first.remaining_s == pytest.approx(seconds_of(kind), rel=0.01)
        assert all(unit.predicted_s == pytest.approx(unit.seconds, rel=0.05) for unit in units_of(kind))


def test_arrivals_are_poisson_of_the_mix():
    jobs = arrivals(0.8, 4000, seed=1)
    assert jobs[-1].arrived_at == pytest.approx(4000 * mean_job_s() / 0.8, rel=0.05)
    lanes = sum(job.kind.lane == "interactive" for job in jobs) / len(jobs)
    assert lanes == pytest.approx(0.1, abs=0.02)
    assert len({job.tenant for job in jobs}) == NUM_TENANTS
    assert all(1 - SPREAD <= job.factor <= 1 + SPREAD for job in jobs)
    assert [job.arrived_at for job in jobs] == sorted(job.arrived_at for job in jobs)
    assert (
        arrivals(0.8, 10, seed=1)[3].arrived_at
        == jobs[3].arrived_at
        != arrivals(0.8, 10, seed=2)[3].arrived_at
    )


def test_first_come_first_served_runs_one_job_after_another():
    jobs = arrivals(2.0, 50, seed=1)
    done = run_fcfs(jobs)
    for before, after in pairwise(done):
        assert after.finished_at == pytest.approx(max(before.finished_at, after.arrived_at) + after.seconds)
        assert after.arrived_at < after.first_frame_at < after.finished_at


def test_every_job_that_is_taken_is_finished_and_no_second_is_lost():
    jobs = run_rushes(arrivals(2.0, 150, seed=3))
    taken = [job for job in jobs if job.eta_s is not None]
    assert 0 < len(taken) < len(jobs)
    assert all(job.finished_at is not None for job in taken)
    assert all(job.finished_at is None for job in jobs if job.eta_s is None)
    end = max(job.finished_at for job in taken)
    busy_s = sum(job.seconds for job in taken)
    assert busy_s <= end - jobs[0].arrived_at + 1e-6
    assert busy_s >= 0.97 * (end - jobs[0].arrived_at)


def test_interactive_jobs_see_a_frame_much_sooner():
    figures = figures_of(0.8, 250, seed=1)
    assert figures["first frame p95, ours / FCFS"] < 0.2
    assert figures["batch goodput, ours / FCFS"] > 0.97
    assert figures["first frame p95, ours [s]"] > 13.0, "nothing is faster than its own work"


def test_promises_are_kept_at_twice_the_capacity():
    """Once the loads of the tenants are known."""
    jobs = run_rushes(arrivals(2.0, 900, seed=2))
    late = [job.lateness for job in jobs[200:] if job.eta_s is not None and job.kind.lane == "batch"]
    assert len(late) > 250
    assert 0.75 <= quantile(late, 0.5) <= 1.1
    assert quantile(late, 0.99) <= 1.3


def test_goals_can_be_missed():
    goal = GOALS[0]
    assert goal.is_met(0.2)
    assert not goal.is_met(0.21)
    assert not goal.is_met(float("nan"))
    assert {goal.bounds for goal in GOALS} == {"<= 0.2", ">= 0.97", "<= 1.3", ">= 0.9", "0.75 to 1.1"}


def test_statistics():
    assert quantile([3, 1, 2], 0.5) == 2
    assert quantile(range(1, 101), 0.99) == 99
    assert interval([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((3.0, 2.776 * 2.5**0.5 / 5**0.5))


def test_a_short_run_writes_every_figure_and_says_what_it_missed(tmp_path, capsys):
    output = tmp_path / "scheduling.json"
    status = main(["--jobs", "25", "--seeds", "2", "--processes", "1", "--output", str(output)])
    content = json.loads(output.read_text())
    printed = capsys.readouterr().out.strip().splitlines()
    missed = [goal for goal in content["goals"] if not goal["is_met"]]
    assert status == bool(missed)
    assert printed[-1].startswith(f"{len(missed) or 'no'} goals missed")
    assert printed[-2].startswith("at 0.8: first frame ")
    assert sum("MISSED" in line for line in printed) == len(missed)
    assert list(content["loads"]) == [str(load) for load in LOADS]
    assert all(len(rows) == 2 for rows in content["loads"].values())
    assert "PREDICTED" in "\n".join(printed)


def test_the_answer_to_the_published_figure():
    rows = list(capacities())
    best = {row.pipeline: row for row in rows}
    assert set(best) == set(SHAPES)
    assert all(row.largest_batch >= 3 for row in rows)
    assert all((row.videos_per_s["1"] or 0) < 30 for row in rows if row.pipeline != "toy")
    request = resolve(load_rules("wan2.2-t2v-a14b"), "x", width=832, height=480, seed=1)
    assert largest_batch(request, SHAPES["wan2.2-t2v-a14b"]) == 8
