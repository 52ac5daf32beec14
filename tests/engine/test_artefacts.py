"""What a job leaves behind, under which names, and that nothing of it stays when the job goes."""

from __future__ import annotations

import hashlib
import io
import os
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rushes.engine.artefacts import VARIANTS, all_names, final_name, name_of, result_name
from rushes.engine.latent_files import MASK_ENDING, finished_name, snapshot_name
from rushes.engine.workplace import Workplace, live_name
from rushes.errors import StoreError, UnknownJob, UnknownName
from rushes.pipelines.rules import load_rules, resolve
from rushes.stores.base import JobRecord, Lease
from rushes.types import Frames, JobOptions, Preview

SIZE = {"width": 64, "height": 32, "num_frames": 17}


@pytest.fixture
def place(tmp_path: Path):
    with Workplace(tmp_path / "store") as place:
        yield place


def leased(place: Workplace, exact_key: str | None = None) -> JobRecord:
    request = resolve(load_rules("wan2.2-ti2v-5b"), "a dog", seed=1, **SIZE)
    place.jobs.create(request, JobOptions(), exact_key=exact_key)
    (record,) = place.jobs.lease("w", pipelines=["wan2.2-ti2v-5b"], limit=1, ttl_s=60)
    return record


def lease_of(record: JobRecord) -> Lease:
    return Lease(job_id=record.id, owner="w", token=record.token)


def clip(record: JobRecord) -> np.ndarray:
    video = record.request.video
    frames = np.zeros((video.num_frames, video.height, video.width, 3), np.uint8)
    frames[..., 0] = np.linspace(0, 250, video.num_frames, dtype=np.uint8)[:, None, None]
    return frames


def written(place: Workplace, record: JobRecord):
    outlet = place.outlet(record)
    frames = clip(record)
    outlet.write(Frames(start=0, frames=frames[:1]))
    outlet.write(Frames(start=1, frames=frames[1:]))
    return outlet


def completed(place: Workplace, exact_key: str | None = None) -> JobRecord:
    record = leased(place, exact_key)
    outlet = written(place, record)
    place.jobs.finish(lease_of(record), result=outlet.finish(), actual_s=1.0)
    outlet.committed()
    return place.jobs.get(record.id)


def files(place: Workplace) -> list[str]:
    return sorted(os.listdir(place.folder / "results") + os.listdir(place.folder / "previews"))


def test_a_video_is_named_by_its_bytes(place: Workplace) -> None:
    record = completed(place)
    found = place.artefacts.find(record)
    assert found is not None
    assert found.path is not None
    data = found.path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    assert record.result == found.name == found.etag == final_name(result_name(record), digest)
    assert (found.size, found.media_type, found.url) == (len(data), "video/mp4", None)


@pytest.mark.parametrize("num", [1, 5, 17])
def test_the_first_frames_of_a_video(place: Workplace, num: int) -> None:
    record = completed(place)
    found = place.first_frames(record.id, num)
    assert found is not None
    assert found.shape == (num, 32, 64, 3)
    assert np.abs(found - clip(record)[:num].astype(int)).mean() < 4


def test_first_frames_that_cannot_be_had(place: Workplace) -> None:
    record = completed(place)
    assert place.first_frames(record.id, 18) is None
    assert place.first_frames(32 * "0", 1) is None
    assert record.result is not None
    for data in (b"no video", None):
        place.results.delete(record.result)
        if data is not None:
            place.results.write(record.result, data)
        assert place.first_frames(record.id, 1) is None


def test_the_growing_file_is_where_a_gateway_looks(place: Workplace) -> None:
    record = leased(place)
    outlet = place.outlet(record)
    outlet.write(Frames(start=0, frames=clip(record)[:1]))
    growing = place.results.partial_path(result_name(record))
    with growing.open("rb") as follower:
        first = follower.read()
        assert first
        outlet.write(Frames(start=1, frames=clip(record)[1:]))
        name = outlet.finish()
        assert first + follower.read() == place.results.read(name)


def test_pictures_lie_beside_the_video(place: Workplace) -> None:
    record = completed(place)
    images = {}
    for variant in ("thumbnail", "spritesheet", "preview"):
        found = place.artefacts.find(record, variant)
        assert found is not None
        assert found.path is not None
        assert found.media_type == "image/webp"
        images[variant] = Image.open(io.BytesIO(found.path.read_bytes()))
    assert images["thumbnail"].size == images["preview"].size == (SIZE["width"], SIZE["height"])
    assert images["spritesheet"].size == (4 * SIZE["width"], 4 * SIZE["height"])
    assert images["preview"].n_frames == 16
    reds = [np.asarray(images["spritesheet"])[16 + 32 * row, 32 + 64 * 3, 0] for row in range(4)]
    assert reds == sorted(reds)
    assert reds[-1] > 230 > 80 > reds[0]
    assert np.asarray(images["thumbnail"])[..., 0].max() < 16


def test_variants_that_are_none(place: Workplace) -> None:
    running = leased(place)
    assert place.artefacts.find(running) is None
    record = completed(place)
    with pytest.raises(UnknownName, match="did you mean 'thumbnail'"):
        place.artefacts.find(record, "thumbnai")
    place.results.delete(name_of(record.result, "preview"))
    assert place.artefacts.find(record, "preview") is None
    assert place.artefacts.find(record, "thumbnail") is not None


def test_an_aborted_job_leaves_nothing(place: Workplace) -> None:
    record = leased(place)
    place.keep_preview(record.id, a_preview())
    written(place, record).abort()
    outlet = written(place, record)
    outlet.finish()
    outlet.abort()
    place.outlet(record).abort()
    assert files(place) == []


def a_preview() -> Preview:
    return Preview(step=3, num_steps=20, frames=np.full((3, 8, 10, 3), 90, np.uint8))


