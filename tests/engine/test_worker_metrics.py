"""A worker's metrics: counted from its spans, of closed sets of labels, right for promtool."""

from __future__ import annotations

import urllib.request

import pytest
from engine_parts import hold, stage_of, working
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from promtool import check_metrics, needs_promtool
from rushes.engine.client import Poll, StoreClient, result
from rushes.engine.worker_metrics import ENDS, FAILED, LANES, STAGES, MetricsServer, WorkerMetrics
from rushes.errors import StageError
from rushes.trace import listen
from rushes.types import JobOptions
from tiny_parts import request, tiny_model

STEPS, LATENTS = 3, 3
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
BATCH = JobOptions()
OPENMETRICS = {"Accept": "application/openmetrics-text"}


def made(metrics: WorkerMetrics, name: str, **labels: str) -> float:
    value = metrics.registry.get_sample_value(name, {"model": "toy", **labels})
    return 0.0 if value is None else value


def run(folder, metrics, *, options=(BATCH,), model=None):
    with listen(metrics), working(folder, model=model) as place:
        client = StoreClient(place.store, watch=Poll(0.002))
        ids = [client.submit(request(f"a dog {n}"), each) for n, each in enumerate(options)]
        for job_id in ids:
            result(client, job_id)
    return ids


def test_a_job_is_counted_by_stage_and_lane(tmp_path):
    metrics = WorkerMetrics("toy")
    run(tmp_path, metrics, options=[JobOptions(lane="interactive")])
    lane = {"lane": "interactive"}
    assert made(metrics, "rushes_stage_unit_seconds_count", stage="denoise", **lane) == STEPS
    assert made(metrics, "rushes_stage_unit_seconds_count", stage="vae_decode", **lane) == LATENTS
    assert made(metrics, "rushes_stage_unit_seconds_count", stage="text_encode", **lane) == 1
    assert made(metrics, "rushes_stage_unit_seconds_sum", stage="denoise", **lane) > 0
    assert made(metrics, "rushes_queue_wait_seconds_count", stage="denoise", **lane) == STEPS
    assert made(metrics, "rushes_batch_jobs_sum", stage="denoise") == STEPS
    assert made(metrics, "rushes_jobs_total", end="completed", **lane) == 1
    assert made(metrics, "rushes_job_seconds_count", **lane) == 1
    assert made(metrics, "rushes_active_jobs", **lane) == 0
    assert made(metrics, "rushes_checkpoints_total") == STEPS
    assert made(metrics, "rushes_cache_lookups_total", cache="prompt_embedding", outcome="miss") >= 1
    ratio = made(metrics, "rushes_cost_ratio_sum", **lane)
    assert 0 < ratio < 1000
    assert not metrics._jobs


def test_the_first_frame_is_when_it_was_written(tmp_path):
    from rushes.engine.workplace import Workplace

    metrics = WorkerMetrics("toy")
    # Frames go to a file, as a worker process writes them.
    with (
        Workplace(tmp_path / "place") as files,
        listen(metrics),
        working(tmp_path / "store", outlet=files.outlet) as place,
    ):
        client = StoreClient(place.store, watch=Poll(0.002))
        job_id = client.submit(request(), JobOptions())
        result(client, job_id)
        events = place.store.events(job_id)
        created_at = place.store.get(job_id).created_at
    assert made(metrics, "rushes_first_frame_seconds_count", lane="batch") == 1
    told_s = next(event.at for event in events if event.kind == "frames") - created_at
    assert made(metrics, "rushes_first_frame_seconds_sum", lane="batch") == pytest.approx(told_s, abs=0.25)


