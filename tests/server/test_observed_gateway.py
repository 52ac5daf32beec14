"""A gateway process tells of a request by every way: log, metrics, trace, and no prompt in any."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx2

from otlp_receiver import otlp_receiver, values
from rushes.engine.workplace import Workplace

PROMPT = "a hidden dog that nobody else may read of"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
INCOMING = f"00-{TRACE}-00f067aa0ba902b7-01"


def test_what_a_gateway_tells(store: Path) -> None:
    with otlp_receiver() as received:
        command = [
            sys.executable,
            "-m",
            "rushes",
            "gateway",
            "--store",
            str(store),
            "--port",
            "0",
            "--no-auth",
        ]
        command += ["--model", "toy", "--log-format", "json", "--log-level", "info"]
        command += ["--otlp", received.url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url, process.communicate(timeout=30)[1]
            with httpx2.Client(base_url=url) as client:
                body = {"prompt": PROMPT, "width": 33}
                refused = client.post("/v1/videos", json=body, headers={"traceparent": INCOMING})
                body = {"prompt": PROMPT, "num_frames": 5}
                made = client.post("/v1/videos", json=body, headers={"traceparent": INCOMING})
                trace = client.get(f"/v1/videos/{made.json()['id']}/trace")
                metrics = client.get("/metrics").text
        finally:
            process.send_signal(signal.SIGTERM)
            err = process.communicate(timeout=60)[1]
    assert (refused.status_code, made.status_code) == (400, 200)
    assert made.headers["x-trace-id"] == TRACE
    job_id = made.json()["id"]
    with Workplace(store) as place:
        traceparent = place.jobs.get(job_id).options.traceparent
    (span,) = [
        each
        for each in received.named("POST /v1/videos")
        if values(each.attributes)["http.response.status_code"] == 200
    ]
    assert traceparent == f"00-{TRACE}-{span.span_id.hex()}-01"
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    told = [line for line in lines if line["logger"] == "rushes.access" and line["method"] == "POST"]
    assert [line["status"] for line in told] == [400, 200]
    assert told[0]["code"] == "invalid_request"
    assert told[1]["job_id"] == job_id
    assert told[1]["request_id"] == made.headers["x-request-id"]
    assert {line["trace_id"] for line in told} == {TRACE}
    assert 'rushes_http_requests_total{method="POST",route="/v1/videos",status="200"} 1.0' in metrics
    assert 'rushes_queue_jobs{lane="interactive",model="toy",status="queued"} 1.0' in metrics
    assert "rushes_gateway_spans_total" in metrics
    assert trace.json()["status"] == "queued"
    for text in (err, metrics, str(received.spans)):
        assert "hidden dog" not in text
