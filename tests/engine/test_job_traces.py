"""Traces of jobs: collected beside the work, kept as files over several lives, told apart by cause."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from engine_parts import FAST, FixedPlanner, hold, stage_of

from rushes.engine.client import Poll, StoreClient, result
from rushes.engine.job_spans import MOST_DETAILS, MOST_SPANS, JobSpans, collecting
from rushes.engine.job_traces import TraceWriter, trace_name
from rushes.engine.scheduler import Policy, Scheduler
from rushes.engine.trace_report import read_trace
from rushes.engine.worker import Worker
from rushes.engine.workplace import Workplace
from rushes.errors import StageError, UnknownJob
from rushes.trace import begin, end, event, listen, span, under, waited
from rushes.types import JobOptions
from tiny_parts import request, tiny_model

STEPS, LATENTS = 3, 3


@pytest.fixture
def place(tmp_path):
    with Workplace(tmp_path / "store") as found:
        yield found


@contextmanager
def traced_worker(place, *, model=None, owner="first", policy=FAST, save_every_s=0.0, ends=True, max_batch=8):
    """A worker over a workplace whose traces are kept; it drains at the end of the block."""
    model, planner = model or tiny_model(), FixedPlanner()
    scheduler = Scheduler(Policy(max_batch=max_batch), planner.batch_seconds)
    worker = Worker(
        model,
        place.jobs,
        place.checkpoints,
        place.outlet,
        scheduler,
        planner,
        policy=policy,
        owner=owner,
    )
    with collecting(TraceWriter(place.traces, place.jobs, owner), save_every_s=save_every_s):
        worker.start()
        try:
            yield worker
        finally:
            if ends:
                worker.drain()


def submit(place, prompt="a dog", **options):
    client = StoreClient(place.jobs, watch=Poll(0.002))
    return client, client.submit(request(prompt), JobOptions(**options))


def test_a_job_leaves_a_trace_with_every_phase_and_no_names(place):
    client, job_id = submit(place, tenant="acme", traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    with traced_worker(place):
        result(client, job_id)
    found = read_trace(place, job_id)
    phases = {phase.name: phase for phase in found.phases}
    assert {"queue", "text_encode", "prompt_embedding", "denoise", "vae_decode", "video_encode"} <= set(
        phases
    )
    assert phases["denoise"].count == STEPS
    assert phases["vae_decode"].count == LATENTS
    assert phases["video_encode"].detail == "5 frames"
    assert phases["prompt_embedding"].detail.startswith("miss (new text)")
    assert found.status == "completed"
    assert found.actual_s is not None
    assert 0 < found.first_frame_s <= found.total_s
    assert len(found.lives) == 1
    assert found.lives[0]["is_over"]
    for each in found.spans:
        above = found.spans[each.parent] if each.parent is not None else None
        if above is not None:
            assert above.stage == each.stage
            assert above.start_s - 1e-4 <= each.start_s
            assert each.start_s + each.seconds <= above.start_s + above.seconds + 1e-4
        assert -0.01 <= each.start_s <= found.total_s + 0.5
    assert {each.thread for each in found.spans} >= {"courier"}
    raw = place.traces.read(trace_name(job_id)).decode()
    for secret in ("acme", "a dog", "a" * 32):
        assert secret not in raw
    assert len(raw) < 60_000
    json.dumps(found.to_json())


def test_a_shared_unit_stands_in_the_trace_of_every_job_and_names_none(place):
    model = tiny_model()
    entered, goes_on = hold(model, "text_encode")
    client, first = submit(place, "a dog")
    with traced_worker(place, model=model):
        entered.wait(10)
        others = [submit(place, f"a dog {n}")[1] for n in range(2)]
        goes_on.set()
        for job_id in (first, *others):
            result(client, job_id)
    traces = {job_id: read_trace(place, job_id) for job_id in (first, *others)}
    shared = 0
    for found in traces.values():
        units = [each for each in found.spans if each.name == "denoise"]
        assert len(units) == STEPS
        shared += sum(each.attributes["batch"] > 1 for each in units)
        assert all(any(s.parent is not None and s.name == "forward" for s in found.spans) for _ in units)
    assert shared
    for job_id in traces:
        assert job_id not in "".join(
            place.traces.read(trace_name(other)).decode() for other in traces if other != job_id
        )


def test_a_prompt_that_comes_again_is_a_hit_and_says_so(place):
    with traced_worker(place):
        for _ in range(2):
            client, job_id = submit(place)
            result(client, job_id)
    (phase,) = [each for each in read_trace(place, job_id).phases if each.name == "prompt_embedding"]
    assert phase.detail.startswith("hit (kept)")
    assert phase.seconds == 0


def test_a_job_that_goes_on_elsewhere_shows_both_lives(place):
    model = tiny_model()
    client, job_id = submit(place)
    reached = threading.Event()
    denoise = stage_of(model, "denoise")
    run = denoise.run

    def slowly(jobs):
        run(jobs)
        if client.store.get(job_id).checkpoint is not None:
            reached.set()
            time.sleep(0.3)

    denoise.run = slowly
    with traced_worker(place, model=model):
        assert reached.wait(20)
    given_back = read_trace(place, job_id)
    assert given_back.status == "queued"
    assert given_back.lives[0]["error"] == "EngineStopped"
    time.sleep(0.05)
    with traced_worker(place, owner="second"):
        result(client, job_id)
    found = read_trace(place, job_id)
    assert [life["owner"] for life in found.lives] == ["first", "second"]
    assert [life["is_resumed"] for life in found.lives] == [False, True]
    assert sum(each.name == "denoise" for each in found.spans) == STEPS
    (gap,) = [each for each in found.phases if each.name == "unleased"]
    assert gap.seconds >= 0.04
    assert {each.life for each in found.spans} == {0, 1}


def test_a_killed_worker_leaves_what_it_had_at_its_last_checkpoint(place):
    """The file is what a dead process leaves: what was saved while the life went on."""
    model = tiny_model()
    client, job_id = submit(place)
    decoding, goes_on = hold(model, "vae_decode")
    with traced_worker(place, model=model):
        assert decoding.wait(20)
        deadline = time.monotonic() + 10
        while not read_trace(place, job_id).lives:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        left = read_trace(place, job_id)
        goes_on.set()
        result(client, job_id)
    assert left.status == "running"
    assert not left.lives[0]["is_over"]
    assert any(each.name == "denoise" for each in left.spans)
    assert read_trace(place, job_id).lives[0]["is_over"], "the same life, replaced"
    assert len(read_trace(place, job_id).lives) == 1


def test_a_gap_after_a_life_that_never_ended_is_a_death(place):
    client, job_id = submit(place)
    with traced_worker(place):
        result(client, job_id)
    content = json.loads(place.traces.read(trace_name(job_id)))
    (life,) = content["lives"]
    dead = {**life, "key": "dead", "owner": "dead", "is_over": False, "seconds": 0.5}
    after = {**life, "started_at": life["started_at"] + 20.0}
    place.traces.write(trace_name(job_id), json.dumps({**content, "lives": [dead, after]}).encode())
    found = read_trace(place, job_id)
    (death,) = [each for each in found.phases if each.name == "death"]
    assert death.seconds == pytest.approx(19.5, abs=0.01)
    assert found.verdict.cause == "death"
    assert "a worker's death" in found.verdict.text


@pytest.mark.parametrize(("slow", "cause"), [("denoise", "model"), ("text", "cache"), ("queue", "queue")])
def test_the_verdict_names_what_was_slow(place, slow, cause):
    model = tiny_model()
    if slow == "denoise":
        denoise = stage_of(model, "denoise")
        run = denoise.run
        denoise.run = lambda jobs: (time.sleep(0.2), run(jobs))[1]
    elif slow == "text":
        encode = model.parts.encoder.encode
        model.parts.encoder.encode = lambda text: (time.sleep(0.4), encode(text))[1]
    client, job_id = submit(place)
    if slow == "queue":
        time.sleep(1.0)
    with traced_worker(place, model=model):
        result(client, job_id)
    verdict = read_trace(place, job_id).verdict
    assert verdict.cause == cause, verdict.text


def test_a_failed_job_has_a_trace_and_its_reason(place):
    model = tiny_model()

    def fail(jobs):
        raise RuntimeError("no")

    stage_of(model, "vae_decode").run = fail
    client, job_id = submit(place)
    with traced_worker(place, model=model), pytest.raises(StageError):
        result(client, job_id)
    found = read_trace(place, job_id)
    assert found.status == "failed"
    assert "no" in found.error
    assert any(each.error == "RuntimeError" for each in found.spans)


def test_traces_go_with_their_jobs(place):
    client, job_id = submit(place)
    _, cancelled = submit(place)
    client.cancel(cancelled)
    with traced_worker(place):
        result(client, job_id)
    place.traces.write(trace_name(cancelled), b"{}")
    assert place.sweep(ttl_s=0.0, max_bytes=10**9) == 2
    assert place.traces.names() == ()
    with pytest.raises(UnknownJob):
        read_trace(place, job_id)


def test_a_job_that_is_gone_leaves_no_file(place):
    spans = JobSpans(())
    with listen(spans):
        request_span = begin("request", job="gone")
        life = spans._lives["gone"]
        end(request_span)
    TraceWriter(place.traces, place.jobs, "w").ended(life)
    assert place.traces.names() == ()


def test_a_life_is_bounded_and_its_units_survive_its_details(place):
    _, job_id = submit(place)
    with collecting(TraceWriter(place.traces, place.jobs, "w")):
        root = begin("request", job=job_id)
        with under(root):
            for step in range(1_000):
                with span("denoise", step=step):
                    for _ in range(4):
                        event("forward")
        end(root)
    found = read_trace(place, job_id)
    assert sum(each.name == "denoise" for each in found.spans) == 1_000
    assert sum(each.name == "forward" for each in found.spans) == MOST_DETAILS
    assert found.num_dropped == 4_000 - MOST_DETAILS
    assert len(found.spans) <= MOST_SPANS
    assert len(place.traces.read(trace_name(job_id))) < 400_000


def test_a_damaged_file_or_another_format_is_no_trace(place):
    _, job_id = submit(place)
    for content in (b"", b"[]", b'{"format": 99, "lives": 3}'):
        place.traces.write(trace_name(job_id), content)
        found = read_trace(place, job_id)
        assert found.spans == ()
        assert found.verdict.cause is None


def test_a_sink_that_fails_costs_its_life_only(caplog):
    ended = []

    class Fails:
        def saved(self, life):
            raise OSError("full")

        ended = saved

    class Keeps:
        def saved(self, life):
            """Nothing."""

        def ended(self, life):
            ended.append(life.job_id)

    with collecting(Fails(), Keeps()):
        for job_id in ("a", "b"):
            end(begin("request", job=job_id))
    assert ended == ["a", "b"]
    assert "its trace is lost" in caplog.text


def test_what_the_collector_costs_is_below_a_hundredth_of_a_tiny_job(place):
    """Spans of a job times what one costs, against the job's own time: the tiny model's, which is overhead
    itself; a real one takes a thousand times as long for as many spans."""
    client, job_id = submit(place)
    with traced_worker(place):
        result(client, job_id)
    found = read_trace(place, job_id)
    num_spans = len(found.spans) + 1
    busy_s = sum(each.seconds for each in found.spans if each.parent is None and each.name != "queue")

    class Nothing:
        def saved(self, life):
            """Nothing."""

        ended = saved

    def span_ns(num):
        start = time.perf_counter_ns()
        for _ in range(num):
            with span("forward", branch="conditional", batch=1):
                pass
        return (time.perf_counter_ns() - start) / num

    off_ns = min(span_ns(2_000) for _ in range(5))
    with collecting(Nothing()):
        root = begin("request", job="x")
        with under(root), span("denoise"):
            on_ns = min(span_ns(200) for _ in range(5))
        end(root)
    print(f"off {off_ns:.0f} ns, on {on_ns:.0f} ns, {num_spans} spans, {busy_s * 1e3:.1f} ms")
    assert off_ns < 2_000
    assert num_spans * (on_ns - off_ns) / 1e9 < 0.01 * busy_s


def test_spans_outside_of_jobs_are_nobodys():
    spans = JobSpans(())
    with listen(spans):
        with span("store_write"):
            waited("queue", time.perf_counter_ns(), job="nobody")
        with span("denoise", jobs="a,b"):
            pass
    assert not spans._lives


def test_a_life_without_a_checkpoint_that_begins_again_waits_from_then_on(place):
    client, job_id = submit(place)
    model = tiny_model()
    entered, goes_on = hold(model, "denoise")
    policy = replace(FAST, checkpoint_every=50)
    with traced_worker(place, model=model, policy=policy):
        entered.wait(20)
        threading.Timer(0.2, goes_on.set).start()
    with traced_worker(place, owner="second", policy=policy):
        result(client, job_id)
    first, second = read_trace(place, job_id).lives
    assert second["start_s"] >= first["start_s"] + first["seconds"] - 0.01
