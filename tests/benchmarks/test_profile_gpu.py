"""The profiler's GPU run, proven on the CPU in tiny shapes."""

import json

import pytest
import torch
from benchmarks.profile_goals import MIN_EXPLAINED
from benchmarks.profile_gpu import Bench, arguments
from benchmarks.random_wan import TINY, diffusers_sharing, random_wan

from benchmarks import profile_gpu
from rushes.profiling.report import read

CASE = "a14b-480p"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUT", str(folder))
        assert profile_gpu.main(["--tiny", "--commit", "abc", "--case", CASE]) == 0
    return folder


def test_a_case_is_a_small_file_that_the_profiler_reads_and_a_page(folder):
    file, page = folder / f"profile_{CASE}.json", folder / f"profile_{CASE}.html"
    assert {file, page} == set(folder.iterdir())
    assert file.stat().st_size < 60_000
    assert page.stat().st_size < 2_000_000
    profile = read(file)
    assert (profile.about["commit"], profile.about["problems"]) == ("abc", [])
    assert [goal["is_met"] for goal in profile.about["goals"]] == [True] * 7
    assert [run.label for run in profile.runs] == ["rushes", "diffusers"]


def test_a_step_of_each_expert_stands_for_all(folder):
    for run in read(folder / f"profile_{CASE}.json").runs:
        assert run.is_short
        assert run.explained >= MIN_EXPLAINED
        assert any("timed while" in note for note in run.notes)
        rows = {row.name: row for row in run.rows}
        for expert in ("high", "low"):
            forwards = [
                rows[f"denoise: {branch}, {expert} noise"] for branch in ("conditional", "unconditional")
            ]
            assert [row.measured for row in forwards] == [1, 1]
        steps = sum(row.units for name, row in rows.items() if name.startswith("denoise: conditional"))
        assert steps == run.request["sampling"]["num_inference_steps"]
        assert rows["text_encode: encoder"].seconds > 0
        assert {peak.stage for peak in run.peaks if peak.num_bytes} == {row.stage for row in run.rows} - {
            "request"
        }


def test_diffusers_has_our_weights_in_our_memory():
    ours = random_wan(TINY.transformers["a14b"], 0, torch.device("cpu"), torch.bfloat16)
    theirs = diffusers_sharing(ours, torch.bfloat16)
    places = {weight.untyped_storage().data_ptr() for weight in ours.parameters()}
    for name, weight in theirs.named_parameters():
        if name.endswith(("to_q.weight", "to_k.weight", "net.2.weight")):
            assert weight.untyped_storage().data_ptr() in places, name
    assert {weight.dtype for weight in theirs.parameters()} == {torch.bfloat16, torch.float32}


def test_what_fails_or_has_no_time_left_is_told_and_stops_nothing(tmp_path, capsys):
    def fail():
        raise ValueError("broken\nsecond line")

    asked = arguments(["--tiny", "--seconds", "100"])
    bench = Bench(asked=asked, device=torch.device("cpu"), dtype=torch.float32, folder=tmp_path)
    assert bench.attempt("x", "bad", fail) is None
    assert bench.attempt("x", "long", fail, expected_s=101.0) is None
    assert bench.attempt("x", "good", lambda: 7, expected_s=1.0) == 7
    assert bench.problems["x"][0] == "bad: failed: ValueError: broken"
    assert bench.problems["x"][1].startswith("long: skipped: takes about 101 s")
    profile_gpu.report(bench, "x", [], bench.options())
    about = json.loads((tmp_path / "profile_x.json").read_text())["about"]
    assert about["problems"] == bench.problems["x"]
    capsys.readouterr()
