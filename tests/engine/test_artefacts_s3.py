"""Videos kept in a bucket: uploaded while they are made, gone from the disk, and gone with their job."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_artefacts import SIZE, a_preview, clip, completed, files, lease_of, leased, written

from real_servers import BUCKET, RealServer, S3Server, make_nginx, running
from rushes.config import S3Access, s3_access
from rushes.engine.artefacts import VARIANTS, all_names, name_of, result_name
from rushes.engine.housekeeping import Housekeeping
from rushes.engine.uploads import Upload
from rushes.engine.workplace import Workplace
from rushes.errors import StoreError
from rushes.stores.disk import BlobFolder
from rushes.stores.objects import DiskObjects
from rushes.stores.objects_s3 import PART_BYTES, S3Objects
from rushes.types import Frames


@pytest.fixture
def bucket(s3_server: S3Server) -> S3Objects:
    return S3Objects(f"s3://{BUCKET}/{secrets.token_hex(6)}", s3_access(s3_server.environ))


@pytest.fixture
def place(bucket: S3Objects, tmp_path: Path):
    with Workplace(tmp_path / "store", objects=bucket) as place:
        yield place


def status(url: str) -> tuple[int, bytes, str]:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status, answer.read(), answer.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b"", ""


def test_every_artefact_is_in_the_bucket_and_none_on_the_disk(place: Workplace, bucket: S3Objects) -> None:
    record = completed(place)
    assert files(place) == []
    assert set(bucket.names()) == set(all_names(record.result))
    for variant in VARIANTS:
        found = place.artefacts.find(record, variant)
        assert found is not None
        assert found.path is None
        assert found.url is not None
        code, data, media_type = status(found.url)
        assert (code, media_type) == (200, found.media_type)
        assert data == place.artefacts.read(found)


def test_the_upload_is_the_file_that_was_made(place: Workplace, bucket: S3Objects, tmp_path: Path) -> None:
    record = leased(place)
    outlet = written(place, record)
    name = outlet.finish()
    assert bucket.read(name) == place.results.read(name)
    outlet.committed()


def test_a_url_dies_with_its_job(place: Workplace, bucket: S3Objects) -> None:
    kept, gone = completed(place), completed(place)
    urls = [place.artefacts.find(gone, variant).url for variant in VARIANTS]
    place.forget(gone.id)
    assert {status(url)[0] for url in urls} == {404}
    assert set(bucket.names()) == set(all_names(kept.result))
    place.sweep(ttl_s=0, max_bytes=0)
    assert bucket.names() == ()


def test_an_aborted_job_leaves_nothing_in_the_bucket(place: Workplace, bucket: S3Objects) -> None:
    record = leased(place)
    written(place, record).abort()
    outlet = written(place, record)
    outlet.finish()
    outlet.abort()
    assert bucket.names() == ()
    assert files(place) == []


def test_a_local_copy_serves_where_the_bucket_has_none(place: Workplace, bucket: S3Objects) -> None:
    record = leased(place)
    outlet = written(place, record)
    place.jobs.finish(lease_of(record), result=outlet.finish(), actual_s=1.0)
    # Its worker dies here, before it has removed the copy.
    record = place.jobs.get(record.id)
    found = place.artefacts.find(record)
    assert found is not None
    assert found.url is not None
    place.results.delete(name_of(record.result, "preview"))
    bucket.delete([name_of(record.result, "spritesheet")])
    assert place.remove_orphans() == 2, "copies of what is in the bucket"
    assert files(place) == [name_of(record.result, "spritesheet")]
    outlet = written(place, leased(place))
    record_2 = place.jobs.jobs(statuses=["running"])[0]
    place.jobs.finish(lease_of(record_2), result=outlet.finish(), actual_s=1.0)
    record = place.jobs.get(record_2.id)
    bucket.delete(all_names(record.result))
    found = place.artefacts.find(record)
    assert found is not None
    assert found.path is not None
    assert place.artefacts.read(found) == found.path.read_bytes()
    place.results.delete(name_of(record.result, "thumbnail"))
    assert place.artefacts.find(record, "thumbnail") is None


def test_orphans_of_known_jobs_go_and_other_installations_keep_theirs(
    place: Workplace, bucket: S3Objects
) -> None:
    record = completed(place)
    theirs = f"{32 * 'f'}-1.{16 * '2'}.mp4"
    for name in (f"{record.id}-0.{16 * '1'}.mp4", result_name(record), theirs):
        bucket.put(name, b"left", "video/mp4")
    assert place.remove_orphans() == 2
    assert set(bucket.names()) == {*all_names(record.result), theirs}


class Gate(S3Objects):
    """A bucket that holds its writers up until it is opened."""

    def __init__(self, url: str, access: S3Access) -> None:
        super().__init__(url, access)
        self.opens = threading.Event()

    def writer(self, name: str, media_type: str):
        self.opens.wait(20)
        return super().writer(name, media_type)


def test_a_slow_bucket_delays_no_frame(s3_server: S3Server, tmp_path: Path) -> None:
    gate = Gate(f"s3://{BUCKET}/{secrets.token_hex(6)}", s3_access(s3_server.environ))
    with Workplace(tmp_path / "store", objects=gate) as place:
        record = leased(place)
        outlet = place.outlet(record)
        start = time.monotonic()
        outlet.write(Frames(start=0, frames=clip(record)))
        growing = place.results.partial_path(result_name(record))
        assert growing.stat().st_size > 1000
        assert time.monotonic() - start < 5
        gate.opens.set()
        name = outlet.finish()
        assert gate.read(name) == place.results.read(name)
        outlet.abort()


def test_a_file_larger_than_a_part_goes_up_while_it_grows(bucket: S3Objects, tmp_path: Path) -> None:
    path = tmp_path / "growing"
    data = os.urandom(3 * PART_BYTES + 11)
    with path.open("wb") as file:
        upload = Upload(bucket, "job-1.mp4", "video/mp4", path)
        for start in range(0, len(data), 999_999):
            file.write(data[start : start + 999_999])
            file.flush()
            upload.tell()
        upload.finish("job-1.digest.mp4")
    assert bucket.read("job-1.digest.mp4") == data
    assert bucket.names() == ("job-1.digest.mp4",)


@pytest.fixture
def door(s3_server: S3Server, tmp_path: Path):
    """A way to the shared S3 server that a test may close and open again."""
    forward = f"""
    location / {{
        proxy_pass {s3_server.endpoint};
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_request_buffering off;
        client_max_body_size 0;
    }}
    """
    with running(make_nginx(tmp_path / "nginx", forward)) as nginx:
        yield nginx


def behind(door: RealServer, s3_server: S3Server) -> S3Objects:
    """A prefix of its own, soon given up."""
    access = s3_access({**s3_server.environ, "AWS_ENDPOINT_URL": f"http://{door.address}"})
    return S3Objects(f"s3://{BUCKET}/{secrets.token_hex(6)}", access, request_s=5.0, retry_s=0.5)


def test_a_bucket_that_goes_away_and_comes_back(
    door: RealServer, s3_server: S3Server, tmp_path: Path
) -> None:
    bucket = behind(door, s3_server)
    with Workplace(tmp_path / "store", objects=bucket) as place:
        kept = completed(place)
        record = leased(place)
        outlet = written(place, record)
        door.kill()
        place.jobs.finish(lease_of(record), result=outlet.finish(), actual_s=1.0)
        outlet.committed()
        record = place.jobs.get(record.id)
        found = place.artefacts.find(record)
        assert found is not None, "a finished video outlives the bucket's absence"
        assert found.path is not None
        start = time.monotonic()
        place.forget(kept.id)  # the caller is told nothing: it will be so
        assert time.monotonic() - start < 6
        door.start()
        assert bucket.info(kept.result) is not None
        with Housekeeping(place, ttl_s=1e9, max_bytes=10**9, sweep_s=0.1):
            deadline = time.monotonic() + 20
            while bucket.info(kept.result) is not None or bucket.info(record.result) is None:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        assert os.listdir(place.folder / "deletions") == []
        assert set(bucket.names()) >= set(all_names(record.result))


def test_a_bucket_that_was_away_for_a_while_costs_nothing(
    door: RealServer, s3_server: S3Server, tmp_path: Path
) -> None:
    bucket = behind(door, s3_server)
    path = tmp_path / "growing"
    data = os.urandom(3 * PART_BYTES)
    path.write_bytes(data[:PART_BYTES])
    door.kill()
    upload = Upload(bucket, "job-1.mp4", "video/mp4", path)
    path.write_bytes(data)
    upload.tell()
    time.sleep(2)
    door.start()
    upload.finish("job-1.digest.mp4")
    assert bucket.read("job-1.digest.mp4") == data


def test_previews_stay_on_the_disk(place: Workplace, bucket: S3Objects) -> None:
    record = leased(place)
    place.keep_preview(record.id, a_preview())
    assert place.preview(record.id) is not None
    assert bucket.names() == ()


@pytest.fixture
def away() -> Iterator[S3Objects]:
    """A bucket behind an address where nobody listens."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        access = S3Access(
            access_key_id="id",
            secret_access_key="hidden",
            endpoint=f"http://127.0.0.1:{nobody.getsockname()[1]}",
        )
        yield S3Objects(f"s3://{BUCKET}/x", access, request_s=0.5, retry_s=0.3)


