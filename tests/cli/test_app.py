"""The command as a process: quick help without torch, version, models, inspect."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import RUSHES, Command

import rushes as package
from rushes.cli.app import was_interrupted
from rushes.pipelines.rules import FIELDS, RULES


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["models"], ["generate", ""]])
def test_help_and_early_errors_load_no_torch_and_take_no_second(arguments: list[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-X", "importtime", "-m", "rushes", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert ended.returncode == (2 if arguments[-1] == "" else 0)
    imported = {line.rsplit("|", 1)[-1].strip() for line in ended.stderr.splitlines()}
    assert "rushes.cli.app" in imported
    assert not {"torch", "transformers", "av"} & imported
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5


def test_version_is_the_packages() -> None:
    ended = subprocess.run([*RUSHES, "--version"], capture_output=True, text=True, check=True)
    assert ended.stdout == f"rushes {package.__version__}\n"


def test_help_has_a_flag_for_every_field(rushes: Command) -> None:
    result = rushes("generate", "--help")
    assert [name for name in FIELDS if f"--{name.replace('_', '-')} " not in result.out] == []


def test_models_lists_every_model_and_shows_one(rushes: Command) -> None:
    listed = rushes("models").out
    assert [name for name in RULES.names() if name not in listed] == []
    shown = rushes("models", "wan2.2-t2v-a14b").out
    assert "num_inference_steps   40" in shown
    assert "distilled-4" in shown
    described = json.loads(rushes("models", "--json").out)
    assert described["wan2.2-t2v-a14b"]["fields"]["flow_shift"]["default"] == 12.0


def test_models_tells_what_the_toy_can_be_asked_for(rushes: Command) -> None:
    shown = rushes("models", "toy").out
    for text in ("hedgehog", "zigzags", "underwater", "pan left"):
        assert text in shown
    assert "guidance_low" not in shown, "it has one expert"
    assert "hedgehog" not in rushes("models", "wan2.2-t2v-a14b").out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "4"], "No such option '--steps': it is '--num-inference-steps'"),
        (["--size", "64x64"], "No such option '--size': it is '--width'"),
        (["--sede", "4"], "No such option '--sede'"),
        (["running"], "Got unexpected extra argument (running); put the prompt in quotes"),
    ],
)
def test_names_of_other_programs_lead_to_ours(rushes: Command, arguments: list[str], words: str) -> None:
    result = rushes("generate", "a dog", *arguments)
    assert result.status == 2
    assert words in result.err


def test_inspect_tells_settings_origins_sizes_and_notes(rushes: Command, two_experts: Path) -> None:
    shown = rushes("inspect", two_experts).out
    for text in (
        "wan2.2-t2v-a14b in the wan layout",
        "flow_shift   12.0",
        "transformer_low",
        "bfloat16",
        "note: ",
    ):
        assert text in shown
    report = json.loads(rushes("inspect", two_experts, "--json").out)
    assert report["settings"]["boundary"]["value"] == 0.875
    assert report["settings"]["boundary"]["origin"]


def test_make_checkpoint_prints_the_folder(rushes: Command, tmp_path: Path) -> None:
    result = rushes("make-checkpoint", tmp_path / "tiny", "--tiny", "a14b")
    assert (result.status, result.out, result.err) == (0, f"{tmp_path / 'tiny'}\n", "")
    assert (tmp_path / "tiny" / "model_index.json").is_file()


def test_an_error_that_came_of_ctrl_c_is_an_interruption() -> None:
    error = RuntimeError("release unlocked lock")
    error.__context__ = KeyboardInterrupt()
    outer = ValueError("while cleaning up")
    outer.__cause__ = error
    assert was_interrupted(outer)
    assert not was_interrupted(ValueError("else"))


def test_the_embedded_model_can_be_inspected_by_its_name(rushes: Command) -> None:
    shown = rushes("inspect", "toy")
    assert shown.status == 0
    assert "toy in the diffusers layout" in shown.out
