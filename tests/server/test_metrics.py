"""A gateway's metrics over real HTTP, its workers' among them, checked by promtool."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from observed_app import served
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from promtool import check_metrics, needs_promtool
from rushes.engine.otlp import tracer_provider
from rushes.engine.worker_metrics import MetricsServer, WorkerMetrics
from rushes.errors import StoreError
from rushes.server.instrument import FRESH_S
from rushes.server.metrics import REFUSALS, GatewayMetrics
from rushes.server.worker_scrape import WorkerScrape
from rushes.stores.sqlite import SqliteJobStore
from rushes.types import JobOptions
from tiny_parts import request

OPENMETRICS = {"accept": "application/openmetrics-text"}


@pytest.fixture
def jobs():
    store = SqliteJobStore(":memory:")
    yield store
    store.close()


def value(metrics: GatewayMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_requests_are_counted_by_route_and_status() -> None:
    metrics = GatewayMetrics()
    with tracer_provider("gateway", None) as tracing, served(metrics, tracing.tracer) as url:
        for number in range(5):
            httpx2.get(f"{url}/v1/videos/{number}")
            httpx2.get(f"{url}/no/such/{number}")
        for method in ("PROPFIND", "REPORT", "MKCOL", "LOCK", "SEARCH"):
            httpx2.request(method, f"{url}/no/such")
        httpx2.post(f"{url}/v1/videos", json={"prompt": "a dog"}, headers={"authorization": "x"})
        scraped = httpx2.get(f"{url}/metrics", headers=OPENMETRICS).text
    route = "/v1/videos/{video_id}"
    assert value(metrics, "rushes_http_requests_total", method="GET", route=route, status="200") == 5
    assert value(metrics, "rushes_http_requests_total", method="GET", route="other", status="404") == 5
    assert value(metrics, "rushes_http_requests_total", method="other", route="other", status="404") == 5
    assert value(metrics, "rushes_http_requests_total", method="POST", route="/v1/videos", status="500") == 1
    assert value(metrics, "rushes_http_response_start_seconds_count", method="GET", route=route) == 5
    families = {each.name: each for each in text_string_to_metric_families(scraped)}
    exemplars = [each.exemplar for each in families["rushes_http_requests"].samples if each.exemplar]
    assert all(len(each.labels["trace_id"]) == 32 for each in exemplars)
    assert exemplars


def test_a_stream_is_open_while_it_goes_on_and_takes_no_long_time_to_start() -> None:
    metrics = GatewayMetrics()
    route = "/v1/videos/{video_id}/events"
    with tracer_provider("gateway", None) as tracing, served(metrics, tracing.tracer) as url:
        with httpx2.stream("GET", f"{url}/v1/videos/1/events") as answer:
            lines = answer.iter_raw()
            next(lines)
            assert value(metrics, "rushes_http_open_requests", route=route) == 1
            num_bytes = len(b"data: 0\n\n") * 3
            for _ in lines:
                pass
        deadline = time.monotonic() + 5
        while value(metrics, "rushes_http_open_requests", route=route):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert value(metrics, "rushes_http_response_bytes_total", route=route) == num_bytes
    assert value(metrics, "rushes_http_response_start_seconds_sum", method="GET", route=route) < 0.2


def test_many_scrapers_cost_one_look(jobs) -> None:
    num_looks, at_once = [], []

    class Slow(Collector):
        def collect(self):
            num_looks.append(1)
            at_once.append(turn.acquire(blocking=False))
            time.sleep(0.1)
            turn.release()
            return ()

    turn = threading.Lock()
    metrics = GatewayMetrics(jobs, more=[Slow()])
    num_looks.clear(), at_once.clear()
    with tracer_provider("gateway", None) as tracing, served(metrics, tracing.tracer) as url:

        def scrape(number: int) -> str:
            accept = f"application/openmetrics-text;version=1.0.{number}" if number % 2 else "text/plain"
            return httpx2.get(f"{url}/metrics", headers={"accept": accept}).headers["content-type"]

        with ThreadPoolExecutor(8) as threads:
            types = list(threads.map(scrape, range(8)))
        assert [each.startswith("application/openmetrics-text") for each in types] == [False, True] * 4
        assert all(at_once), "one after another"
        assert 2 <= len(num_looks) < 6
        num_looks.clear()
        time.sleep(FRESH_S)
        scrape(0)
        assert len(num_looks) == 1


@needs_promtool
def test_promtool_finds_nothing_wrong_with_everything_at_once(jobs) -> None:
    jobs.create(request(), JobOptions(lane="interactive"))
    worker = WorkerMetrics("toy", lambda: {"budget": 8e9})
    with MetricsServer(worker.registry, 0) as server:
        metrics = GatewayMetrics(jobs, more=[WorkerScrape(lambda: {"host-1": server.url})])
        with tracer_provider("gateway", None) as tracing, served(metrics, tracing.tracer) as url:
            httpx2.get(f"{url}/v1/videos/1")
            answer = httpx2.get(f"{url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    check_metrics(answer.content)
    assert b'rushes_worker_up{worker="host-1"} 1.0' in answer.content
    assert b'rushes_queue_jobs{lane="interactive",model="toy",status="queued"} 1.0' in answer.content


def test_the_queue_is_read_from_the_store_when_it_is_asked_for(jobs) -> None:
    metrics = GatewayMetrics(jobs)
    labels = {"model": "toy", "lane": "batch", "status": "queued"}
    assert value(metrics, "rushes_queue_jobs", **labels) is None
    job = jobs.create(request(), JobOptions())
    jobs.create(request(), JobOptions())
    assert value(metrics, "rushes_queue_jobs", **labels) == 2
    age_s = value(metrics, "rushes_queue_oldest_seconds", model="toy", lane="batch")
    assert 0 <= age_s < 5
    jobs.cancel(job.id)
    assert value(metrics, "rushes_queue_jobs", **labels) == 1


def test_a_store_that_cannot_be_read_costs_its_figures_only() -> None:
    class Away:
        def depths(self):
            raise StoreError("locked")

    content, _ = GatewayMetrics(Away()).answer("")
    assert b"rushes_build_info" in content
    assert b"rushes_queue_jobs" not in content


def test_refusals_for_want_of_room_are_counted_and_no_other() -> None:
    metrics = GatewayMetrics()
    for code in ("rate_limited", "rate_limited", "invalid_request", "queue_full"):
        metrics.refused(code)
    counted = {code: value(metrics, "rushes_refused_total", code=code) for code in REFUSALS}
    assert counted == {**dict.fromkeys(REFUSALS, 0), "rate_limited": 2, "queue_full": 1}
    assert value(metrics, "rushes_refused_total", code="invalid_request") is None


def test_a_refusal_is_known_by_the_code_that_the_application_leaves() -> None:
    metrics = GatewayMetrics()
    with tracer_provider("gateway", None) as tracing, served(metrics, tracing.tracer) as url:
        assert httpx2.get(f"{url}/refused").status_code == 429
    assert value(metrics, "rushes_refused_total", code="quota_exceeded") == 1


def a_worker(number: int) -> CollectorRegistry:
    registry = CollectorRegistry()
    Counter("rushes_jobs", "Jobs.", ("end",), registry=registry).labels("completed").inc(number)
    Gauge("process_start_time_seconds", "Another process.", registry=registry).set(1)
    Histogram("rushes_first_frame_seconds", "First frame.", buckets=(1, 2), registry=registry).observe(
        1.5, {"trace_id": "a" * 32}
    )
    return registry


def test_workers_stand_side_by_side_with_their_exemplars() -> None:
    with MetricsServer(a_worker(1), 0) as one, MetricsServer(a_worker(2), 0) as two:
        urls = {
            "one": one.url,
            "two": two.url,
            "dead": "http://127.0.0.1:9/metrics",
            "odd": "file:///etc/passwd",
        }
        metrics = GatewayMetrics(more=[WorkerScrape(lambda: urls)])
        content, _ = metrics.answer(OPENMETRICS["accept"])
    families = {each.name: each for each in text_string_to_metric_families(content.decode())}
    up = {each.labels["worker"]: each.value for each in families["rushes_worker_up"].samples}
    assert up == {"one": 1, "two": 1, "dead": 0, "odd": 0}
    totals = {each.labels["worker"]: each.value for each in families["rushes_jobs"].samples}
    assert totals == {"one": 1, "two": 2}
    exemplars = [each for each in families["rushes_first_frame_seconds"].samples if each.exemplar]
    assert {each.labels["worker"] for each in exemplars} == {"one", "two"}
    assert len(families["process_start_time_seconds"].samples) == 1, "the gateway's own alone"


def test_a_worker_that_hangs_or_talks_nonsense_holds_nobody_up() -> None:
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Nonsense(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/slow":
                time.sleep(2)
            body = b"<html>" if self.path == "/page" else b"rushes_jobs{ 1\n"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Nonsense)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        base = f"http://127.0.0.1:{server.server_port}"
        urls = {name: f"{base}/{name}" for name in ("slow", "page", "broken")}
        begin = time.monotonic()
        content, _ = GatewayMetrics(more=[WorkerScrape(lambda: urls)]).answer("")
        assert time.monotonic() - begin < 1.9
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    for name in urls:
        assert f'rushes_worker_up{{worker="{name}"}} 0.0'.encode() in content
