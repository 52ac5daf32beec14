"""Spans of the engine, over its threads: who waited, what was run, saved and delivered, and for which job."""

from __future__ import annotations

from collections import Counter

import pytest
from engine_parts import working

from rushes.engine.client import result
from rushes.errors import StageError
from rushes.stages.video_encode import VideoWriter
from rushes.trace import SpanList, is_on, listen
from tiny_parts import request

STEPS, LATENTS = 3, 3


def roots(span):
    """The spans above one, itself included."""
    while span is not None:
        yield span
        span = span.parent


def hear(folder, num_jobs, **options):
    """The spans of some jobs, and their ids."""
    heard = SpanList()
    with listen(heard), working(folder, **options) as place:
        ids = [place.client.submit(request(f"a dog {n}", seed=n)) for n in range(num_jobs)]
        for job_id in ids:
            result(place.client, job_id)
    return heard.spans, ids


def test_everything_done_for_a_job_lies_beneath_its_request(tmp_path):
    spans, ids = hear(tmp_path / "store", 2, max_batch=1)
    assert not is_on()
    requests = {span.attributes["job"]: span for span in spans if span.name == "request"}
    assert sorted(requests) == sorted(ids)
    for job_id, begun in requests.items():
        beneath = [span for span in spans if begun in roots(span)]
        counts = Counter(span.name for span in beneath)
        assert counts["denoise"] == counts["checkpoint"] == STEPS
        assert counts["vae_decode"] == LATENTS
        assert counts["queue"] == 1 + STEPS + LATENTS
        assert counts["text_encode"] == 1
        assert {"load", "forward", "noise", "vae_forward", "blob_write", "store_write"} <= counts.keys()
        assert all(begun.start_ns <= span.start_ns <= span.end_ns for span in beneath)
        assert {span.attributes["jobs"] for span in beneath if span.name == "denoise"} == {job_id}
        assert {span.thread for span in beneath} >= {begun.thread}
        assert len({span.thread for span in beneath}) >= 2  # a slot and a courier
        assert begun.error is None
    assert all(span.attributes["batch"] == 1 for span in spans if span.name == "denoise")


def test_a_shared_unit_has_no_parent_and_names_its_jobs(tmp_path):
    spans, ids = hear(tmp_path, 3, max_batch=8)
    units = [span for span in spans if span.name == "denoise"]
    shared = [span for span in units if span.attributes["batch"] > 1]
    assert shared
    assert all(span.parent is None for span in shared)
    by_job = Counter(job_id for span in units for job_id in span.attributes["jobs"].split(","))
    assert by_job == dict.fromkeys(ids, STEPS)
    assert sum(span.attributes["conditional"] for span in units) == 3 * STEPS


def test_a_failed_job_says_so(tmp_path):
    heard = SpanList()

    def fail(frames):
        raise RuntimeError("no")

    with listen(heard), working(tmp_path, on_write=fail) as place:
        job_id = place.client.submit(request())
        with pytest.raises(Exception, match="no"):
            result(place.client, job_id)
    (begun,) = [span for span in heard.spans if span.name == "request"]
    assert begun.error in ("RuntimeError", StageError.__name__)


def test_frames_are_encoded_beneath_the_request_that_they_are_of(tmp_path):
    heard = SpanList()
    with (
        VideoWriter(tmp_path / "x.mp4", width=16, height=8, fps=8) as writer,
        listen(heard),
        working(tmp_path, on_write=lambda frames: writer.write(frames.frames)) as place,
    ):
        result(place.client, place.client.submit(request()))
    (begun,) = [span for span in heard.spans if span.name == "request"]
    encoded = [span for span in heard.spans if span.name == "video_encode"]
    assert sum(span.attributes["frames"] for span in encoded) == 5
    assert all(span.parent is begun and span.thread != begun.thread for span in encoded)
