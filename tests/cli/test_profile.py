"""`rushes profile` as a user types it: tables, files, comparisons, and one clear line for every mistake."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from command_line import Command

SMALL = ("--width", "32", "--height", "32", "--num-frames", "5", "--num-inference-steps", "2", "--seed", "7")
QUICK = (*SMALL, "--repeats", "1", "--only-stages")


def test_everything_at_once(rushes: Command, one_expert: Path, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("p.html", "p.json", "p.trace.json", "p.trace.json.gz")]
    outputs = [text for path in files for text in ("-o", path)]
    flags = ("--repeats", "1", "--top", "4", "--sort", "calls", "--stacks")
    result = rushes("profile", "a dog", "--model", one_expert, *SMALL, *flags, *outputs)
    assert (result.status, result.err) == (0, "")
    for text in (
        "wan2.2-ti2v-5b, 5 frames of 32x32, 2 steps",
        "denoise: conditional",
        "vae_decode: first latent",
        "video_encode: frames",
        "around it",
        "self-attention",
        "of ceiling",
        "ceilings measured on this device in this run",
        "top 4 operators",
        "rushes/models/",
        "largest saving first",
    ):
        assert text in result.out
    assert result.out.endswith("".join(f"{path}\n" for path in files))
    assert files[0].read_text().startswith("<!doctype html>")
    assert json.loads(files[1].read_text())["format"] == "rushes-profile"
    events = json.loads(files[2].read_text())["traceEvents"]
    assert events == json.loads(gzip.decompress(files[3].read_bytes()))["traceEvents"]

    same = rushes("profile", "--compare", files[1], files[1], "-o", tmp_path / "c.html")
    assert (same.status, same.err) == (0, "")
    assert "p (A) and p (B)" in same.out
    assert "same within noise" in same.out
    assert "slower" not in same.out
    assert (tmp_path / "c.html").exists()


def test_json_is_one_object(rushes: Command, two_experts: Path) -> None:
    arguments = ["profile", "a dog", "--model", str(two_experts), *QUICK, "--short", "--json"]
    result = rushes(*arguments)
    assert result.status == 0
    found = json.loads(result.out)
    assert found["about"]["command"] == ["rushes", *arguments]
    (run,) = found["runs"]
    assert run["request"]["prompt"] == "a dog"
    assert run["is_short"]
    assert run["operators"] == []
    assert sum(row["seconds"] for row in run["rows"]) == pytest.approx(run["total_s"])


def test_switches(rushes: Command, one_expert: Path) -> None:
    result = rushes("profile", "--model", one_expert, *QUICK, "--try", "steps=4", "--try", "guidance=off")
    assert result.status == 0
    assert "rushes (A) and steps=4 (B)" in result.out
    assert "rushes (A) and guidance=off (B)" in result.out


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--try", "vae=tiled"), "toy has no vae 'tiled'"),
        (("--try", "temporal_attention=off"), "toy has no temporal attention 'off'"),
        (("--try", "steps=0"), "num_inference_steps"),
        (("--try", "attention=x"), "attention_backend"),
        (("--sweep", "num_frames=17"), "two values"),
        (("--sweep", "step_cache=0,0.1"), "above 0"),
        (("--sweep", "num_frames=17,33", "--try", "steps=4"), "choose one of"),
        (("--against", "diffuser"), "diffusers"),
        (("--short", "--mode", "causal"), "does not go with"),
        (("--sort", "time"), "device_time"),
        (("--top", "0"), "--top"),
        (("--repeats", "0"), "--repeats"),
        (("--num-frames", "6"), "nearest: 5 and 9"),
        (("--model", "nosuch"), "nosuch"),
        (("-o", "report.pdf"), ".html"),
        (("-o", "absent/report.html"), "there is no folder"),
        (("--compare", "a.json", "b.json", "--sweep", "num_frames=17,33"), "--compare runs nothing"),
        (("--compare", "a.json", "b.json", "--try", "steps=4"), "--compare runs nothing"),
        (("--compare", "a.json", "b.json", "--against", "diffusers"), "--compare runs nothing"),
        (("--compare", "a.json", "b.json"), "a.json: No such file"),
        (("--against", "diffusers"), "token experts"),
    ],
)
def test_mistakes_are_told_in_one_line(rushes: Command, flags: tuple[str, ...], reason: str) -> None:
    result = rushes("profile", *flags)
    assert result.status == 2
    assert result.out == ""
    assert result.err.startswith("rushes: error: ")
    assert result.err.count("\n") == 1
    assert reason in result.err


def test_damaged_files_are_told_in_one_line(rushes: Command, tmp_path: Path) -> None:
    good = {"format": "rushes-profile", "version": 1, "kind": "run", "about": {}, "runs": [{"label": 3}]}
    for name, text in (("a.json", "{"), ("b.json", json.dumps(good)), ("c.json", "{}")):
        (tmp_path / name).write_text(text)
        result = rushes("profile", "--compare", tmp_path / name, tmp_path / name)
        assert result.status == 2
        assert result.err.startswith("rushes: error: profile: ")
        assert result.err.count("\n") == 1
