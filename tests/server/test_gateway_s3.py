"""A gateway whose finished videos lie in S3: it sends clients there, and takes away what is deleted."""

from __future__ import annotations

import secrets
from pathlib import Path

import av
import httpx2
import pytest
from benchmarks.service_processes import Service
from running_gateways import client_of, created, ended

from real_servers import BUCKET, S3Server
from rushes.config import s3_access
from rushes.stores.objects_s3 import S3Objects


def test_finished_videos_are_fetched_where_they_lie(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_server.environ.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{BUCKET}/{secrets.token_hex(6)}"
    flags = ("--s3", url)
    with Service(tmp_path, gateway=("--no-auth", *flags), worker=("--model", "toy", *flags)) as service:
        _, address = service.start_gateway()
        service.start_worker()
        with client_of(address) as client:
            video = created(client, num_frames=5, num_inference_steps=2)
            with client.stream("GET", f"/v1/videos/{video['id']}/stream") as live:
                streamed = b"".join(live.iter_bytes())
            assert ended(client, video["id"])["status"] == "completed"
            content = client.get(f"/v1/videos/{video['id']}/content")
            assert content.status_code == 302
            signed = content.headers["location"]
            stored = httpx2.get(signed)
            assert stored.content == streamed
            assert "immutable" in stored.headers["cache-control"]
            part = httpx2.get(signed, headers={"Range": "bytes=0-9"})
            assert (part.status_code, part.content) == (206, streamed[:10])
            for variant in ("thumbnail", "spritesheet", "preview"):
                found = client.get(f"/v1/videos/{video['id']}/content?variant={variant}")
                picture = httpx2.get(found.headers["location"])
                assert picture.headers["content-type"].startswith("image/")
            page = client.get("/").headers["content-security-policy"]
            assert f"media-src 'self' blob: {s3_server.endpoint};" in page
            assert client.delete(f"/v1/videos/{video['id']}").json()["deleted"]
            assert httpx2.get(signed).status_code == 404
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(streamed)
    with av.open(clip) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5
    assert not list(S3Objects(url, s3_access(s3_server.environ)).names())