def test_a_job_whose_bucket_is_down_keeps_its_video_here(away: S3Objects, tmp_path: Path, caplog) -> None:
    with Workplace(tmp_path / "store", objects=away) as place:
        record = completed(place)
        assert files(place) == sorted(all_names(record.result))
        with pytest.raises(StoreError, match=f"s3://{BUCKET}/x/"):
            place.artefacts.send_rest(place.jobs)
        assert left_open(place.folder) == []
    assert f"s3://{BUCKET}/x/" in caplog.text


def test_an_upload_that_fails_leaves_nothing_open(away: S3Objects, tmp_path: Path) -> None:
    path = tmp_path / "growing"
    path.write_bytes(os.urandom(PART_BYTES))
    upload = Upload(away, "job-1.mp4", "video/mp4", path)
    with pytest.raises(StoreError):
        upload.finish("job-1.digest.mp4")
    assert left_open(path) == []
    upload.abort()


def left_open(path: Path) -> list[str]:
    """Videos below it that this process holds open, and threads that upload."""
    entries = [entry.path for entry in os.scandir("/proc/self/fd") if os.path.exists(entry.path)]
    names = [os.path.realpath(entry) for entry in entries]
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("upload-")]
    return [name for name in names if name.startswith(str(path)) and ".sqlite" not in name] + threads


def test_names_of_the_bucket_are_those_of_the_disk(tmp_path: Path, bucket: S3Objects) -> None:
    disk = DiskObjects(BlobFolder(tmp_path))
    for store in (disk, bucket):
        for variant in VARIANTS:
            store.put(name_of("a-1.0123.mp4", variant), b"x", "video/mp4")
    assert disk.names() == bucket.names()
    assert SIZE["num_frames"] == 17
