"""What of a video leaves the gateway: the file, its parts, and the file while it is made."""

from __future__ import annotations

import json
import subprocess
import threading
from pathlib import Path

import pytest
from running_gateways import Sleeping, client_of, created, events_of


@pytest.fixture(scope="module")
def video(sleeping: Sleeping) -> dict:
    return sleeping.finished()


@pytest.fixture(scope="module")
def path(video: dict) -> str:
    return f"/v1/videos/{video['id']}/content"


@pytest.fixture(scope="module")
def data(sleeping: Sleeping, path: str) -> bytes:
    return sleeping.client.get(path).content


def probe(file: Path) -> dict:
    command = ["ffprobe", "-v", "error", "-count_frames", "-show_entries"]
    shown = "stream=codec_name,width,height,nb_read_frames,avg_frame_rate"
    out = subprocess.run([*command, shown, "-of", "json", file], capture_output=True, check=True).stdout
    (stream,) = json.loads(out)["streams"]
    return stream


def test_the_content_is_a_video_of_what_was_asked_for(data: bytes, tmp_path: Path):
    file = tmp_path / "clip.mp4"
    file.write_bytes(data)
    found = probe(file)
    assert (found["codec_name"], found["width"], found["height"]) == ("h264", 64, 64)
    assert (found["nb_read_frames"], found["avg_frame_rate"]) == ("9", "16/1")


def test_a_head_tells_what_a_get_would(sleeping: Sleeping, path: str, data: bytes):
    head, get = sleeping.client.head(path), sleeping.client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "content-type", "etag", "accept-ranges", "cache-control"):
        assert head.headers[name] == get.headers[name]
    assert int(head.headers["content-length"]) == len(data)
    assert "immutable" in head.headers["cache-control"]
    assert "private" in head.headers["cache-control"], "another tenant's cache must not have it"


PARTS = {"bytes=0-99": slice(0, 100), "bytes=100-": slice(100, None), "bytes=-7": slice(-7, None)}


@pytest.mark.parametrize("asked", PARTS)
def test_a_range_is_that_part(sleeping: Sleeping, path: str, data: bytes, asked: str):
    answer = sleeping.client.get(path, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (206, data[PARTS[asked]])
    assert answer.headers["content-range"].endswith(f"/{len(data)}")


def test_several_ranges_come_as_parts_and_those_behind_the_end_do_not(
    sleeping: Sleeping, path: str, data: bytes
):
    answer = sleeping.client.get(path, headers={"Range": "bytes=0-3,9000000-,8-11"})
    assert answer.status_code == 206
    assert answer.headers["content-type"].startswith("multipart/byteranges")
    assert data[0:4] in answer.content
    assert data[8:12] in answer.content


@pytest.mark.parametrize("asked", ["bytes=5-1", "bytes=a-b", "bytes", "bytes=--1", "bytes=" + "0-1," * 200])
def test_what_is_no_range_is_ignored(sleeping: Sleeping, path: str, data: bytes, asked: str):
    answer = sleeping.client.get(path, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, data)


def test_a_range_behind_the_end_is_refused(sleeping: Sleeping, path: str, data: bytes):
    answer = sleeping.client.get(path, headers={"Range": "bytes=99999999-"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(data)}"


def test_who_has_the_file_is_told_so(sleeping: Sleeping, path: str):
    etag = sleeping.client.get(path).headers["etag"]
    for known in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        answer = sleeping.client.get(path, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content) == (304, b""), known
        assert answer.headers["etag"] == etag
    # A part of the tag, or of another's, is not the tag.
    for other in ('"other"', etag.strip('"')[:8], f'"x{etag.strip(chr(34))}"'):
        assert sleeping.client.get(path, headers={"If-None-Match": other}).status_code == 200, other


def test_a_range_of_another_file_is_the_whole_of_this(sleeping: Sleeping, path: str, data: bytes):
    headers = {"Range": "bytes=0-9", "If-Range": '"another"'}
    answer = sleeping.client.get(path, headers=headers)
    assert (answer.status_code, answer.content) == (200, data)


def test_a_stream_from_the_beginning_one_joined_late_and_the_file_are_the_same(sleeping: Sleeping):
    steps = {"num_frames": 41, "num_inference_steps": 4, "seed": 11}
    video = sleeping.create(**steps)
    path = f"/v1/videos/{video['id']}"
    streams: dict[str, bytes] = {}

    def play(name: str) -> None:
        with client_of(sleeping.url) as client:
            answer = client.get(f"{path}/stream")
            assert answer.headers["content-type"] == "video/mp4"
            streams[name] = answer.content

    threads = [threading.Thread(target=play, args=("first",))]
    threads[0].start()
    num_frames = 0
    with client_of(sleeping.url) as client:
        for event in events_of(client, video["id"]):
            num_frames += event["kind"] == "frames"
            if num_frames == 4 and len(threads) == 1:
                threads.append(threading.Thread(target=play, args=("late",)))
                threads[1].start()
    for thread in threads:
        thread.join()
    whole = sleeping.client.get(f"{path}/content").content
    assert num_frames == 11
    assert {name: data == whole for name, data in streams.items()} == {"first": True, "late": True}
    assert sleeping.client.get(f"{path}/stream").content == whole, "after the end the stream is the file"


def test_the_first_fragment_is_here_before_the_job_is_done(sleeping: Sleeping):
    video = sleeping.create(num_frames=41, seed=12)
    path = f"/v1/videos/{video['id']}"
    with (
        client_of(sleeping.url) as other,
        sleeping.client.stream("GET", f"{path}/stream") as answer,
    ):
        chunks = answer.iter_bytes()
        data = next(chunks)
        status = other.get(path).json()["status"]
        assert (data[4:8], status) == (b"ftyp", "in_progress")
        assert sum(map(len, chunks)) > 0


def test_what_is_not_there_yet_and_what_never_will_be(sleeping: Sleeping):
    video = sleeping.create(num_inference_steps=50, seed=13)
    path = f"/v1/videos/{video['id']}"
    early = sleeping.client.get(f"{path}/content")
    assert (early.status_code, early.json()["error"]["code"]) == (409, "not_ready")
    assert "retry-after" in early.headers
    sleeping.client.post(f"{path}/cancel")
    assert [event["kind"] for event in events_of(sleeping.client, video["id"])][-1] == "cancelled"
    for name in ("content", "stream"):
        late = sleeping.client.get(f"{path}/{name}")
        assert (late.status_code, late.json()["error"]["code"]) == (410, "gone")


def test_a_deleted_video_is_nowhere(sleeping: Sleeping):
    video = sleeping.finished(seed=14)
    path = f"/v1/videos/{video['id']}"
    results = sleeping.service.store / "results"
    assert any(name.name.startswith(video["id"]) for name in results.iterdir())
    assert sleeping.client.delete(path).json() == {
        "id": video["id"],
        "object": "video.deleted",
        "deleted": True,
    }
    for name in ("", "/content", "/events", "/stream", "/preview"):
        assert sleeping.client.get(path + name).status_code == 404
    assert not any(name.name.startswith(video["id"]) for name in results.iterdir())


def test_a_running_job_is_cancelled_before_it_is_deleted(sleeping: Sleeping):
    with client_of(sleeping.url) as client:
        video = created(client, num_inference_steps=50, seed=15)
        events = events_of(client, video["id"])
        while next(events)["kind"] != "progress":
            pass
        with client_of(sleeping.url) as other:
            assert other.delete(f"/v1/videos/{video['id']}").status_code == 200
        assert [event["kind"] for event in events][-1] == "cancelled"
