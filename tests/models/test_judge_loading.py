"""load_judge: whole or refused by the name of what is wrong."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from training.judge import save

from rushes.errors import CheckpointError
from rushes.models.judge import Judge, JudgeConfig, load_judge

CONFIG = JudgeConfig(classes={"subject": 4, "count": 3}, widths=(8, 8, 8, 8), num_frames=5)


@pytest.fixture
def folder(tmp_path):
    save(Judge(CONFIG), tmp_path)
    return tmp_path


def change(folder, edit):
    state = load_file(folder / "model.safetensors")
    edit(state)
    save_file(state, folder / "model.safetensors")


def test_it_is_ready_to_read_clips(folder):
    judge = load_judge(folder)
    assert judge.config == CONFIG
    assert not any(parameter.requires_grad for parameter in judge.parameters())
    logits = judge(torch.zeros(2, 3, 5, 32, 32))
    assert {name: tuple(values.shape) for name, values in logits.items()} == {
        "subject": (2, 4),
        "count": (2, 3),
    }


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda state: state.pop("heads.count.bias"), "'heads.count.bias' is missing"),
        (lambda state: state.update({"heads.size.bias": torch.zeros(3)}), "'heads.size.bias' is unexpected"),
        (
            lambda state: state.update({"heads.count.bias": torch.zeros(4)}),
            r"heads.count.bias: \[4\].* \[3\]",
        ),
    ],
)
def test_a_wrong_tensor_is_named(folder, edit, words):
    change(folder, edit)
    with pytest.raises(CheckpointError, match=words):
        load_judge(folder)


def test_a_damaged_folder_is_refused(folder):
    (folder / "config.json").write_text(json.dumps({"classes": {}}))
    with pytest.raises(CheckpointError, match="judge config"):
        load_judge(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        load_judge(folder)


def test_missing_weights_are_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
        load_judge(folder)
