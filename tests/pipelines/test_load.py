"""load: names, folders, settings, and that weights are read only when a call needs them."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

import rushes
from rushes.errors import CheckpointError, ConfigError
from rushes.models.checkpoint import open_checkpoint
from rushes.models.checkpoint_writer import make_checkpoint
from rushes.pipelines.model import rules_of
from rushes.pipelines.parts import CheckpointParts

FIELDS = {"width": 32, "height": 32, "num_frames": 1, "num_inference_steps": 1, "guidance_high": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_checkpoint("ti2v-5b", tmp_path_factory.mktemp("load") / "tiny")


@pytest.mark.parametrize("layout", ["diffusers", "wan"])
def test_both_layouts_of_one_model_give_one_clip(folder, layout, tmp_path):
    other = make_checkpoint("ti2v-5b", tmp_path / "other", layout)
    expected, found = (
        rushes.load(each, device="cpu")
        .generate("a dog", seed=1, **FIELDS, flow_shift=5.0, solver="unipc")
        .frames
        for each in (folder, other)
    )
    assert abs(expected.astype(int) - found.astype(int)).max() <= 1


def test_the_folder_names_the_rules(folder):
    assert rules_of(folder).name == rushes.load(str(folder), device="cpu").rules.name == "wan2.2-ti2v-5b"


def test_weights_are_read_when_a_call_needs_them(folder, tmp_path):
    lazy = tmp_path / "lazy"
    lazy.symlink_to(folder, target_is_directory=True)
    model = rushes.load(lazy, device="cpu")
    lazy.unlink()
    with pytest.raises(CheckpointError):
        model.generate("a dog", **FIELDS)


def test_a_dtype_is_of_the_weights_and_latents_stay_float32(folder):
    model = rushes.load(folder, device="cpu", dtype="bfloat16")
    assert model.generate("a dog", **FIELDS, output="latents").latents.dtype == torch.float32


def test_a_models_name_is_no_folder():
    with pytest.raises(CheckpointError, match="give the folder of its checkpoint"):
        rushes.load("wan2.2-ti2v-5b")
    with pytest.raises(CheckpointError, match="nowhere"):
        rushes.load("nowhere")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("RUSHES_DTYPE", "fp8", "fp8"), ("RUSHES_DEVICE", "tpu9", "tpu9")],
)
def test_the_environment_is_a_default_that_is_checked(folder, monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        rushes.load(folder)


def test_the_number_of_threads_comes_from_the_environment(folder):
    code = f"import rushes, torch; rushes.load({str(folder)!r}, device='cpu'); print(torch.get_num_threads())"
    environ = {**os.environ, "RUSHES_NUM_THREADS": "3"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, timeout=60
    )
    assert result.stdout.strip() == "3", result.stderr


def test_a_lora_is_fused_into_a_copy_that_is_kept(folder, tmp_path):
    copied = tmp_path / "tiny"
    shutil.copytree(folder, copied)
    parts = CheckpointParts(open_checkpoint(copied), torch.device("cpu"), torch.bfloat16)
    with pytest.raises(CheckpointError, match=r"no few\.safetensors"):
        parts.experts("few.safetensors")
    plain = parts.experts().select(0.0).blocks[0].cross_attn.out.weight
    lora = {
        "blocks.0.attn2.to_out.0.lora_A.weight": torch.randn(2, plain.shape[1]),
        "blocks.0.attn2.to_out.0.lora_B.weight": torch.randn(plain.shape[0], 2),
    }
    save_file(lora, copied / "few.safetensors")
    before = plain.clone()
    fused = parts.experts("few.safetensors").select(0.0).blocks[0].cross_attn.out.weight
    down, up = lora.values()
    assert (fused.float() - before.float() - up @ down).abs().max() <= 0.01 * fused.abs().max()
    assert fused.dtype == torch.bfloat16
    assert torch.equal(plain, before)
    assert parts.experts("few.safetensors") is parts.experts("few.safetensors")
    assert parts.experts().select(0.0).blocks[0].cross_attn.out.weight is plain


def test_the_identity_is_of_the_weights_the_dtype_and_the_boundary(folder, tmp_path):
    def identity(folder, dtype=torch.float32):
        parts = CheckpointParts(open_checkpoint(folder), torch.device("cpu"), dtype)
        return parts.identity, parts.encoder_revision

    copied = tmp_path / "tiny"
    shutil.copytree(folder, copied)
    assert identity(copied) == identity(folder) == identity(folder)
    assert rushes.load(copied, device="cpu", dtype="float32").identity == identity(folder)[0]
    halved = identity(folder, torch.bfloat16)
    assert halved[0] != identity(folder)[0]
    assert halved[1] != identity(folder)[1]
    weights = next((copied / "transformer").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert identity(copied)[0] != identity(folder)[0]
    assert identity(copied)[1] == identity(folder)[1]
    before = identity(copied)
    vocabulary = next(file for file in sorted((copied / "tokenizer").iterdir()) if file.is_file())
    vocabulary.write_bytes(vocabulary.read_bytes() + b" ")
    assert identity(copied)[1] != before[1]
    shutil.rmtree(copied / "text_encoder")
    assert identity(copied)[0] != before[0]


def sampled(model, **fields):
    return model.job("a dog", **fields).request.sampling


@pytest.fixture(scope="module")
def opinionated(folder, tmp_path_factory):
    """A model whose folder says another shift and another solver than its rules."""
    copied = tmp_path_factory.mktemp("opinionated") / "tiny"
    shutil.copytree(folder, copied)
    said = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 7.0}
    (copied / "scheduler" / "scheduler_config.json").write_text(json.dumps(said))
    return rushes.load(copied, device="cpu")


@pytest.mark.parametrize(
    ("fields", "shift", "solver"),
    [
        ({}, 7.0, "euler"),
        ({"preset": "quality"}, 7.0, "euler"),
        ({"flow_shift": None, "solver": None, "preset": None}, 7.0, "euler"),
        ({"preset": "fast"}, 7.0, "unipc"),
        ({"preset": "fast", "flow_shift": None}, 7.0, "unipc"),
        ({"preset": "fastwan-3"}, 5.0, "lcm"),
        ({"preset": "fast", "flow_shift": 2.0, "solver": "ddim"}, 2.0, "ddim"),
    ],
)
def test_the_folders_shift_wins_over_presets_of_free_timesteps_and_its_solver_over_the_default_one(
    opinionated, fields, shift, solver
):
    found = sampled(opinionated, **fields)
    assert (found.flow_shift, found.solver) == (shift, solver)


def test_presets_of_fixed_positions_keep_their_shift(tmp_path):
    model = rushes.load(make_checkpoint("a14b", tmp_path / "a14b"), device="cpu")
    assert sampled(model).flow_shift == 12.0
    distilled = sampled(model, preset="distilled-4")
    assert distilled.flow_shift == 5.0
    assert distilled.timesteps == pytest.approx((1000.0, 937.5, 833.333, 625.0), abs=1e-3)
