"""A request that is larger than the worker's memory, over HTTP: made smaller and told, or refused with the
figures. The worker is the engine's own with the embedded model, in this process."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import pytest
from local_service import LocalService

import rushes
from rushes.engine.announcements import announce
from rushes.engine.memory import DeviceMemory
from rushes.engine.planner import CostPlanner, planner_for
from rushes.engine.scheduler import Policy, Scheduler
from rushes.engine.worker import Worker, WorkerPolicy
from rushes.engine.workplace import Workplace
from rushes.errors import InvalidRequest, OutOfMemory
from rushes.pipelines.model import Model
from rushes.pipelines.rules import load_rules, resolve

SIZE = {"width": 64, "height": 64, "num_inference_steps": 2, "seed": 7}
ASKED, FITS = 17, 9
CHANGES = [{"field": "num_frames", "asked": ASKED, "given": FITS}]


@pytest.fixture(scope="module")
def toy() -> Model:
    return rushes.load("toy")


def small_planner(model: Model) -> CostPlanner:
    """Of a device that holds clips of `FITS` frames at most."""
    planner = planner_for(model, max_batch=1, reserve_bytes=0)
    largest = resolve(load_rules("toy"), "a dog", num_frames=FITS, **SIZE)
    planner.memory.budget_bytes = planner.needed_bytes(largest)
    assert isinstance(planner.memory, DeviceMemory)
    return planner


@contextmanager
def working(model: Model, place: Workplace) -> Iterator[None]:
    """A worker that says how little memory it has, and then takes jobs."""
    planner = small_planner(model)

    def tell(owner: str) -> None:
        announce(place.workers, planner.announcement(owner))

    worker = Worker(
        model,
        place.jobs,
        place.checkpoints,
        place.outlet,
        Scheduler(Policy(max_batch=1), planner.batch_seconds),
        planner,
        policy=WorkerPolicy(poll_s=0.01),
        owner="small",
        announce=tell,
    )
    tell("small")
    worker.start()
    try:
        yield
    finally:
        worker.end()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[LocalService]:
    with Workplace(tmp_path / "store") as place, LocalService(place) as running:
        yield running


def degraded(clip: Any) -> list[Any]:
    return [event.data["changes"] for event in clip.events() if event.kind == "degraded"]


def check_smaller(clip: Any) -> None:
    """Answer, events and file agree about what was made."""
    assert degraded(clip) == [[["num_frames", ASKED, FITS]]]
    video = clip.wait().video
    assert (video["status"], video["num_frames"], video["changes"]) == ("completed", FITS, CHANGES)
    content = io.BytesIO()
    clip.stream(content)
    with av.open(io.BytesIO(content.getvalue())) as container:
        assert sum(1 for _ in container.decode(video=0)) == FITS


def test_what_does_not_fit_is_refused_with_the_figures_or_made_smaller(
    toy: Model, service: LocalService
) -> None:
    asked = {"num_frames": ASKED, **SIZE}
    with working(toy, service.place), rushes.Client(service.url) as client:
        with pytest.raises(InvalidRequest) as refusal:
            client.create("a dog", **asked)
        assert refusal.value.field == "num_frames"
        needed, may = small_figures(toy)
        assert f"17 frames of 64x64 need {needed} GB of memory, {may} may be used" in str(refusal.value)
        assert f"would fit: {FITS} frames of 64x64" in str(refusal.value)
        assert not service.place.jobs.jobs(), "nothing was queued"
        with pytest.raises(InvalidRequest, match="num_frames"):  # half of it would not fit either
            client.create("a dog", **{**asked, "num_frames": 41, "width": 640, "height": 640}, degrade=True)
        clip = client.create("a dog", **asked, degrade=True)
        assert (clip.video["num_frames"], clip.video["changes"]) == (FITS, CHANGES), "the answer tells"
        check_smaller(clip)
        kinds = [event.kind for event in clip.events()]
        assert kinds[:2] == ["queued", "degraded"], "before it begins"
        whole = client.create("a dog", **{**asked, "num_frames": FITS}, degrade=True)
        assert (whole.wait().video["changes"], degraded(whole)) == ([], []), "what fits is left alone"


def small_figures(model: Model) -> tuple[str, str]:
    planner = small_planner(model)
    asked = resolve(load_rules("toy"), "a dog", num_frames=ASKED, **SIZE)
    return f"{planner.needed_bytes(asked) / 1e9:.4g}", f"{planner.most_bytes / 1e9:.4g}"


def test_what_was_taken_before_a_worker_told_is_made_smaller_by_it_or_fails(
    toy: Model, service: LocalService
) -> None:
    asked = {"num_frames": ASKED, **SIZE}
    with rushes.Client(service.url) as client:
        clip = client.create("a dog", **asked, degrade=True)
        plain = client.create("a cat", **asked)
        assert (clip.video["num_frames"], clip.video["changes"]) == (ASKED, []), "nobody could tell"
        with working(toy, service.place):
            check_smaller(clip)
            with pytest.raises(OutOfMemory, match=f"would fit: {FITS} frames of 64x64"):
                plain.wait()
        error = plain.refresh().video["error"]
        assert error["code"] == "out_of_memory"
