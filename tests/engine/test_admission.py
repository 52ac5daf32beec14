"""Taken, made smaller or refused, with the reason and what would do."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rushes.engine.admission import Admission, AdmissionPolicy, Backlog
from rushes.engine.cost import CostModel
from rushes.engine.degrade import (
    Limits,
    changes_between,
    degrade,
    fewer_frames,
    smaller_sizes,
    what_would_fit,
)
from rushes.engine.rates import H200
from rushes.engine.shapes import WAN22_T2V_A14B, WAN22_TI2V_5B
from rushes.errors import InvalidRequest, QueueFull, RequestError
from rushes.pipelines.rules import load_rules, resolve
from rushes.types import JobOptions

GB = 10**9
A14B = "wan2.2-t2v-a14b"
RULES = load_rules(A14B)
EMPTY = Backlog(at=0.0)


def request_of(width=832, height=480, preset="distilled-4", **fields):
    return resolve(RULES, "x", preset=preset, width=width, height=height, seed=1, **fields)


def admission(budget_gb=141, **policy):
    cost = CostModel(H200, {A14B: WAN22_T2V_A14B})
    return Admission(cost, int(budget_gb * GB), AdmissionPolicy(**policy))


def busy(seconds, lane="batch", tenant="other"):
    return Backlog(at=0.0, seconds={(lane, tenant): seconds})


def test_a_job_that_fits_is_taken_as_it_is():
    promise = admission().decide(request_of(), JobOptions(), EMPTY)
    assert promise.request == request_of()
    assert promise.changes == ()
    assert promise.predicted_s == pytest.approx(13.6, rel=0.05)
    assert promise.predicted_s < promise.eta_s < 1.3 * promise.predicted_s
    assert promise.peak_bytes / GB == pytest.approx(77.4, rel=0.02)


def test_the_eta_grows_with_what_is_ahead():
    taking, options = admission(), JobOptions(tenant="me")
    idle = taking.decide(request_of(), options, EMPTY).eta_s
    own = taking.decide(request_of(), options, busy(500.0, tenant="me")).eta_s
    other = taking.decide(request_of(), options, busy(500.0)).eta_s
    interactive = taking.decide(request_of(), options, busy(500.0, "interactive")).eta_s
    assert own > 500.0 + idle - 5
    assert idle < other < 4 * idle, "another tenant takes its turns, not the whole time"
    assert interactive > 500.0


def test_an_interactive_job_waits_for_the_running_unit_and_not_for_the_batch_lane():
    taking, options = admission(), JobOptions(lane="interactive")
    idle = taking.decide(request_of(), options, EMPTY).eta_s
    behind = replace(busy(5000.0), unit_s=6.0)
    assert taking.decide(request_of(), options, behind).eta_s < 1.2 * (idle + 6.0) + 2.0


def test_a_full_queue_says_when_to_come_back():
    with pytest.raises(
        QueueFull,
        match=r"would be finished in \d+ s, at most \d+ s are promised in the batch lane; try again in",
    ) as full:
        admission().decide(request_of(), JobOptions(tenant="me"), busy(20_000.0, tenant="me"))
    later_s = full.value.retry_after_s
    assert 5_000 < later_s < 20_000
    then = busy(20_000.0 - later_s, tenant="me")
    assert admission().decide(request_of(), JobOptions(tenant="me"), then)


def test_a_tenant_that_floods_the_queue_fills_it_for_itself_alone():
    taking = admission()
    with pytest.raises(QueueFull):
        taking.decide(request_of(), JobOptions(tenant="flood"), busy(9_000.0, tenant="flood"))
    assert taking.decide(request_of(), JobOptions(tenant="me"), busy(9_000.0, tenant="flood")).eta_s < 60


def test_a_deadline_that_cannot_be_met_now_is_refused_for_now():
    options = JobOptions(deadline_s=100.0, tenant="me")
    assert admission().decide(request_of(), options, EMPTY).eta_s <= 100.0
    with pytest.raises(QueueFull, match="at most 100 s are promised"):
        admission().decide(request_of(), options, busy(300.0, tenant="me"))


def test_a_deadline_that_can_never_be_met_is_the_callers_to_mend():
    with pytest.raises(
        InvalidRequest, match=r"deadline_s: 10 s; the job takes 16 .*would fit: \d+ frames"
    ) as refusal:
        admission().decide(request_of(), JobOptions(deadline_s=10.0), EMPTY)
    assert refusal.value.field == "deadline_s"


def test_a_job_that_can_never_fit_is_told_what_would():
    with pytest.raises(InvalidRequest, match=r"need 83\.45 GB of memory, 83 may be used") as refusal:
        admission(85).decide(request_of(1280, 720), JobOptions(), EMPTY)
    frames = int(refusal.value.reason.split("would fit: ")[1].split()[0])
    taking = admission(85)
    assert taking.decide(request_of(1280, 720, num_frames=frames), JobOptions(), EMPTY)
    with pytest.raises(InvalidRequest):
        taking.decide(request_of(1280, 720, num_frames=frames + 4), JobOptions(), EMPTY)


def test_where_no_number_of_frames_fits_a_size_is_told():
    with pytest.raises(InvalidRequest, match=r"would fit: 1 frame of \d+x\d+"):
        admission(73).decide(request_of(1280, 720), JobOptions(), EMPTY)
    with pytest.raises(InvalidRequest, match="would fit: nothing of wan2"):
        admission(60).decide(request_of(), JobOptions(), EMPTY)


def test_frames_are_cut_first():
    promise = admission(85).decide(request_of(1280, 720), JobOptions(degrade=True), EMPTY)
    (change,) = promise.changes
    assert change[:2] == ("num_frames", 81)
    assert 41 <= promise.request.video.num_frames < 81
    assert promise.peak_bytes <= 83 * GB
    assert changes_between(request_of(1280, 720), promise.request) == promise.changes


def test_then_the_size_and_then_the_steps():
    tight = admission(77)
    promise = tight.decide(request_of(1280, 720), JobOptions(degrade=True), EMPTY)
    assert [change[0] for change in promise.changes] == ["num_frames", "width", "height"]
    assert promise.request.video.num_frames == 41
    hurried = JobOptions(degrade=True, deadline_s=40.0)
    slow = request_of(832, 480, preset="fast")
    promise = admission().decide(slow, hurried, EMPTY)
    assert promise.changes
    assert promise.eta_s <= 40.0
    very = admission(limits=Limits(frames=0.9, side=0.9, steps=0.3))
    promise = very.decide(slow, JobOptions(degrade=True, deadline_s=30.0), EMPTY)
    assert [change[0] for change in promise.changes] == [
        "num_frames",
        "width",
        "height",
        "num_inference_steps",
    ]


def test_what_is_not_allowed_to_be_degraded_is_refused():
    with pytest.raises(InvalidRequest):
        admission(85).decide(request_of(1280, 720), JobOptions(degrade=False), EMPTY)
    with pytest.raises(RequestError):
        admission(72).decide(request_of(1280, 720), JobOptions(degrade=True), EMPTY)


def test_distilled_steps_are_never_cut():
    request = request_of()
    assert degrade(request, RULES, lambda smaller: False, Limits()) is None
    seen = []
    degrade(request, RULES, lambda smaller: bool(seen.append(smaller)), Limits())
    assert {smaller.sampling.num_inference_steps for smaller in seen} == {4}


@settings(max_examples=60, deadline=None)
@given(
    columns=st.integers(2, 80),
    rows=st.integers(2, 60),
    latents=st.integers(0, 30),
    steps=st.integers(1, 50),
    room=st.floats(0.05, 1.0),
    pipeline=st.sampled_from([A14B, "wan2.2-ti2v-5b", "toy"]),
)
def test_what_is_degraded_obeys_the_rules_and_is_never_larger(columns, rows, latents, steps, room, pipeline):
    rules = load_rules(pipeline)
    multiple = rules.spatial_multiple
    size = {"width": columns * multiple, "height": rows * multiple, "num_frames": 4 * latents + 1}
    try:
        request = resolve(rules, "x", num_inference_steps=steps, seed=1, **size)
    except InvalidRequest:
        return
    most = room * request.sampling.num_inference_steps * rules.num_tokens(request.video)

    def fits(smaller):
        return smaller.sampling.num_inference_steps * rules.num_tokens(smaller.video) <= most

    given_ = degrade(request, rules, fits, Limits())
    if given_ is None:
        return
    video = given_.video
    again = resolve(
        rules,
        "x",
        num_inference_steps=given_.sampling.num_inference_steps,
        seed=1,
        width=video.width,
        height=video.height,
        num_frames=video.num_frames,
    )
    assert again == given_
    assert fits(given_)
    assert all(new <= old for _, old, new in changes_between(request, given_))


def test_candidates_shrink_step_by_step():
    frames = [smaller.video.num_frames for smaller in fewer_frames(request_of(), RULES, 0.5)]
    assert frames == list(range(77, 40, -4))
    sizes = [(r.video.width, r.video.height) for r in smaller_sizes(request_of(), RULES, 0.5)]
    assert sizes[0] == (816, 464)
    assert sizes[-1] == (416, 240)
    assert what_would_fit(request_of(), RULES, lambda r: r.video.num_frames <= 50) == "49 frames of 832x480"


def test_two_gigabytes_stay_free_by_default():
    needed = admission().memory.needed_bytes([request_of()]) / GB
    with pytest.raises(InvalidRequest):
        admission(needed + 1.9).decide(request_of(), JobOptions(), EMPTY)
    admission(needed + 2.1).decide(request_of(), JobOptions(), EMPTY)
    admission(needed + 0.1, reserve_bytes=0).decide(request_of(), JobOptions(), EMPTY)


def test_admission_knows_the_shapes_of_its_cost_model():
    cost = CostModel(H200, {A14B: WAN22_T2V_A14B, "wan2.2-ti2v-5b": WAN22_TI2V_5B})
    small = resolve(load_rules("wan2.2-ti2v-5b"), "x", seed=1)
    assert Admission(cost, 141 * GB).decide(small, JobOptions(), EMPTY).predicted_s > 50
