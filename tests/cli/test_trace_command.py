"""`rushes trace` over a store that a real worker process has served, which tells of itself by every way."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from command_line import RUSHES, SMALL, Command
from test_jobs import TIMEOUT_S, submit, worker

from otlp_receiver import otlp_receiver, values
from rushes.cli.trace import BAR_WIDTH, bar_of
from rushes.engine.announcements import metrics_urls
from rushes.engine.workplace import Workplace


@pytest.fixture(scope="module")
def served(one_expert: Path, tmp_path_factory: pytest.TempPathFactory):
    """A store with one job done, and what its worker told: (store, job, metrics, spans, log)."""
    from rushes.cli.app import run

    store = tmp_path_factory.mktemp("traced") / "store"
    prompt = "a hidden dog"
    with otlp_receiver() as received:
        flags = (
            "--metrics-port",
            "0",
            "--otlp",
            received.url,
            "--log-format",
            "json",
            "--log-level",
            "debug",
        )
        with worker(store, one_expert, *flags) as process:
            with Workplace(store) as place:
                deadline = time.monotonic() + TIMEOUT_S
                # A job that comes before the worker is announced is promised nothing.
                while not (urls := metrics_urls(place.workers)):
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
                command = ["submit", prompt, "--store", store, "--model", one_expert, *SMALL, "--watch"]
                assert run([str(each) for each in command]) == 0
                (record,) = place.jobs.jobs()
            with urllib.request.urlopen(next(iter(urls.values()))) as answer:
                metrics = answer.read().decode()
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 0, err
        yield store, record.id, metrics, received.spans, err


def test_the_waterfall_of_a_job(rushes: Command, served) -> None:
    store, job_id, *_ = served
    done = rushes("trace", job_id, "--store", store)
    assert done.status == 0, done.err
    title, *rows, verdict = done.out.splitlines()
    assert title.startswith(f"job {job_id}: completed after ")
    assert ", first frame at " in title
    assert " predicted)" in title
    names = [row[2:20].strip() for row in rows]
    assert {"queue", "prompt embedding", "denoise", "VAE decode", "video encode", "checkpoint"} <= {*names}
    denoise = next(row for row in rows if "denoise" in row[:20])
    assert "2 steps" in denoise
    assert all("━" in row for row in rows)
    assert "miss (new text)" in next(row for row in rows if "prompt embedding" in row)
    assert verdict.startswith("It was ")
    assert "hidden dog" not in done.out


def test_the_whole_trace_as_json(rushes: Command, served) -> None:
    store, job_id, *_ = served
    done = rushes("trace", job_id, "--store", store, "--json")
    found = json.loads(done.out)
    assert found["job_id"] == job_id
    assert found["verdict"]["cause"] in found["verdict"]["seconds"]
    assert {"name", "start_s", "seconds", "stage", "thread", "attributes"} <= {*found["spans"][0]}
    assert len(found["spans"]) > 20
    assert found["lives"][0]["is_over"]


def test_a_worker_serves_its_metrics(served) -> None:
    _, job_id, metrics, *_ = served
    model = 'model="wan2.2-ti2v-5b"'
    assert f'rushes_jobs_total{{end="completed",lane="interactive",{model}}} 1.0' in metrics
    assert f'rushes_stage_unit_seconds_count{{lane="interactive",{model},stage="denoise"}} 2.0' in metrics
    assert f'rushes_first_frame_seconds_count{{lane="interactive",{model}}} 1.0' in metrics
    assert 'rushes_device_memory_bytes{kind="budget"' in metrics
    assert job_id not in metrics


def test_a_worker_sends_its_spans(served) -> None:
    _, job_id, _, spans, _ = served
    (request,) = [each for each in spans if each.name == "request"]
    assert values(request.attributes)["rushes.job_id"] == job_id
    assert sum(each.name == "denoise" for each in spans) == 2


def test_a_workers_log_is_json_without_prompts(served) -> None:
    err = served[-1]
    for line in err.splitlines():
        if not line.startswith("rushes: "):  # what the command says to whoever started it
            assert json.loads(line)["level"]
    assert "hidden dog" not in err


def test_what_cannot_be_traced_is_named(rushes: Command, served, tmp_path: Path) -> None:
    store = served[0]
    unknown = rushes("trace", "0" * 32, "--store", store)
    assert (unknown.status, "there is no job" in unknown.err) == (2, True)
    missing = rushes("trace", "x", "--store", tmp_path / "none")
    assert "there is no store of jobs" in missing.err


def test_a_job_that_waits_has_an_empty_trace(rushes: Command, one_expert: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    job_id = submit(rushes, store, one_expert)
    done = rushes("trace", job_id, "--store", store)
    assert done.status == 0
    assert "queued after" in done.out
    assert done.out.splitlines()[-1] == "No spans of this job have been kept."


def test_bars_stay_within_the_whole() -> None:
    for start_s, end_s, total_s in (
        (0, 0, 0),
        (0, 1, 1),
        (0.999, 1.0, 1.0),
        (1.0, 2.0, 1.0),
        (-0.1, 0.0, 1.0),
    ):
        bar = bar_of(start_s, end_s, total_s)
        assert len(bar) == BAR_WIDTH
        assert "━" in bar


def test_a_taken_port_is_an_error_in_one_line(rushes: Command, one_expert: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        flags = ["--store", tmp_path / "s", "--model", one_expert, "--metrics-port", port]
        # A process of its own: a worker sets handlers of signals and logs.
        command = [*RUSHES, "worker", *map(str, flags)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 2
    assert f"--metrics-port: {port} cannot be used" in done.stderr
