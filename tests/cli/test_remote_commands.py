"""`rushes submit` and `rushes batch`: over a running service, and over a folder of jobs."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from command_line import RUSHES, SMALL, Command

TEMPLATE = "a {animal} in the park"


@contextlib.contextmanager
def served(store: Path) -> Iterator[str]:
    """The URL of `rushes serve` over this folder; its worker is up."""
    command = [*RUSHES, "serve", "--no-auth", "--port", "0", "--store", str(store)]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        url = process.stdout.readline().strip()
        for line in process.stderr:
            if "runs toy" in line:
                break
        drain = threading.Thread(target=process.stderr.read)
        drain.start()
        yield url
    finally:
        process.terminate()
        process.wait(60)
        drain.join()
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def url(store: Path) -> Iterator[str]:
    with served(store) as found:
        yield found


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "data.csv"
    path.write_text('animal,seed,negative_prompt\ndog,7,\n"cat, black",8,blurry\n')
    return path


def frames_of(path: Path) -> int:
    with av.open(path) as container:
        return sum(1 for _ in container.decode(video=0))


def test_submit_saves_a_clip(rushes: Command, url: str, tmp_path: Path) -> None:
    clip = tmp_path / "x.mp4"
    result = rushes("submit", "a dog", "--url", url, *SMALL, "--watch", "-o", clip)
    assert (result.status, result.out) == (0, f"{clip}\n"), result.err
    assert re.match(r"rushes: job [0-9a-f]{32}\n", result.err)
    assert frames_of(clip) == 5


def test_submit_tells_what_it_queued(rushes: Command, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUSHES_URL", url)
    monkeypatch.setenv("RUSHES_KEY", "a-secret-key")
    assert re.fullmatch(r"[0-9a-f]{32}\n", rushes("submit", "a dog", *SMALL).out)
    result = rushes("submit", "a dog", *SMALL, "--watch")
    assert re.fullmatch(rf"{url}/v1/videos/[0-9a-f]{{32}}/content\?variant=video\n", result.out)
    assert "a-secret-key" not in result.out + result.err


def test_jobs_are_listed_and_cancelled(rushes: Command, url: str) -> None:
    held = rushes("submit", "a long dog", "--url", url, "--num-frames", "77", "--lane", "batch").out.strip()
    cancelled = rushes("cancel", held, "--url", url)
    assert (cancelled.status, cancelled.out) in ((0, "cancelled\n"), (0, "cancelling\n")), cancelled.err
    deadline = time.monotonic() + 60
    while held not in (told := rushes("jobs", "--url", url, "--status", "cancelled", "--json").out):
        assert time.monotonic() < deadline, told
    rows = [json.loads(line) for line in told.splitlines()]
    assert {row["error"]["code"] for row in rows} == {"cancelled"}
    table = rushes("jobs", "--url", url, "--limit", "1").out
    assert held[:8] in table
    assert "a long dog" in table
    assert "cancelled" in table
    assert rushes("jobs", "--url", url, "--status", "failed").out == f"no such jobs at {url}\n"
    refused = rushes("jobs", "--url", url, "--tenant", "x")
    assert (refused.status, "--tenant is for a folder of jobs" in refused.err) == (2, True)


def test_use_of_a_service(rushes: Command, url: str) -> None:
    assert rushes("usage", "--url", url, "--json").out == "", "nothing is charged without keys"


def test_notes_are_passed_on(rushes: Command, url: str, tmp_path: Path) -> None:
    result = rushes("submit", "a dog and a blockchain", "--url", url, *SMALL)
    assert "rushes: note: toy does not know 'blockchain'" in result.err
    table = tmp_path / "data.csv"
    table.write_text("animal\ndog\nblockchain\n")
    told = rushes("batch", TEMPLATE, "--rows", table, "--url", url, *SMALL).err
    assert told.count("rushes: note: toy does not know 'blockchain'") == 1


def test_a_trace_of_a_service_is_that_of_its_store(rushes: Command, url: str, store: Path) -> None:
    job_id = rushes("submit", "a traced dog", "--url", url, *SMALL).out.strip()
    rushes("submit", "a dog after it", "--url", url, *SMALL, "--watch")
    deadline = time.monotonic() + 20
    while "video encode" not in (here := rushes("trace", job_id, "--store", store).out):
        assert time.monotonic() < deadline, here
        time.sleep(0.1)  # it is written when the worker is done with the job
    there = rushes("trace", job_id, "--url", url)
    assert (there.status, there.out) == (0, here), there.err
    assert json.loads(rushes("trace", job_id, "--url", url, "--json").out)["job_id"] == job_id
    unknown = rushes("trace", "0" * 32, "--url", url)
    assert (unknown.status, "there is no job" in unknown.err) == (2, True), unknown.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("submit", "a dog", "--width", "33"), "width: must be a multiple of 16"),
        (("submit", "a dog", "--model", "sora"), "not served here"),
        (("submit", "a dog", "--tenant", "b"), "--tenant is for a folder of jobs"),
        (("submit", "a dog", "--store", "x"), "--store is for a folder of jobs"),
        (("batch", "a {animal", "--yes"), "template: "),
        (("batch", "a {animal} by {tree}", "--yes"), "rows[0].tree: in row 1: "),
        (("batch", "a {animal}", "--yes", "--width", "33"), "rows[0].width: in row 1: must be"),
    ],
)
def test_mistakes_are_told_in_one_line(
    rushes: Command, url: str, table: Path, arguments: tuple[str, ...], says: str
) -> None:
    rows = ("--rows", table) if arguments[0] == "batch" else ()
    result = rushes(*arguments, "--url", url, *rows)
    assert result.status == 2
    assert says in result.err
    assert len(result.err.splitlines()) == 1


def test_a_key_without_a_service(rushes: Command) -> None:
    result = rushes("submit", "a dog", "--key", "secret")
    assert (result.status, "--key goes with --url" in result.err) == (2, True)
    result = rushes("submit", "a dog", "--url", "127.0.0.1:1", "--key", "secret")
    assert (result.status, "http://" in result.err, "secret" in result.err) == (2, True, False)


def batch(rushes: Command, table: Path, *flags: str | Path, template: str = TEMPLATE) -> list[str]:
    fields = [flag for flag in SMALL if flag not in ("--seed", "7")]
    result = rushes("batch", template, "--rows", table, *fields, "--yes", *flags)
    assert result.status == 0, result.err
    return [result.out.strip(), result.err]


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_a_batch_that_is_not_wanted_is_not_queued(
    rushes: Command, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    store = tmp_path / "store"
    result = rushes("batch", TEMPLATE, "--rows", table, "--store", store)
    assert (result.status, result.out) == (1, "")
    assert result.err.endswith("rushes: nothing was queued\n")
    assert "no jobs yet" in rushes("jobs", "--store", store).out


def test_a_table_says_how_it_is_read(rushes: Command, tmp_path: Path) -> None:
    table = tmp_path / "rows.txt"
    table.write_text("animal\ndog\n")
    result = rushes("batch", TEMPLATE, "--rows", table, "--store", tmp_path / "store", "--yes")
    assert (result.status, "must end in .csv or .jsonl" in result.err) == (2, True)


def test_a_batch_is_saved_and_gone_on_with(
    rushes: Command, url: str, store: Path, table: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "clips"
    batch_id, err = batch(rushes, table, "--url", url, "-o", folder)
    assert re.search(r"2 clips, \d+\.\d GPU-seconds, ready in \d+ s with 1 worker\n", err), err
    assert "2 of 2 clips are ready" in err
    assert sorted(path.name for path in folder.iterdir()) == ["0001.mp4", "0002.mp4"]
    assert frames_of(folder / "0002.mp4") == 5
    listed = [json.loads(line) for line in rushes("jobs", "--store", store, "--json").out.splitlines()]
    ours = [each for each in listed if each["request"]["prompt"] == "a cat, black in the park"]
    assert [(each["request"]["sampling"]["seed"], each["options"]["lane"]) for each in ours] == [(8, "batch")]
    assert ours[0]["request"]["negative_prompt"] == "blurry"
    (folder / "0001.mp4").unlink()
    kept = (folder / "0002.mp4").stat()
    again, _ = batch(rushes, table, "--url", url, "-o", folder)
    assert again == batch_id
    assert (folder / "0001.mp4").exists()
    assert (folder / "0002.mp4").stat().st_mtime_ns == kept.st_mtime_ns
    num = len(rushes("jobs", "--store", store, "--json", "--limit", "1000").out.splitlines())
    assert num == len(listed)


def test_a_batch_over_a_folder(rushes: Command, url: str, store: Path, tmp_path: Path) -> None:
    table = tmp_path / "rows.jsonl"
    table.write_text('{"animal": "fox", "seed": 1}\n\n{"animal": "owl"}\n')
    folder = tmp_path / "clips"
    first, err = batch(rushes, table, "--store", store, "-o", folder)
    assert "2 of 2 clips are ready" in err
    assert [frames_of(folder / f"{number:04d}.mp4") for number in (1, 2)] == [5, 5]
    again, _ = batch(rushes, table, "--store", store)
    assert again == first


def test_nobody_says_yes(rushes: Command, url: str, table: Path) -> None:
    result = rushes("batch", TEMPLATE, "--rows", table, "--url", url)
    assert result.status != 0
    assert result.out == ""


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("x.csv", "animal,seed\ndog\n", "row 1 has not as many cells"),
        ("x.csv", "animal\n", "has no rows"),
        ("x.jsonl", "{\n", "line 1 is not JSON"),
        ("x.jsonl", "[1]\n", "must be an object, got list"),
    ],
)
def test_tables_that_are_none(rushes: Command, tmp_path: Path, name: str, text: str, says: str) -> None:
    table = tmp_path / name
    table.write_text(text)
    result = rushes("batch", TEMPLATE, "--rows", table, "--store", tmp_path / "store", "--yes")
    assert result.status == 2
    assert says in result.err
    assert not (tmp_path / "store").exists()
