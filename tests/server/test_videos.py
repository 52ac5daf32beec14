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


def progress(stage: str, units: int, total: int, at: float) -> JobEvent:
    data = {"stage": stage, "units": units, "total": total, "seconds": 1.0}
    return JobEvent(job_id=RUNNING.id, number=9, kind="progress", at=at, data=data)


def test_before_the_first_step_the_promise_holds() -> None:
    assert left_s(RUNNING, 1001.0) == 4.0
    assert left_s(RUNNING, 1009.0) == 0.0
    assert left_s(RUNNING, 1003.0, progress("text_encode", 1, 1, 1002.5)) == 2.0
    assert left_s(replace(RUNNING, eta_s=None), 1003.0) is None


def test_steps_that_are_timed_tell_when_it_will_be_ready() -> None:
    """On a machine four times as slow as was predicted: no "0 s" at 58 %."""
    slow = progress("denoise", 3, 4, 1002.0 + 11.65)  # 58.25 % in 11.65 s
    assert left_s(RUNNING, slow.at, slow) == pytest.approx(8.35)
    assert left_s(RUNNING, slow.at + 1.0, slow) == pytest.approx(7.35)
    assert left_s(RUNNING, slow.at + 100.0, slow) == 0.0
    assert left_s(replace(RUNNING, eta_s=None), slow.at, slow) == pytest.approx(8.35)
    video = video_of(RUNNING, Standing(progress=slow), now=slow.at)
    assert (video["progress"], video["eta_s"]) == (58, pytest.approx(8.35))
    late = progress("vae_decode", 1, 2, 1002.0 + 8.8)
    assert left_s(RUNNING, late.at, late) == pytest.approx(1.2)


def test_one_that_changed_hands_stood_still_meanwhile() -> None:
    slow = progress("denoise", 3, 4, 1100.0)
    assert left_s(replace(RUNNING, token=2), 1001.0, slow) == 4.0
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
