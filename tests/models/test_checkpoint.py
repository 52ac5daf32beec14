"""Folders are recognised from JSON and headers alone, their traps explained, and what cannot run refused."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from rushes.errors import CheckpointError
from rushes.models.checkpoint import open_checkpoint
from rushes.models.checkpoint_settings import OFFICIAL, OfficialSettings
from rushes.models.headers import find_weights, read_headers
from rushes.pipelines.rules import load_rules

DIFFUSERS_CONFIG = {
    "_class_name": "WanTransformer3DModel",
    "in_channels": 16,
    "num_attention_heads": 40,
    "attention_head_dim": 128,
}
WAN_CONFIG = {"_class_name": "WanModel", "model_type": "t2v", "in_dim": 16, "dim": 5120}


def write_json(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def write_weights(folder: Path, *, dtype: str = "float32", stem: str = "diffusion_pytorch_model") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{stem}.safetensors"
    save_file({"blocks.0.scale_shift_table": np.zeros((1, 6, 8), dtype)}, file)
    return file


def diffusers_folder(
    folder: Path, *, two: bool = True, index: dict[str, Any] | None = None, **config: Any
) -> Path:
    transformer = ["diffusers", "WanTransformer3DModel"]
    content = {"_class_name": "WanPipeline", "transformer_2": transformer if two else [None, None]}
    content["boundary_ratio"] = 0.875 if two else None
    write_json(folder / "model_index.json", content | (index or {}))
    for name in ("transformer", "transformer_2")[: 2 if two else 1]:
        write_json(folder / name / "config.json", DIFFUSERS_CONFIG | config)
        write_weights(folder / name)
    return folder


def scheduler(folder: Path, **fields: Any) -> Path:
    write_json(folder / "scheduler" / "scheduler_config.json", fields)
    return folder


def wan_folder(folder: Path, *, two: bool = True, **config: Any) -> Path:
    for name in ("high_noise_model", "low_noise_model") if two else ("",):
        write_json(folder / name / "config.json", WAN_CONFIG | config)
        write_weights(folder / name)
    return folder


@pytest.mark.parametrize(
    ("two", "config", "pipeline"),
    [
        (True, {}, "wan2.2-t2v-a14b"),
        (True, {"num_attention_heads": 2, "attention_head_dim": 24}, "wan2.2-t2v-a14b"),
        (False, {"in_channels": 48}, "wan2.2-ti2v-5b"),
        (False, {"num_attention_heads": 12}, "wan2.1-t2v-1.3b"),
        (False, {}, "wan2.1-t2v-14b"),
        (False, {"pooled_dim": 384}, "toy"),
        (True, {"experts": {"num_experts": 8, "top_k": 2, "expert_dim": 4}}, "toy"),
    ],
)
def test_diffusers_folders_are_named_by_structure(
    tmp_path: Path, two: bool, config: dict[str, Any], pipeline: str
) -> None:
    checkpoint = open_checkpoint(diffusers_folder(tmp_path, two=two, **config))
    assert (checkpoint.layout, checkpoint.pipeline) == ("diffusers", pipeline)
    assert checkpoint.boundary.value == (0.875 if two else None)


@pytest.mark.parametrize(
    ("two", "config", "vae", "pipeline", "shift"),
    [
        (True, {}, "Wan2.1_VAE.pth", "wan2.2-t2v-a14b", 12.0),
        (False, {"model_type": "ti2v", "in_dim": 48, "dim": 3072}, "Wan2.2_VAE.pth", "wan2.2-ti2v-5b", 5.0),
        (False, {"dim": 1536}, "Wan2.1_VAE.pth", "wan2.1-t2v-1.3b", 8.0),
        (False, {}, "Wan2.1_VAE.pth", "wan2.1-t2v-14b", 5.0),
    ],
)
def test_original_folders_get_official_settings(
    tmp_path: Path, two: bool, config: dict[str, Any], vae: str, pipeline: str, shift: float
) -> None:
    folder = wan_folder(tmp_path, two=two, **config)
    for name in ("Wan2.1_VAE.pth", "Wan2.2_VAE.pth"):
        (folder / name).write_bytes(b"x" * 400)
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.layout, checkpoint.pipeline) == ("wan", pipeline)
    assert checkpoint.flow_shift.value == shift
    assert checkpoint.solver.value == "unipc"
    assert "official" in checkpoint.flow_shift.origin
    assert checkpoint.boundary.value == (0.875 if two else None)
    assert checkpoint.part("vae").path.name == vae


def test_the_converters_shift_is_explained_and_replaced(tmp_path: Path) -> None:
    folder = scheduler(diffusers_folder(tmp_path), _class_name="UniPCMultistepScheduler", flow_shift=3.0)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.flow_shift.value == 12.0
    assert "3.0" in checkpoint.flow_shift.origin
    assert "3.0" in checkpoint.notes[0]
    assert "official 12.0" in checkpoint.notes[0]


def test_another_shift_of_the_folder_is_used_and_said(tmp_path: Path) -> None:
    folder = scheduler(diffusers_folder(tmp_path), _class_name="UniPCMultistepScheduler", flow_shift=7)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.flow_shift.value == 7.0
    assert checkpoint.flow_shift.origin == "scheduler/scheduler_config.json"
    assert checkpoint.notes[0].startswith("Shift: this folder's flow_shift 7.0 is used")


def test_wan21_keeps_the_shift_that_is_recommended_for_480p(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(scheduler(diffusers_folder(tmp_path, two=False), flow_shift=3.0))
    assert checkpoint.flow_shift.value == 3.0
    assert "official value of wan2.1-t2v-14b is 5.0" in checkpoint.notes[0]


def test_the_official_shift_needs_no_note(tmp_path: Path) -> None:
    folder = scheduler(diffusers_folder(tmp_path, two=False, in_channels=48), flow_shift=5.0)
    assert open_checkpoint(folder).notes == ()


@pytest.mark.parametrize(
    ("name", "solver"),
    [("FlowMatchEulerDiscreteScheduler", "euler"), ("LCMScheduler", "lcm"), ("NewScheduler", "unipc")],
)
def test_the_scheduler_class_decides_the_solver(tmp_path: Path, name: str, solver: str) -> None:
    checkpoint = open_checkpoint(scheduler(diffusers_folder(tmp_path), _class_name=name, shift=12.0))
    assert checkpoint.solver.value == solver
    assert name in checkpoint.solver.origin


def test_two_experts_explain_guidance_order_and_the_switch(tmp_path: Path) -> None:
    guidance, switch = open_checkpoint(diffusers_folder(tmp_path, index={"boundary_ratio": 0.9})).notes
    assert "guidance_high is diffusers' guidance_scale" in guidance
    assert "timesteps >= 900 run the high-noise expert" in switch
    assert "that a multistep solver (unipc, dpmpp-2m) looks back on count across the switch" in switch


def test_a_distilled_folder_is_pointed_to_its_presets(tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path / "FastWan2.2-TI2V-5B", two=False, in_channels=48)
    (note,) = open_checkpoint(folder).notes
    assert "FastWan2.2-TI2V-5B looks distilled" in note
    assert "fastwan-3" in note


def test_a_few_step_lora_beside_the_model_is_pointed_out(tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path, two=False)
    write_weights(folder / "loras", stem="Wan21_T2V_14B_lightx2v_cfg_step_lora")
    (note,) = open_checkpoint(folder).notes
    assert "lightx2v_cfg_step_lora.safetensors looks distilled" in note


def test_rounded_modulation_tables_are_explained(tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path, two=False)
    write_weights(folder / "transformer", dtype="float16")
    (note,) = open_checkpoint(folder).notes
    assert note.startswith("Precision: blocks.0.scale_shift_table")


@pytest.mark.parametrize(
    ("two", "index", "config", "name"),
    [
        (True, {}, {"in_channels": 36}, "Wan2.2-I2V-A14B"),
        (False, {"_class_name": "WanImageToVideoPipeline"}, {}, "Wan2.1-I2V-14B"),
        (False, {}, {"image_dim": 1280}, "Wan2.1-I2V-14B"),
        (False, {"_class_name": "WanVACEPipeline"}, {}, "WanVACEPipeline"),
        (False, {"_class_name": "FluxPipeline"}, {}, "FluxPipeline"),
        (False, {}, {"in_channels": 64}, "64 latent channels"),
    ],
)
def test_other_models_are_refused_by_name(
    tmp_path: Path, two: bool, index: dict[str, Any], config: dict[str, Any], name: str
) -> None:
    with pytest.raises(CheckpointError, match=name):
        open_checkpoint(diffusers_folder(tmp_path, two=two, index=index, **config))


@pytest.mark.parametrize(("two", "name"), [(True, "Wan2.2-I2V-A14B"), (False, "Wan2.1-I2V-14B")])
def test_original_image_to_video_folders_are_refused_by_name(tmp_path: Path, two: bool, name: str) -> None:
    with pytest.raises(CheckpointError, match=name):
        open_checkpoint(wan_folder(tmp_path, two=two, model_type="i2v", in_dim=36))


def test_an_image_encoder_gives_an_image_to_video_folder_away(tmp_path: Path) -> None:
    (diffusers_folder(tmp_path, two=False) / "image_encoder").mkdir()
    with pytest.raises(CheckpointError, match="image to video"):
        open_checkpoint(tmp_path)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a folder"):
        open_checkpoint(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"expected model_index\.json"):
        open_checkpoint(tmp_path)
    write_weights(tmp_path, stem="adapter_lora")
    with pytest.raises(CheckpointError, match="LoRA weights only"):
        open_checkpoint(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        open_checkpoint(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"transformer/config\.json: missing"):
        open_checkpoint(tmp_path)


def test_missing_parts_are_told_when_needed(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(diffusers_folder(tmp_path))
    with pytest.raises(CheckpointError, match=r"no text_encoder \(text_encoder/\); .* prompt_embeds"):
        checkpoint.part("text_encoder")
    with pytest.raises(CheckpointError, match='output="latents"'):
        checkpoint.part("vae")
    original = open_checkpoint(wan_folder(tmp_path / "wan", two=False, in_dim=48))
    with pytest.raises(CheckpointError, match=r"Wan2\.2_VAE\.pth"):
        original.part("vae")


def test_a_missing_shard_is_noted_and_stops_its_part(tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path, two=False)
    shards = {"a": "diffusion_pytorch_model.safetensors", "b": "diffusion_pytorch_model-2.safetensors"}
    write_json(
        folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json", {"weight_map": shards}
    )
    checkpoint = open_checkpoint(folder)
    assert "Incomplete: transformer lacks diffusion_pytorch_model-2.safetensors." in checkpoint.notes
    with pytest.raises(CheckpointError, match=r"shard .*model-2\.safetensors is missing"):
        checkpoint.part("transformer")


def test_several_weight_files_without_an_index_are_refused(tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path, two=False)
    (folder / "transformer" / "diffusion_pytorch_model.safetensors").rename(
        folder / "transformer" / "a.safetensors"
    )
    write_weights(folder / "transformer", stem="b")
    with pytest.raises(CheckpointError, match=r"several weight files \(a\.safetensors, b\.safetensors\)"):
        open_checkpoint(folder)


VARIANTS = [
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "diffusion_pytorch_model.bf16.safetensors.index.json",
]


def write_index(folder: Path, name: str = "diffusion_pytorch_model.safetensors.index.json") -> Path:
    """An index; returns its one shard."""
    file = write_weights(folder, stem=f"{name.replace('.json', '')}-00001-of-00001")
    write_json(folder / name, {"weight_map": {"blocks.0.scale_shift_table": file.name}})
    return file


def test_the_index_without_a_variant_comes_first(tmp_path: Path) -> None:
    canonical = write_index(tmp_path)
    for variant in VARIANTS:
        write_index(tmp_path, variant)
    assert find_weights(tmp_path).present == (canonical,)


def test_a_variant_gives_way_to_the_single_file(tmp_path: Path) -> None:
    write_index(tmp_path, VARIANTS[0])
    single = write_weights(tmp_path)
    assert find_weights(tmp_path).present == (single,)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_alone_is_used(tmp_path: Path, variant: str) -> None:
    sharded = write_index(tmp_path / "sharded", variant)
    assert find_weights(tmp_path / "sharded").present == (sharded,)
    whole = write_weights(tmp_path / "whole", stem="diffusion_pytorch_model.fp16")
    assert find_weights(tmp_path / "whole").present == (whole,)


def test_several_variants_are_refused_by_name(tmp_path: Path) -> None:
    write_index(tmp_path, VARIANTS[0])
    write_weights(tmp_path, stem="diffusion_pytorch_model.bf16")
    names = r"several weight files \(diffusion_pytorch_model\.safetensors\.index\.fp16\.json, .*\.bf16\."
    with pytest.raises(CheckpointError, match=names):
        find_weights(tmp_path)


@pytest.mark.parametrize(
    "shard", [3, None, ["a"], "../x.safetensors", "/x.safetensors", "a\\b", "C:x", "", ".."]
)
def test_an_index_names_files_of_its_folder_only(tmp_path: Path, shard: Any) -> None:
    index = tmp_path / "model.safetensors.index.json"
    write_json(index, {"weight_map": {"a": "a.safetensors", "b": shard}})
    with pytest.raises(CheckpointError) as caught:
        find_weights(tmp_path)
    assert str(caught.value) == f"{index}: weight_map names {shard!r}, which is no file name in its folder"


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ([ENTRY], "list, not an object"),
        ({"w": [0, 4]}, "tensor 'w'"),
        ({"w": "F32"}, "tensor 'w'"),
        *(({"w": {key: ENTRY[key] for key in ENTRY if key != left}}, "tensor 'w'") for left in ENTRY),
        ({"w": ENTRY | {"data_offsets": [0]}}, "tensor 'w'"),
        ({"w": ENTRY | {"data_offsets": "04"}}, "tensor 'w'"),
        ({"w": ENTRY | {"shape": ["1"]}}, "tensor 'w'"),
        ({"w": ENTRY | {"dtype": 32}}, "tensor 'w'"),
    ],
)
def test_a_header_that_is_none_is_refused_in_one_line(tmp_path: Path, header: Any, reason: str) -> None:
    file = tmp_path / "w.safetensors"
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(CheckpointError) as caught:
        read_headers((file,))
    assert str(caught.value) == f"{file}: damaged safetensors header ({reason})"


def test_sizes_and_memory_come_from_headers(tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path)
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "tokenizer.json").write_text("x" * 100)
    report = open_checkpoint(folder).describe()
    assert {part.name: part.num_parameters for part in report.parts} == {
        "transformer": 48,
        "transformer_low": 48,
        "tokenizer": 0,
    }
    assert report.num_bytes == sum(file.stat().st_size for file in folder.glob("*/*.safetensors")) + 100
    bf16 = report.memory[0]
    # two experts and half of one for activations; swapped: one expert less
    assert (bf16.dtype, bf16.resident, bf16.swapped) == ("bfloat16", 2 * 48 * 5 // 2, 2 * 48 * 3 // 2)
    fits = [bf16.fits(free, host_bytes=192) for free in (240, 239, 144, 143)]
    assert fits == ["resident", "swapped", "swapped", None]
    # both experts wait in host memory; without any, both must be on the device
    assert [bf16.fits(239, host_bytes=191), bf16.fits(239), bf16.fits(240)] == [None, None, "resident"]


def test_int8_scales_are_no_parameters(tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path, two=False, pooled_dim=8)
    tensors = {"w": np.zeros((4, 8), "int8"), "w.scale": np.ones((4, 1), "float32")}
    save_file(tensors, folder / "transformer" / "diffusion_pytorch_model.safetensors")
    (size,) = open_checkpoint(folder).describe().parts
    assert size.num_parameters == 32


@pytest.mark.parametrize("kept", [4, 60, -1])
def test_a_truncated_file_is_named(tmp_path: Path, kept: int) -> None:
    folder = diffusers_folder(tmp_path, two=False)
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.safetensors: (truncated|damaged)"):
        open_checkpoint(folder).describe()


def test_opening_and_describing_never_import_torch(tmp_path: Path) -> None:
    folder = diffusers_folder(tmp_path)
    code = (
        "import sys, pathlib; from rushes.models.checkpoint import open_checkpoint;"
        "open_checkpoint(pathlib.Path(sys.argv[1])).describe(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, timeout=60)


@pytest.mark.parametrize("pipeline", sorted(OFFICIAL))
def test_official_settings_are_those_of_the_rules(pipeline: str) -> None:
    rules = load_rules(pipeline)
    preset = rules.presets[rules.default_preset]
    expected = OfficialSettings(flow_shift=preset.flow_shift, boundary=rules.boundary, solver=preset.solver)
    assert OFFICIAL[pipeline] == expected