def test_how_jobs_end(tmp_path):
    metrics = WorkerMetrics("toy")
    model = tiny_model()

    def fail(jobs):
        raise RuntimeError("no")

    stage_of(model, "vae_decode").run = fail
    with listen(metrics), working(tmp_path / "failed", model=model) as place:
        client = StoreClient(place.store, watch=Poll(0.002))
        with pytest.raises(StageError):
            result(client, client.submit(request()))
    assert made(metrics, "rushes_jobs_total", lane="batch", end="failed") == 1
    held = tiny_model()
    entered, goes_on = hold(held, "denoise")
    with listen(metrics), working(tmp_path / "cancelled", model=held) as place:
        client = StoreClient(place.store, watch=Poll(0.002))
        job_id = client.submit(request())
        assert entered.wait(20)
        assert made(metrics, "rushes_active_jobs", lane="batch") == 1
        client.cancel(job_id)
        goes_on.set()
        for _ in client.events(job_id):
            pass
    assert made(metrics, "rushes_jobs_total", lane="batch", end="cancelled") == 1
    assert made(metrics, "rushes_active_jobs", lane="batch") == 0


def test_units_that_lanes_share_are_mixed(tmp_path):
    metrics = WorkerMetrics("toy")
    model = tiny_model()
    entered, goes_on = hold(model, "text_encode")
    with listen(metrics), working(tmp_path, model=model) as place:
        client = StoreClient(place.store, watch=Poll(0.002))
        ids = [client.submit(request("a dog"), JobOptions(lane="batch"))]
        assert entered.wait(20)
        ids += [client.submit(request("a cat"), JobOptions(lane="interactive"))]
        goes_on.set()
        for job_id in ids:
            result(client, job_id)
    counted = sum(
        made(metrics, "rushes_stage_unit_seconds_count", stage="denoise", lane=lane) for lane in LANES
    )
    batches = made(metrics, "rushes_batch_jobs_count", stage="denoise")
    assert counted == batches
    assert made(metrics, "rushes_batch_jobs_sum", stage="denoise") == 2 * STEPS
    if batches < 2 * STEPS:  # some were shared
        assert made(metrics, "rushes_stage_unit_seconds_count", stage="denoise", lane="mixed") > 0


@needs_promtool
def test_labels_are_closed_sets_and_promtool_agrees(tmp_path):
    metrics = WorkerMetrics("toy", lambda: {"budget": 8e9, "weights": 1e9})
    options = [JobOptions(tenant=f"tenant-{n}", traceparent=TRACEPARENT) for n in range(3)]
    ids = run(tmp_path, metrics, options=options)
    text = generate_latest(metrics.registry)
    check_metrics(text)
    for secret in ("tenant-", "a dog", *ids):
        assert secret not in text.decode()
    allowed = {
        "model": {"toy"},
        "lane": {*LANES},
        "stage": {*STAGES},
        "end": {*ENDS.values(), FAILED},
        "cache": {"prompt_embedding", "step"},
        "outcome": {"hit", "miss"},
        "kind": {"budget", "weights"},
    }
    for family in metrics.registry.collect():
        for sample in family.samples:
            if family.name.startswith("rushes_") and family.name != "rushes_build_info":
                for label, value in sample.labels.items():
                    assert label == "le" or value in allowed[label], sample


def test_exemplars_carry_trace_ids_over_openmetrics(tmp_path):
    metrics = WorkerMetrics("toy")
    run(tmp_path, metrics, options=[JobOptions(traceparent=TRACEPARENT)])
    with MetricsServer(metrics.registry, 0) as server:
        with urllib.request.urlopen(urllib.request.Request(server.url, headers=OPENMETRICS)) as answer:
            families = {each.name: each for each in text_string_to_metric_families(answer.read().decode())}
        with urllib.request.urlopen(server.url) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain")
            assert b"trace_id" not in answer.read()
    for name in (
        "rushes_stage_unit_seconds",
        "rushes_queue_wait_seconds",
        "rushes_cost_ratio",
        "rushes_jobs",
    ):
        exemplars = [each.exemplar for each in families[name].samples if each.exemplar]
        assert exemplars, name
        assert {each.labels["trace_id"] for each in exemplars} == {TRACE}


def test_two_workers_of_a_process_count_apart():
    WorkerMetrics("toy")
    WorkerMetrics("toy")