def test_a_preview_lives_as_long_as_its_job_runs(place: Workplace) -> None:
    record = leased(place)
    place.keep_preview(record.id, a_preview())
    image = Image.open(io.BytesIO(place.previews.read(live_name(record.id))))
    assert (image.format, image.size, image.n_frames) == ("WEBP", (10, 8), 1)
    outlet = written(place, record)
    place.jobs.finish(lease_of(record), result=outlet.finish(), actual_s=1.0)
    assert place.previews.names()
    outlet.committed()
    assert not place.previews.names()


def test_forgetting_a_job_takes_every_file(place: Workplace) -> None:
    kept, gone = completed(place), completed(place)
    place.keep_preview(gone.id, a_preview())
    place.forget(gone.id)
    assert files(place) == sorted(all_names(kept.result))
    with pytest.raises(UnknownJob):
        place.jobs.get(gone.id)


def test_a_sweep_takes_every_file(place: Workplace) -> None:
    for _ in range(3):
        completed(place)
    assert place.sweep(ttl_s=1e9, max_bytes=10**9, max_jobs=1) == 2
    assert len(files(place)) == len(VARIANTS)
    assert place.sweep(ttl_s=1e9, max_bytes=0) == 1
    assert files(place) == []


def test_orphans_go_and_what_is_named_or_in_work_stays(place: Workplace) -> None:
    kept, running = completed(place), leased(place)
    published = written(place, running).finish()
    place.keep_preview(running.id, a_preview())
    stay = {*all_names(kept.result), *all_names(published), live_name(running.id)}
    other_end = all_names(f"{kept.id}-{kept.token}.{16 * '0'}.mp4")
    earlier_life = all_names(f"{running.id}-{running.token - 1}.{16 * '1'}.mp4")
    nobodys = all_names(f"{32 * 'f'}-1.{16 * '2'}.mp4")
    for name in (*other_end, *earlier_life, *nobodys):
        place.results.write(name, b"left")
    place.previews.write(live_name(kept.id), b"left")
    place.results.write("clip.mp4", b"somebody's own")
    assert place.remove_orphans() == 13
    assert set(files(place)) == stay | {"clip.mp4"}
    assert place.remove_orphans() == 0


def test_a_preview_that_cannot_be_kept_harms_nobody(place: Workplace) -> None:
    record = leased(place)
    (place.folder / "previews").rmdir()
    place.keep_preview(record.id, a_preview())
    with pytest.raises(StoreError):
        place.previews.read(live_name(record.id))


def test_a_shared_video_goes_with_the_last_job_that_names_it(place: Workplace) -> None:
    record = completed(place, exact_key="k")
    hits = [place.jobs.create(record.request, record.options, exact_key="k", joins=True) for _ in range(2)]
    kept = files(place)
    for gone in (record, hits[0]):
        place.forget(gone.id)
        assert place.remove_orphans() == 0
        assert files(place) == kept
    hit = hits[1]
    found = place.artefacts.find(place.jobs.get(hit.id), "thumbnail")
    assert found is not None
    assert found.path is not None
    assert found.path.exists()
    place.forget(hit.id)
    assert files(place) == []


def test_latents_go_with_their_job(place: Workplace) -> None:
    record = completed(place)
    for name in (snapshot_name(record.id, 3), snapshot_name(record.id, 12), snapshot_name("0f3a", 3)):
        place.latents.write(name, b"latents")
    place.forget(record.id)
    assert place.latents.names() == (snapshot_name("0f3a", 3),)


def test_latents_of_an_amended_job_go_with_it(place: Workplace) -> None:
    """Those too that a worker left, and told nobody of, before the job had fewer steps; a mask stays, which
    may be another's."""
    record = leased(place)
    sampling = record.request.sampling
    last = sampling.num_inference_steps - 1
    place.latents.write(snapshot_name(record.id, last), b"latents")
    fewer = replace(record.request, sampling=replace(sampling, num_inference_steps=last // 2))
    place.jobs.amend(lease_of(record), fewer)
    for name in (snapshot_name(record.id, 0), finished_name(record.id), "ab" + MASK_ENDING):
        place.latents.write(name, b"latents")
    place.jobs.finish(lease_of(record), result=written(place, record).finish(), actual_s=1.0)
    place.forget(record.id)
    assert place.latents.names() == ("ab" + MASK_ENDING,)


def test_latents_of_a_damaged_job_go_with_it(place: Workplace) -> None:
    record = completed(place)
    place.latents.write(snapshot_name(record.id, 3), b"latents")
    with closing(sqlite3.connect(place.folder / "jobs.sqlite")) as connection, connection:
        connection.execute("UPDATE jobs SET asked = '{'")
    place.forget(record.id)
    assert place.latents.names() == ()


def test_a_job_is_forgotten_as_quickly_beside_the_latents_of_many(place: Workplace) -> None:
    """Where the folder is looked through, 20,000 files take 0.1 s."""
    for n in range(20_000):
        place.latents.path(snapshot_name(f"{n // 4:032x}", n % 4)).touch()
    took_s = []
    for _ in range(5):
        record = leased(place)
        place.jobs.cancelled(lease_of(record))
        begin = time.process_time()
        place.forget(record.id)
        took_s.append(time.process_time() - begin)
    assert min(took_s) < 0.02
    assert len(place.latents.names()) == 20_000


def test_the_oldest_latents_go_first(place: Workplace) -> None:
    for age, name in enumerate(("a", "b", "c")):
        place.latents.write(name, bytes(10))
        os.utime(place.latents.path(name), (age, age))
    place.sweep(ttl_s=1e9, max_bytes=10**9, max_latent_bytes=25)
    assert place.latents.names() == ("b", "c")
