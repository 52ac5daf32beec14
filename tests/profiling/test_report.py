"""Files go there and back; what is no profile gets one clear line; two runs of one thing are equal."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rushes.errors import InvalidRequest, OutputError
from rushes.profiling.chrome import save_trace
from rushes.profiling.clip import Ask
from rushes.profiling.compare import compare_operators, compare_rows, compare_totals
from rushes.profiling.growth import fit, growths
from rushes.profiling.report import Profile, Row, Run, read, save
from rushes.profiling.session import Options, Session, profile
from rushes.profiling.subject import Rushes
from rushes.profiling.tables import tables
from rushes.profiling.words import amount, percent, seconds
from tiny_parts import tiny_model


@pytest.fixture
def saved(dense: Session, tmp_path: Path) -> Path:
    path = tmp_path / "a.json"
    save(Profile(kind="run", about={"commit": "abc"}, runs=(dense.run,)), path)
    return path


def test_there_and_back(saved: Path, dense: Session) -> None:
    found = read(saved)
    assert found.runs == (dense.run,)
    assert found.about == {"commit": "abc"}


def changed(change: Callable[[Any], object]) -> Callable[[str], str]:
    def apply(text: str) -> str:
        raw = json.loads(text)
        change(raw)
        return json.dumps(raw)

    return apply


DAMAGES: dict[str, tuple[Callable[[str], str], str]] = {
    "empty": (lambda text: "", "is not JSON"),
    "cut off": (lambda text: text[: len(text) // 2], "is not JSON"),
    "other JSON": (lambda text: "[1, 2]", "is not a profile"),
    "a video": (lambda text: "\x00\x00\x00 ftypisom", "is not JSON"),
    "newer": (changed(lambda raw: raw.update(version=99)), "version 99"),
    "no run": (changed(lambda raw: raw.update(runs=[])), "without a run"),
    "missing": (changed(lambda raw: raw["runs"][0].pop("rows")), "runs[0].rows is missing"),
    "unknown": (changed(lambda raw: raw.update(colour="red")), "colour is unknown"),
    "text for a number": (
        changed(lambda raw: raw["runs"][0]["rows"][0].update(seconds="long")),
        "runs[0].rows[0].seconds must be a number, not 'long'",
    ),
    "not finite": (changed(lambda raw: raw["runs"][0].update(total_s=float("nan"))), "finite"),
    "a list for an object": (changed(lambda raw: raw.update(about=[])), "about must be an object"),
    "an object for a list": (changed(lambda raw: raw.update(runs={})), "runs must be a list"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_what_is_no_profile_is_told_in_one_line(saved: Path, name: str) -> None:
    damage, reason = DAMAGES[name]
    saved.write_text(damage(saved.read_text()))
    with pytest.raises(InvalidRequest) as caught:
        read(saved)
    message = str(caught.value)
    assert reason in message
    assert str(saved) in message
    assert "\n" not in message


def test_files_that_cannot_be_read_or_written(tmp_path: Path, dense: Session) -> None:
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(InvalidRequest, match=str(path)):
            read(path)
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidRequest, match="is not JSON"):
        read(tmp_path / "bytes.json")
    with pytest.raises(OutputError, match="absent"):
        save(Profile(kind="run", about={}, runs=(dense.run,)), tmp_path / "absent" / "a.json")


def test_two_runs_of_one_thing_are_equal_within_noise() -> None:
    """Repeats taking turns, so that whatever else runs here hits both alike."""
    ask = Ask(prompt="a dog")
    subjects = [Rushes(net=tiny_model(), ask=ask, label=label) for label in "ab"]
    a, b = (session.run for session in profile(subjects, Options(repeats=5, captures=False)))
    assert compare_totals(a, b).verdict == "same"
    assert [each.name for each in compare_rows(a, b) if each.verdict != "same"] == []
    assert compare_operators(a, b) == []


def row(name: str, value: float, repeats: tuple[float, ...]) -> Row:
    return Row(
        stage="denoise",
        part=name,
        units=1,
        measured=1,
        seconds=value,
        device_s=None,
        captured=0,
        unit_s=(),
        repeats=repeats,
        ideal_s=None,
        flops=None,
    )


def run_of(*rows: Row) -> Run:
    total = sum(each.seconds for each in rows)
    return Run(
        label="x",
        model="x",
        request={},
        is_short=False,
        total_s=total,
        totals=(total, total),
        rows=rows,
        peaks=(),
    )


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ((10.0, (9.9, 10.1)), (12.0, (11.8, 12.2)), "slower"),
        ((10.0, (9.9, 10.1)), (8.0, (7.9, 8.2)), "faster"),
        ((10.0, (9.0, 12.0)), (12.0, (11.8, 12.2)), "same"),  # it varies as much
        ((10.0, (9.9, 10.1)), (10.5, (10.4, 10.6)), "same"),  # within what a quiet machine varies
        ((10.0, (10.0,)), (11.5, (11.5,)), "same"),  # measured once
        ((10.0, (10.0,)), (15.0, (15.0,)), "slower"),
    ],
)
def test_verdicts(a: Any, b: Any, verdict: str) -> None:
    (found,) = compare_rows(run_of(row("forward", *a)), run_of(row("forward", *b)))
    assert found.verdict == verdict


def test_rows_that_only_one_run_has_and_those_too_small_to_matter() -> None:
    a = run_of(row("forward", 10.0, (10.0,)), row("gone", 1.0, (1.0,)), row("tiny", 0.001, (0.001,)))
    b = run_of(row("forward", 10.0, (10.0,)), row("new", 1.0, (1.0,)), row("tiny", 0.01, (0.01,)))
    verdicts = {each.name.removeprefix("denoise: "): each.verdict for each in compare_rows(a, b)}
    assert verdicts == {"forward": "same", "gone": "gone", "tiny": "same", "new": "new"}


def test_growth_is_fitted() -> None:
    chance = random.Random(1)
    sizes = (1000.0, 2000.0, 4000.0, 8000.0)
    exponent, error = fit(sizes, [1e-9 * size**1.9 * chance.uniform(0.97, 1.03) for size in sizes])
    assert exponent == pytest.approx(1.9, abs=0.05)
    assert 0 < error < 0.05
    runs = [run_of(row("forward", size / 1000, (1.0,))) for size in sizes]
    found = {growth.name: growth.exponent for growth in growths(runs, sizes)}
    assert found == {"total": pytest.approx(1.0), "denoise (stage)": pytest.approx(1.0)}


@pytest.mark.parametrize("name", ["x.trace.json", "x.trace.json.gz"])
def test_the_trace_holds_spans_and_what_was_recorded(dense: Session, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert dense.recorded is not None
    save_trace(Profile(kind="run", about={}, runs=(dense.run,)), dense.recorded.trace, path)
    data = path.read_bytes()
    events = json.loads(gzip.decompress(data) if name.endswith("gz") else data)["traceEvents"]
    names = {event["name"] for event in events if event["ph"] == "X"}
    assert {"denoise", "aten::linear", "conditional"} <= names
    assert all({"ts", "dur", "pid", "tid"} <= event.keys() for event in events if event["ph"] == "X")


def test_tables_say_the_same_as_the_data(dense: Session) -> None:
    shown = list(tables(Profile(kind="run", about={}, runs=(dense.run,)), num_raw=3))
    stages, operators, ceilings, raw, findings = shown[:5]
    assert len(stages.rows) == len(dense.run.rows) + 1
    assert stages.rows[-1][2] == seconds(dense.run.total_s)
    assert len(operators.rows) == len(dense.run.operators)
    assert len(ceilings.rows) == len(dense.run.ceilings)
    assert len(raw.rows) == 3
    assert [found[1] for found in findings.rows] == [each.text for each in dense.run.findings]
    savings = [each.saving_s for each in dense.run.findings]
    assert savings == sorted(savings, reverse=True)
    assert all(len(line) == len(stages.header) for line in stages.rows)


def test_words() -> None:
    assert [seconds(value) for value in (0.0, 2e-7, 4.2e-5, 0.25, 61.0, 1234.0)] == [
        "0 s",
        "0.20 µs",
        "42.0 µs",
        "250 ms",
        "61.0 s",
        "1234 s",
    ]
    assert (percent(0.5), percent(0.001)) == ("50 %", "0.1 %")
    assert amount(26.8e9, "B") == "26.8 GB"


def test_labels_of_other_runs_do_not_change_the_data(dense: Session) -> None:
    other = replace(dense.run, label="other")
    assert compare_totals(dense.run, other).verdict == "same"
    assert {each.verdict for each in compare_rows(dense.run, other)} == {"same"}
