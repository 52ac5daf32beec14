"""A worker process with real servers beside it: results in S3, encoded texts and news through Redis."""

from __future__ import annotations

import secrets
import signal
import time
import urllib.request
from pathlib import Path

import av
import pytest
import redis
from command_line import Command
from test_jobs import TIMEOUT_S, submit, worker

from real_servers import BUCKET, RealServer, S3Server
from rushes.config import s3_access
from rushes.engine.artefacts import all_names
from rushes.engine.client import result
from rushes.engine.workplace import Workplace
from rushes.stores.objects_s3 import S3Objects
from rushes.types import JobOptions


@pytest.fixture
def s3_url(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A prefix of this test's own; the environment says who asks, and where."""
    for name, value in s3_server.environ.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{BUCKET}/{secrets.token_hex(6)}"
    monkeypatch.setenv("RUSHES_S3", url)
    return url


def test_results_lie_in_s3_and_texts_are_shared(
    rushes: Command,
    one_expert: Path,
    tmp_path: Path,
    s3_url: str,
    redis_server: RealServer,
    s3_server: S3Server,
) -> None:
    store, clip = tmp_path / "store", tmp_path / "dog.mp4"
    redis_url = f"redis://{redis_server.address}/3"
    with worker(store, one_expert, "--redis", redis_url) as process:
        assert submit(rushes, store, one_expert, "-o", clip) == str(clip)
        url = submit(rushes, store, one_expert, "--watch")
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=TIMEOUT_S)
    with urllib.request.urlopen(url, timeout=20) as answer:
        assert answer.read() == clip.read_bytes(), "the same clip, signed for whoever has the URL"
    with av.open(clip) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5
    bucket = S3Objects(s3_url, s3_access(s3_server.environ))
    with Workplace(store, objects=bucket) as place:
        records = place.jobs.jobs()
        names = {name for record in records for name in all_names(record.result)}
        assert set(bucket.names()) == names
        assert list((store / "results").iterdir()) == []
        for record in records:
            place.forget(record.id)
    assert bucket.names() == ()
    with redis.Redis.from_url(redis_url) as client:
        assert len(client.keys("rushes:embedding:*")) == 1, "this checkpoint's default has no guidance"


def test_a_watcher_hears_of_events_and_sees_previews(
    rushes: Command, one_expert: Path, tmp_path: Path, redis_server: RealServer
) -> None:
    url = f"redis://{redis_server.address}/4"
    store = tmp_path / "store"
    submit(rushes, store, one_expert)
    with Workplace.of_services(store, redis=url) as place:
        assert place.bell.wait(5), "the subscription stands"
        (record,) = place.jobs.jobs()
        place.jobs.cancel(record.id)
        while place.bell.wait(0.2):
            pass  # its own cancellation
        client = place.client()
        with worker(store, one_expert, "--redis", url):
            job_id = client.submit(record.request, JobOptions(preview_every=1))
            seen = []
            for event in client.events(job_id):
                if event.kind == "preview" and (picture := place.preview(job_id)) is not None:
                    seen.append(picture)
            assert place.bell.wait(5), "the worker wrote"
            assert result(client, job_id).status == "completed"
        assert all(picture[:4] == b"RIFF" for picture in seen)
        deadline = time.monotonic() + 10
        while place.preview(job_id) is not None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
