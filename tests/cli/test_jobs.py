"""Submit, watch, list and cancel jobs of a store that a real worker process serves."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from command_line import RUSHES, SMALL, Command

from rushes.cli.jobs import fetch
from rushes.engine.announcements import StoreAdmission
from rushes.engine.workplace import Workplace
from rushes.errors import OutputError, QueueFull
from rushes.pipelines.rules import load_rules, resolve
from rushes.stages.video_encode import growing_file, partial_path
from rushes.stores.base import Lease
from rushes.types import JobOptions

TIMEOUT_S = 90


@contextlib.contextmanager
def worker(store: Path, checkpoint: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    command = [*RUSHES, "worker", "--store", str(store), "--model", str(checkpoint), *flags]
    process = subprocess.Popen(command, text=True, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        said = []  # libraries may have something to say first
        while "runs wan2.2-ti2v-5b on cpu" not in (line := process.stderr.readline()):
            said.append(line)
            assert line, "".join(said)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def submit(rushes: Command, store: Path, checkpoint: Path, *flags: str | Path) -> str:
    result = rushes("submit", "a dog", "--store", store, "--model", checkpoint, *SMALL, *flags)
    assert result.status == 0, result.err
    return result.out.strip()


def test_a_queue_without_a_worker_is_pointed_out(rushes: Command, store: Path, one_expert: Path) -> None:
    result = rushes("submit", "a dog", "--store", store, "--model", one_expert, *SMALL)
    assert "no worker serves wan2.2-ti2v-5b" in result.err


def test_a_fresh_machine_has_no_jobs_yet(rushes: Command, store: Path, one_expert: Path) -> None:
    result = rushes("jobs", "--store", store)
    assert (result.status, result.out) == (0, f"no jobs yet in {store}\n")
    assert rushes("jobs", "--store", store, "--json").out == ""
    assert not store.exists(), "to look makes no folder"
    submit(rushes, store, one_expert)
    assert rushes("jobs", "--store", store, "--tenant", "nobody").out == f"no such jobs in {store}\n"


def test_who_is_served_is_told_before_a_job_for_another_model_is_queued(
    rushes: Command, store: Path, one_expert: Path
) -> None:
    with worker(store, one_expert):
        result = rushes("submit", "a dog", "--store", store, "--model", "toy")
    assert result.status == 0
    assert "no worker serves toy" in result.err
    assert "workers here serve wan2.2-ti2v-5b: choose one with --model" in result.err


def test_words_that_the_toy_does_not_know_are_named(rushes: Command, store: Path) -> None:
    result = rushes("submit", "a dog pays a mortgage", "--store", store, "--width", "512", "--height", "512")
    assert result.status == 0
    assert "note: toy does not know 'pays', 'mortgage'" in result.err
    assert "note: 512x512 is far from" in result.err


def status(rushes: Command, store: Path, job_id: str) -> str:
    rows = [json.loads(line) for line in rushes("jobs", "--store", store, "--json").out.splitlines()]
    return next(row["status"] for row in rows if row["id"] == job_id)


def test_a_clip_comes_back(rushes: Command, store: Path, one_expert: Path, tmp_path: Path) -> None:
    waiting = submit(rushes, store, one_expert)
    assert status(rushes, store, waiting) == "queued"
    clip = tmp_path / "dog.mp4"
    with worker(store, one_expert) as process:
        assert submit(rushes, store, one_expert, "-o", clip) == str(clip)
        with av.open(clip) as container:
            assert sum(1 for _ in container.decode(video=0)) == 5
        deadline = time.monotonic() + TIMEOUT_S
        while status(rushes, store, waiting) != "completed":
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert "0 jobs saved and back in the queue" in err
    assert not list((store / "workers").iterdir())


def test_a_folder_decides_as_it_does_for_generate(
    rushes: Command, store: Path, one_expert: Path, tmp_path: Path
) -> None:
    submit(rushes, store, one_expert)
    queued = json.loads(rushes("jobs", "--store", store, "--json").out)["request"]
    made = rushes("generate", "a dog", "-o", tmp_path / "x.mp4", "--model", one_expert, *SMALL, "--json")
    assert queued == json.loads(made.out)["request"]


def test_a_plans_fields_are_defaults_of_what_is_submitted(
    rushes: Command, store: Path, one_expert: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"format": 1, "passes": [], "fields": {"step_cache": 0.1, "fps": 8}}))
    submit(rushes, store, one_expert, "--plan", plan, "--fps", "12")
    queued = json.loads(rushes("jobs", "--store", store, "--json").out)["request"]
    assert (queued["sampling"]["step_cache"], queued["video"]["fps"]) == (0.1, 12)
    process = subprocess.Popen(
        [*RUSHES, "worker", "--store", str(store), "--model", str(one_expert), "--plan", str(plan)],
        text=True,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        note = f"rushes submit --plan {plan} gives jobs the plan's defaults: step_cache=0.1, fps=8"
        said = []  # libraries may have something to say first
        while note not in (line := process.stderr.readline()):
            said.append(line)
            assert line, "".join(said)
    finally:
        process.kill()
        process.communicate()


def test_jobs_are_listed_and_cancelled(rushes: Command, store: Path, one_expert: Path) -> None:
    first = submit(rushes, store, one_expert, "--tenant", "a", "--lane", "batch")
    second = submit(rushes, store, one_expert, "--tenant", "b")
    table = rushes("jobs", "--store", store).out
    assert table.index(second) < table.index(first)
    assert first not in rushes("jobs", "--store", store, "--tenant", "b").out
    assert rushes("cancel", first, "--store", store).out == "cancelled\n"
    assert first in rushes("jobs", "--store", store, "--status", "cancelled").out
    assert rushes("cancel", first, "--store", store).out == "cancelled\n"


def test_the_same_key_is_the_same_job(rushes: Command, store: Path, one_expert: Path) -> None:
    first = submit(rushes, store, one_expert, "--idempotency-key", "k")
    assert submit(rushes, store, one_expert, "--idempotency-key", "k") == first
    unseeded = [flag for flag in SMALL if flag not in ("--seed", "7")]
    command = ["submit", "a dog", "--store", store, "--model", one_expert, "--idempotency-key", "other"]
    ids = {rushes(*command, *unseeded).out for _ in range(2)}
    assert len(ids) == 1, "a seed that nobody chose is no difference"
    result = rushes(
        "submit", "a cat", "--store", store, "--model", one_expert, *SMALL, "--idempotency-key", "k"
    )
    assert result.status == 2
    assert "idempotency key 'k'" in result.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("cancel", "nope"), "nope"),
        (("submit", "a dog", "--num-frames", "80"), "num_frames: must be"),
        (("submit", "a dog", "-o", "x.gif"), "is an mp4"),
        (("submit", "a dog", "--solver", "eular"), "did you mean 'euler'"),
        (("jobs", "--status", "lost"), "is not one of"),
    ],
)
def test_mistakes_are_told_in_one_line(
    rushes: Command, store: Path, arguments: tuple[str, ...], says: str
) -> None:
    result = rushes(*arguments, "--store", store)
    assert result.status == 2
    assert says in result.err
    assert len(result.err.splitlines()) == 1


def test_a_store_that_is_none(rushes: Command, tmp_path: Path) -> None:
    (tmp_path / "jobs.sqlite").write_bytes(b"not a database" * 100)
    result = rushes("jobs", "--store", tmp_path)
    assert result.status == 1
    assert "jobs.sqlite" in result.err
    assert len(result.err.splitlines()) == 1
    (tmp_path / "file").touch()
    for command in (("jobs",), ("cancel", "x"), ("submit", "a dog")):
        result = rushes(*command, "--store", tmp_path / "file" / "x")
        assert result.status == 2
        assert len(result.err.splitlines()) == 1


def test_a_full_queue_has_an_exit_code_of_its_own(
    rushes: Command, store: Path, one_expert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, request: object, options: object) -> None:
        raise QueueFull("the queue is full", retry_after_s=44)

    monkeypatch.setattr(StoreAdmission, "admit", full)
    result = rushes("submit", "a dog", "--store", store, "--model", one_expert, *SMALL)
    assert result.status == 75
    assert result.err.splitlines()[-1] == "rushes: error: the queue is full; try again in 44 s"


def test_a_copy_keeps_out_of_a_clip_that_another_run_writes(store: Path, tmp_path: Path) -> None:
    output = tmp_path / "dog.mp4"
    with Workplace(store) as place:
        place.jobs.create(resolve(load_rules("toy"), "a dog", seed=1), JobOptions())
        (leased,) = place.jobs.lease("w", pipelines=["toy"], limit=1, ttl_s=60)
        place.results.write("clip.mp4", b"whole")
        place.jobs.finish(Lease(job_id=leased.id, owner="w", token=1), result="clip.mp4", actual_s=1.0)
        record = place.jobs.get(leased.id)
        with growing_file(output) as theirs:
            theirs.write(b"another run's")
            with pytest.raises(OutputError, match="another run is writing it"):
                fetch(place, record, output)
        assert output.read_bytes() == b"another run's"
        partial_path(output).write_bytes(b"of a run that died, and longer")
        assert fetch(place, record, output) == str(output)
        assert output.read_bytes() == b"whole"
        assert not partial_path(output).exists()
