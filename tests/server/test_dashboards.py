"""The dashboard and the alerts ask for what is exported, as promtool and a real Prometheus see it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from observed_app import served

from promtool import check_rules, needs_promtool
from rushes.engine.otlp import tracer_provider
from rushes.engine.span_metrics import SpanDelivery
from rushes.engine.worker_metrics import MetricsServer, WorkerMetrics
from rushes.server.grpc_metrics import GrpcMetrics
from rushes.server.metrics import GatewayMetrics
from rushes.server.worker_scrape import WorkerScrape
from rushes.stores.sqlite import SqliteJobStore
from rushes.trace import begin, end, listen, span, under, waited
from rushes.types import JobOptions
from tiny_parts import request

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana/rushes.json").read_text(encoding="utf-8"))
RULES = ROOT / "deploy/prometheus/rules.yml"
VARIABLES = {"$__rate_interval": "1m", "$model": ".*", "$lane": ".*", "$job": ".*"}
SUFFIXES = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("_total",), "gauge": ("",)}
FROM_SCRAPE = {"job", "instance"}
METRIC = re.compile(r"\b(?:rushes|process)_[a-z_]+\b")


def expressions() -> list[str]:
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    assert len(found) > 25
    return [filled(expression) for expression in found]


def filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return expression


@contextmanager
def service() -> Iterator[GatewayMetrics]:
    """A gateway's metrics over a store with a job that waits, and a worker that has ended one."""
    store = SqliteJobStore(":memory:")
    store.create(request(), JobOptions(lane="interactive"))
    worker = WorkerMetrics("toy", lambda: {"budget": 1.0})
    with listen(worker):
        job = begin("request", job="j", lane="interactive", predicted_s=1.0, actual_s=1.5)
        with under(job):
            for stage in ("text_encode", "denoise", "vae_decode"):
                waited("queue", time.perf_counter_ns(), job="j", stage=stage)
                with span(stage, jobs="j"):
                    for name in ("embedding_cache", "step_cache"):
                        with span(name, outcome="hit"):
                            pass
            for name in ("video_encode", "checkpoint"):
                with span(name, frames=1):
                    pass
        end(job)
    with tracer_provider("x", "http://127.0.0.1:9") as tracing:
        worker.registry.register(SpanDelivery("worker", tracing.batches))
        with MetricsServer(worker.registry, 0) as server:
            scrape = WorkerScrape(lambda: {"host-1": server.url})
            yield GatewayMetrics(store, more=[scrape, SpanDelivery("gateway", tracing.batches)])
    store.close()


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Labels by name of series."""
    with service() as metrics:
        metrics.refused("queue_full")
        calls = GrpcMetrics(metrics)
        calls.began("Get")
        calls.answered("Get", 0.001, None)
        calls.ended("Get", "OK", 10, error_code=None, trace_id=None)
        with tracer_provider("gateway", None) as tracing, served(metrics, tracing.tracer) as url:
            httpx2.get(f"{url}/v1/videos/1")
        found: dict[str, set[str]] = {}
        for family in metrics.registry.collect():
            names = {family.name + suffix for suffix in SUFFIXES[family.type]}
            for sample in family.samples:
                if sample.name in names:
                    found.setdefault(sample.name, set()).update(sample.labels)
    return found


def asked_labels(expression: str) -> set[str]:
    groups = re.findall(r"\b(?:by|on|without|ignoring) ?\(([^)]*)\)", expression)
    matchers = re.findall(r"[{,]\s*([a-z_]+)\s*(?:=~|!~|!=|=)", expression)
    return {name.strip() for group in groups for name in group.split(",") if name.strip()} | {*matchers}


def check_names(expression: str, exported: dict[str, set[str]]) -> None:
    names = set(METRIC.findall(expression))
    assert names, expression
    assert names <= exported.keys(), (names - exported.keys(), expression)
    known = set.union(*(exported[name] for name in names)) | FROM_SCRAPE
    assert asked_labels(expression) <= known, (asked_labels(expression) - known, expression)


def test_the_dashboard_asks_for_what_is_exported(exported: dict[str, set[str]]) -> None:
    for expression in expressions():
        check_names(expression, exported)
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()
            assert label in exported[metric] | FROM_SCRAPE


def test_the_dashboard_shows_all_that_is_exported_and_no_tenant(exported: dict[str, set[str]]) -> None:
    asked = {name for expression in expressions() for name in METRIC.findall(expression)}
    ours = {name for name in exported if name.startswith("rushes_") and "_process_" not in name}
    ours.remove("rushes_build_info")
    shown = {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked}
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in ours} <= shown
    assert "tenant" not in json.dumps(DASHBOARD)


def test_the_page_lists_every_metric_with_its_labels(exported: dict[str, set[str]]) -> None:
    page = (ROOT / "docs/observability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`rushes_.*?) \| (.*?) \|", page, re.MULTILINE)
    words = [(re.findall(r"`(\w+)`", names), re.findall(r"`(\w+)`", labels)) for names, labels in rows]
    listed = {name: {*labels} for names, labels in words for name in names}
    # Those of reuse exist where a gateway has an index: test_reuse_latents reads them there.
    listed = {name: labels for name, labels in listed.items() if not name.startswith("rushes_reuse_")}
    ours = {re.sub(r"_(bucket|count|sum)$", "", name): labels for name, labels in exported.items()}
    from_gateway = {
        name: labels - {"le", "worker"}
        for name, labels in ours.items()
        if name.startswith("rushes_") and "_process_" not in name
    }
    from_gateway["rushes_worker_up"] = {"worker"}
    assert listed == from_gateway


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    cells: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len({*ids})
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        mine = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & mine, panel["title"]
        assert at["x"] + at["w"] <= 24
        cells |= mine


@needs_promtool
def test_expressions_are_promql(tmp_path: Path) -> None:
    rules = [{"record": f"check:{n}", "expr": each} for n, each in enumerate(expressions())]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    assert f"{len(rules)} rules found" in check_rules(file)


@needs_promtool
def test_alerts_are_promql_and_ask_for_what_is_exported(exported: dict[str, set[str]]) -> None:
    check_rules(RULES)
    text = RULES.read_text(encoding="utf-8")
    alerts = re.findall(r"expr: (?:>-\n)?(.*?)\n        for:", text, re.DOTALL)
    assert len(alerts) == text.count("alert:") > 5
    for expression in alerts:
        check_names(expression, exported)


ALERTS = [
    (["rushes_queue_jobs{model='toy',lane='batch',status='queued'}", "3x10"], "RushesNoWorker", "3m"),
    (["rushes_worker_up{worker='a'}", "0x10"], "RushesWorkerAway", "4m"),
    (
        ["rushes_queue_oldest_seconds{model='toy',lane='interactive'}", "70+60x10"],
        "RushesInteractiveJobWaits",
        "5m",
    ),
    (["rushes_http_requests_total{status='500'}", "0+5x30"], "RushesServerErrors", "12m"),
    (["rushes_grpc_requests_total{code='INTERNAL'}", "0+5x30"], "RushesGrpcServerErrors", "12m"),
    (["rushes_refused_total{code='queue_full'}", "0+5x30"], "RushesRefusesForWantOfRoom", "25m"),
]


@needs_promtool
@pytest.mark.parametrize(("series", "alert", "at"), ALERTS)
def test_alerts_fire(tmp_path: Path, series: list[str], alert: str, at: str) -> None:
    name, values = series
    query = f"count(ALERTS{{alertname='{alert}',alertstate='firing'}})"
    content = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values}],
                "promql_expr_test": [
                    {"expr": query, "eval_time": at, "exp_samples": [{"labels": "{}", "value": 1}]}
                ],
            }
        ],
    }
    file = tmp_path / "test.yml"
    file.write_text(json.dumps(content))
    done = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_no_worker_is_not_said_where_there_is_one(tmp_path: Path) -> None:
    content = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {
                        "series": "rushes_queue_jobs{model='toy',lane='batch',status='queued'}",
                        "values": "3x10",
                    },
                    {"series": "rushes_active_jobs{model='toy',lane='batch',worker='a'}", "values": "0x10"},
                ],
                "alert_rule_test": [{"alertname": "RushesNoWorker", "eval_time": "5m", "exp_alerts": []}],
            }
        ],
    }
    file = tmp_path / "test.yml"
    file.write_text(json.dumps(content))
    done = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_a_real_prometheus_scrapes_it_and_answers_the_dashboard(tmp_path: Path) -> None:
    with (
        service() as metrics,
        tracer_provider("gateway", None) as tracing,
        served(metrics, tracing.tracer) as url,
        prometheus(tmp_path, url) as server,
    ):
        metrics.refused("queue_full")
        calls = GrpcMetrics(metrics)
        calls.began("Get")
        calls.answered("Get", 0.001, None)
        calls.ended("Get", "OK", 10, error_code=None, trace_id=None)
        for number in range(5):
            httpx2.get(f"{url}/v1/videos/{number}")
        deadline = time.monotonic() + 30
        while len(answer(server, "rushes_http_requests_total[1m]")) < 1 or num_scrapes(server) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        for expression in expressions():
            answer(server, expression)
        assert answer(server, 'rushes_worker_up{worker="host-1"}')[0]["value"][1] == "1"
        assert answer(server, 'rushes_jobs_total{end="completed",lane="interactive"}')[0]["value"][1] == "1"
        assert answer(server, 'rushes_queue_jobs{lane="interactive"}')[0]["value"][1] == "1"
        found = httpx2.get(
            f"{server}/api/v1/query_exemplars",
            params={"query": "rushes_http_requests_total", "start": time.time() - 60, "end": time.time()},
        ).json()
        assert len(found["data"][0]["exemplars"][0]["labels"]["trace_id"]) == 32


def answer(server: str, expression: str) -> list[dict]:
    found = httpx2.get(f"{server}/api/v1/query", params={"query": expression}).json()
    assert found["status"] == "success", (expression, found)
    return found["data"]["result"]


def num_scrapes(server: str) -> int:
    result = answer(server, 'count_over_time(up{job="rushes"}[1m])')
    return int(result[0]["value"][1]) if result else 0


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": "rushes", "static_configs": [{"targets": [target.removeprefix("http://")]}]}
        ],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--enable-feature=exemplar-storage",
        "--log.level=error",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(["prometheus", *flags], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while not is_ready(f"http://{address}"):
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(20)


def is_ready(server: str) -> bool:
    try:
        return httpx2.get(f"{server}/-/ready").status_code == 200
    except httpx2.TransportError:
        return False
