"""Whatever is wrong: one clear line, the right exit status, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import RUSHES, SMALL, Command, Result

from rushes.cli.app import run
from rushes.errors import InvalidRequest

BAD_ARGUMENTS = {
    "empty prompt": (["generate", ""], "prompt: must not be empty"),
    "blank prompt": (["generate", "  "], "prompt: must not be empty"),
    "100 kB prompt": (["generate", "dog " * 25_000], "must have at most 20000 characters, got 100000"),
    "no prompt": (["generate"], "give either PROMPT or --prompt-file"),
    "width 0": (["generate", "a dog", "--width", "0"], "width: must be a multiple of 16"),
    "width negative": (["generate", "a dog", "--width", "-16"], "width: must be a multiple of 16"),
    "width huge": (["generate", "a dog", "--width", "1000000000"], "width: must be a multiple of 16"),
    "height no number": (["generate", "a dog", "--height", "1e9"], "'1e9' is not a valid integer"),
    "frames 80": (["generate", "a dog", "--num-frames", "80"], "num_frames: must be 4n+1"),
    "steps 0": (["generate", "a dog", "--num-inference-steps", "0"], "num_inference_steps: must be"),
    "solver": (["generate", "a dog", "--solver", "eular"], "did you mean 'euler'?"),
    "preset": (["generate", "a dog", "--preset", "quallity"], "did you mean 'quality'?"),
    "flag": (["generate", "a dog", "--widht", "64"], "No such option '--widht'"),
    "mode": (["generate", "a dog", "--mode", "casual"], "'casual' is not one of"),
    "model": (["generate", "a dog", "--model", "toyy"], "did you mean 'toy'?"),
    "not the model's": (
        ["generate", "a dog", "--guidance-low", "2"],
        "guidance_low: toy has one noise expert",
    ),
    "ending": (["generate", "a dog", "-o", "dog.mp5"], "did you mean 'mp4'?"),
    "no such folder": (["generate", "a dog", "-o", "absent/dog.mp4"], "there is no folder absent"),
    "sheet's folder": (["generate", "a dog", "--sheet", "absent/x.png"], "there is no folder absent"),
    "sheet's ending": (
        ["generate", "a dog", "--sheet", "x.jpg"],
        "x.jpg: a contact sheet's name ends in .png",
    ),
    "command": (["genrate", "a dog"], "Did you mean 'generate'?"),
    "inspect nothing": (["inspect", "absent"], "absent: not a folder"),
    "tiny": (["make-checkpoint", "tiny", "--tiny", "a14"], "did you mean 'a14b'?"),
    "models": (["models", "toyy"], "did you mean 'toy'?"),
}


def assert_one_line(result: Result, status: int, message: str) -> None:
    assert result.status == status, result.err
    assert result.out == ""
    told = [line for line in result.err.splitlines() if not line.startswith("rushes: note: ")]
    assert len(told) == 1, result.err
    assert told[0].startswith("rushes: error: ")
    assert message in told[0]
    assert len(told[0]) < 1100


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_a_mistake_is_one_line_and_status_2(
    rushes: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line(rushes(*arguments), 2, message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", ["full", "full/letter.txt"])
def test_a_checkpoint_is_not_made_over_something_else(rushes: Command, tmp_path: Path, target: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    result = rushes("make-checkpoint", tmp_path / target, "--tiny", "a14b")
    assert_one_line(result, 2, f"{target}: exists and is not an empty folder")
    assert (tmp_path / "full" / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a dog\0", "prompt: must not hold a NUL byte, got one at character 5"),
        (b"a dog \xff", "not UTF-8 text (invalid start byte at byte 6)"),
        (b"", "prompt: must not be empty"),
    ],
)
def test_a_prompt_file_is_read_with_care(
    rushes: Command, tmp_path: Path, content: bytes, message: str
) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes(content)
    result = rushes("generate", "--prompt-file", file, "-o", tmp_path / "dog.mp4")
    assert_one_line(result, 2, message)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mode", "causal"], "mode: wan2.2-ti2v-5b was not trained to generate causally"),
        (["--device", "abacus"], "abacus"),
        (["--dtype", "float3"], "float3"),
        (["--width", "48"], "width: must be a multiple of 32"),
    ],
)
def test_what_only_the_model_can_refuse(
    rushes: Command, one_expert: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    result = rushes("generate", "a dog", "-o", tmp_path / "dog.mp4", "--model", one_expert, *SMALL, *flags)
    assert_one_line(result, 2, message)
    assert list(tmp_path.iterdir()) == []


def truncate_shard(folder: Path) -> None:
    shard = next((folder / "transformer").glob("*.safetensors"))
    os.truncate(shard, shard.stat().st_size - 100)


def remove_tokenizer(folder: Path) -> None:
    shutil.rmtree(folder / "tokenizer")


def become_another_model(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableDiffusionPipeline"}))


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


DAMAGES = {
    truncate_shard: "diffusion_pytorch_model",
    remove_tokenizer: "tokenizer",
    become_another_model: "StableDiffusionPipeline",
    empty: "broken",
}


@pytest.mark.parametrize(
    ("damage", "message"), DAMAGES.items(), ids=lambda value: getattr(value, "__name__", "")
)
def test_a_folder_that_cannot_be_used(
    rushes: Command, one_expert: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(one_expert, folder)
    damage(folder)
    result = rushes("generate", "a dog", "-o", tmp_path / "dog.mp4", "--model", folder, *SMALL)
    assert_one_line(result, 2, message)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_full_disk_is_one_line_and_no_file(one_expert: Path, tmp_path: Path) -> None:
    """A limit of 2 KiB a file stands in for the disk: the header fits, the frames do not."""
    command = [*RUSHES, "generate", "a dog", "-o", "dog.mp4", "--model", str(one_expert), *SMALL]
    limited = ["bash", "-c", 'ulimit -f 2; exec "$@"', "bash", *command]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(
        limited, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert_one_line(
        Result(status=ended.returncode, out=ended.stdout, err=ended.stderr), 1, "dog.mp4: File too large"
    )
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(InvalidRequest, match="prompt"):
        run(["generate", "", "--debug"])
