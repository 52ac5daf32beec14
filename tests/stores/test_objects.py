"""One contract for objects on disk and in S3, and what only S3 does: signed URLs, a CDN, and being away."""

from __future__ import annotations

import os
import re
import resource
import secrets
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from real_servers import BUCKET, S3Server, make_nginx, running
from rushes.config import S3Access, s3_access
from rushes.errors import ConfigError, StoreError
from rushes.stores.disk import BlobFolder
from rushes.stores.objects import DiskObjects, ObjectStore
from rushes.stores.objects_s3 import PART_BYTES, S3Objects

VIDEO = "video/mp4"


def in_s3(server: S3Server, **options: object) -> S3Objects:
    """A store under a prefix of its own."""
    prefix = f"{BUCKET}/{secrets.token_hex(6)}/deep"
    return S3Objects(f"s3://{prefix}", s3_access(server.environ), **options)  # type: ignore[arg-type]


@pytest.fixture(params=["disk", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "disk":
        return DiskObjects(BlobFolder(tmp_path / "objects"))
    return in_s3(request.getfixturevalue("s3_server"))


def fetch(url: str, headers: dict[str, str] | None = None) -> tuple[int, bytes, Message]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=20) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


def test_what_is_put_is_there(objects: ObjectStore) -> None:
    assert objects.info("a.webp") is None
    objects.put("a.webp", b"one", "image/webp")
    objects.put("a.webp", b"three", "image/webp")
    info = objects.info("a.webp")
    assert info is not None
    assert info.size == 5
    assert re.fullmatch(r"[0-9a-f-]+", info.etag)
    assert objects.read("a.webp") == b"three"
    assert objects.names() == ("a.webp",)
    objects.delete(["a.webp", "never.webp"])
    assert objects.info("a.webp") is None
    with pytest.raises(StoreError, match=r"a\.webp"):
        objects.read("a.webp")


@pytest.mark.parametrize("size", [0, 1, 3_000_000, 2 * PART_BYTES + 7])
def test_a_writer_makes_an_object_under_its_final_name_only(objects: ObjectStore, size: int) -> None:
    data = os.urandom(size)
    writer = objects.writer("job-1.mp4", VIDEO)
    for start in range(0, size, 700_000):
        writer.write(data[start : start + 700_000])
    assert objects.names() == ()
    writer.finish("job-1.digest.mp4")
    assert objects.names() == ("job-1.digest.mp4",)
    assert objects.read("job-1.digest.mp4") == data
    writer.abort()
    assert objects.names() == ("job-1.digest.mp4",)


def test_an_aborted_writer_leaves_nothing(objects: ObjectStore) -> None:
    for size in (0, 10, 2 * PART_BYTES):
        writer = objects.writer("job-1.mp4", VIDEO)
        writer.write(bytes(size))
        writer.abort()
        writer.abort()
    assert objects.names() == ()


def test_media_type_and_caching_reach_whoever_has_the_url(s3_server: S3Server) -> None:
    objects = in_s3(s3_server)
    writer = objects.writer("job-1.mp4", VIDEO)
    writer.write(b"0123456789")
    writer.finish("clip.mp4")
    url = objects.url("clip.mp4")
    assert url is not None
    status, body, headers = fetch(url)
    assert (status, body, headers["Content-Type"]) == (200, b"0123456789", VIDEO)
    assert "immutable" in headers["Cache-Control"]
    assert fetch(url, {"Range": "bytes=2-4"})[:2] == (206, b"234")


def test_a_url_opens_one_object_for_a_while(s3_server: S3Server) -> None:
    objects = in_s3(s3_server, url_ttl_s=1.0)
    objects.put("a.mp4", b"1", VIDEO)
    objects.put("b.mp4", b"2", VIDEO)
    url = objects.url("a.mp4")
    assert url is not None
    assert fetch(url)[0] == 200
    assert fetch(url.replace("a.mp4", "b.mp4"))[0] == 403, "of another object"
    assert fetch(re.sub(r"Expires=\d+", "Expires=9999", url))[0] == 403, "prolonged by hand"
    assert fetch(url[:-1] + ("0" if url[-1] != "0" else "1"))[0] == 403, "a forged signature"
    assert fetch(url.partition("?")[0])[0] == 403, "unsigned"
    time.sleep(2.1)
    assert fetch(url)[0] == 403, "over"


def test_a_url_is_given_out_again_while_half_its_time_is_left(s3_server: S3Server) -> None:
    now = [0.0]
    objects = in_s3(s3_server, url_ttl_s=100.0, clock=lambda: now[0])
    first = objects.url("a.mp4")
    time.sleep(1.1)
    now[0] = 49.0
    assert objects.url("a.mp4") == first
    now[0] = 51.0
    assert objects.url("a.mp4") != first


def test_a_cdn_before_the_bucket(s3_server: S3Server, tmp_path: Path) -> None:
    server = f"""
    location / {{
        slice 1m;
        proxy_pass {s3_server.endpoint}/{BUCKET}/;
        proxy_http_version 1.1;
        proxy_set_header Host {s3_server.address};
        proxy_set_header Range $slice_range;
        proxy_cache videos;
        proxy_cache_key $uri$slice_range;
        proxy_cache_valid 200 206 1h;
        add_header X-Cache $upstream_cache_status;
    }}
    """
    with running(make_nginx(tmp_path / "nginx", server)) as nginx:
        objects = in_s3(s3_server, public_url=f"http://{nginx.address}/")
        data = os.urandom(3_500_000)
        objects.put("clip.mp4", data, VIDEO)
        url = objects.url("clip.mp4")
        assert url is not None
        assert urlsplit(url).netloc == nginx.address
        assert f"/{BUCKET}/" not in url
        forged = url[:-1] + ("0" if url[-1] != "0" else "1")
        assert fetch(forged)[0] == 403
        answers = [fetch(url), fetch(url)]
        assert [(status, headers["X-Cache"]) for status, _, headers in answers] == [
            (200, "MISS"),
            (200, "HIT"),
        ]
        assert all(body == data for _, body, _ in answers)
        assert "immutable" in answers[1][2]["Cache-Control"]
        status, body, headers = fetch(url, {"Range": "bytes=1500000-2500000"})
        assert (status, headers["X-Cache"]) == (206, "HIT")
        assert body == data[1_500_000:2_500_001]
        assert headers["Content-Range"] == "bytes 1500000-2500000/3500000"


def calls(objects: ObjectStore) -> list[Callable[[], object]]:
    def write_all() -> None:
        writer = objects.writer("w.mp4", VIDEO)
        try:
            writer.write(bytes(2 * PART_BYTES))
            writer.finish("final.mp4")
        finally:
            writer.abort()

    return [
        lambda: objects.put("a", b"1", VIDEO),
        lambda: objects.read("a"),
        lambda: objects.info("a"),
        lambda: objects.delete(["a"]),
        objects.names,
        write_all,
    ]


def assert_told_in_one_line(call: Callable[[], object], within_s: float) -> None:
    start = time.monotonic()
    with pytest.raises(StoreError) as caught:
        call()
    assert time.monotonic() - start < within_s
    message = str(caught.value)
    assert message.startswith(f"s3://{BUCKET}")
    assert len(message.splitlines()) == 1
    assert len(message) < 500


def a_store_at(port: int) -> S3Objects:
    access = S3Access(access_key_id="id", secret_access_key="hidden", endpoint=f"http://127.0.0.1:{port}")
    return S3Objects(f"s3://{BUCKET}/x", access, request_s=0.5, retry_s=0.5)


def test_s3_that_is_down_is_told_in_one_line() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        for call in calls(a_store_at(nobody.getsockname()[1])):
            assert_told_in_one_line(call, 4.0)


def test_s3_that_never_answers_is_told_in_one_line() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        for call in calls(a_store_at(silent.getsockname()[1])):
            assert_told_in_one_line(call, 6.0)


def test_a_wrong_key_is_told_in_one_line(s3_server: S3Server) -> None:
    access = S3Access(access_key_id="rushes-tests", secret_access_key="hidden", endpoint=s3_server.endpoint)
    objects = S3Objects(f"s3://{BUCKET}/x", access)
    assert "hidden" not in repr(access)
    for call in calls(objects):
        assert_told_in_one_line(call, 4.0)


def test_a_url_needs_no_server() -> None:
    assert a_store_at(9).url("a.mp4")


def test_a_full_disk_is_told_in_one_line_and_left_clean(tmp_path: Path) -> None:
    objects = DiskObjects(BlobFolder(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        writer = objects.writer("clip.mp4", VIDEO)
        writer.write(bytes(8000))
        with pytest.raises(StoreError, match=r"clip\.mp4\.partial: File too large$"):
            writer.write(bytes(8000))
        writer.abort()
        with pytest.raises(StoreError, match=r"a\.webp: File too large$"):
            objects.put("a.webp", bytes(9000), "image/webp")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "url", ["http://bucket/x", "s3://", "bucket", "s3://key:secret@bucket", "s3://b/x?y=1"]
)
def test_urls_that_name_no_bucket(url: str) -> None:
    with pytest.raises(ConfigError, match="expected s3://BUCKET/PREFIX"):
        S3Objects(url, S3Access())


def test_a_public_url_that_is_none() -> None:
    with pytest.raises(ConfigError, match="expected https://HOST/PATH"):
        S3Objects("s3://b", S3Access(), public_url="cdn.example")
