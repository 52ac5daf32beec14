"""What the video object tells of a job's way."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rushes.pipelines.rules import load_rules, resolve
from rushes.server.videos import Standing, left_s, video_of
from rushes.stores.base import JobRecord
from rushes.types import JobEvent, JobOptions

REQUEST = resolve(load_rules("toy"), "a dog", width=64, height=64, num_frames=5, seed=1)
RUNNING = JobRecord(
    id="0" * 32,
    status="running",
    request=REQUEST,
    options=JobOptions(),
    created_at=1000.0,
    started_at=1002.0,
    predicted_s=4.0,
    eta_s=5.0,
    token=1,
)


def progress(stage: str, units: int, total: int, at: float, seconds: float = 0.0) -> JobEvent:
    data = {"stage": stage, "units": units, "total": total, "seconds": seconds}
    return JobEvent(job_id=RUNNING.id, number=9, kind="progress", at=at, data=data)


def test_before_the_first_step_the_promise_holds() -> None:
    assert left_s(RUNNING, 1001.0) == 4.0
    assert left_s(RUNNING, 1009.0) == 0.0
    assert left_s(RUNNING, 1003.0, progress("text_encode", 1, 1, 1002.5)) == 2.0
    assert left_s(replace(RUNNING, eta_s=None), 1003.0) is None


def test_no_less_is_left_than_the_stage_still_takes() -> None:
    """On a machine four times as slow as was predicted: no "0 s" in the midst of it."""
    slow = progress("denoise", 3, 4, 1014.0, seconds=12.0)
    assert left_s(RUNNING, 1014.0, slow) == pytest.approx(4.0)
    assert left_s(RUNNING, 1015.0, slow) == pytest.approx(3.0)
    assert left_s(RUNNING, 1100.0, slow) == 0.0
    assert left_s(replace(RUNNING, eta_s=None), 1014.0, slow) == pytest.approx(4.0)
    assert video_of(RUNNING, Standing(progress=slow), now=1014.0)["eta_s"] == pytest.approx(4.0)
    late = progress("vae_decode", 1, 3, 1020.0, seconds=0.5)
    assert left_s(RUNNING, 1020.0, late) == pytest.approx(1.0)


def test_a_promise_that_holds_is_not_told_otherwise() -> None:
    """A14B in 40 steps on one H200: nearly all of it is denoising."""
    long = replace(RUNNING, eta_s=195.0)
    for step in (1, 20, 40):
        at = 1002.0 + 4.775 * step
        told = left_s(long, at, progress("denoise", step, 40, at, seconds=4.775 * step))
        assert told == pytest.approx(1195.0 - at, abs=1.0)


def test_what_does_not_run_is_as_promised() -> None:
    slow = progress("denoise", 3, 4, 1100.0, seconds=100.0)
    assert left_s(replace(RUNNING, status="queued"), 1001.0, slow) == 4.0
    assert left_s(replace(RUNNING, status="completed"), 1001.0, slow) is None


def test_notes_are_sentences_of_the_request() -> None:
    odd = replace(RUNNING, request=replace(REQUEST, prompt="a dog and a blockchain", source=None))
    notes = video_of(odd, Standing())["notes"]
    assert any("does not know 'blockchain'" in note for note in notes)
    known = resolve(load_rules("toy"), "a dog")
    assert video_of(replace(RUNNING, request=known), Standing())["notes"] == []
    other = replace(known, pipeline="of-another-installation")
    assert video_of(replace(RUNNING, request=other), Standing())["notes"] == []
