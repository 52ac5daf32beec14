"""Weights load strictly: every tensor there, none left over, shapes right, damage named."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rushes.errors import CheckpointError
from rushes.models import wan
from rushes.models.at_rest import quantize_int4
from rushes.models.base import Source
from rushes.models.checkpoint_writer import make_checkpoint
from rushes.models.loader import load_weights, open_checkpoint

CPU = torch.device("cpu")


class Small(nn.Module):
    """One joined, one reshaped and one plain parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 6, bias=False)
        self.patch = nn.Linear(8, 3, bias=False)
        self.norm = nn.LayerNorm(4)


SOURCES = {
    "qkv.weight": Source(names=("q.weight", "k.weight", "v.weight")),
    "patch.weight": Source(names=("conv.weight",), reshape=(3, 8)),
    "norm.weight": Source(names=("norm.weight",)),
    "norm.bias": Source(names=("norm.bias",)),
}


def tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"q.weight": (2, 4), "k.weight": (2, 4), "v.weight": (2, 4), "conv.weight": (3, 2, 1, 2, 2)}
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return drawn | {"norm.weight": torch.full((4,), 1.001), "norm.bias": torch.zeros(4)}


def load(file: Path, dtype: torch.dtype = torch.float32) -> Small:
    with torch.device("meta"):
        model = Small()
    return load_weights(model, [file], SOURCES, lambda name: name.startswith("norm"), dtype, "cpu")


def write(file: Path, stored: dict[str, Tensor]) -> Path:
    if file.suffix == ".pth":
        torch.save(stored, file)
    else:
        save_file(stored, file)
    return file


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_tensors_are_joined_reshaped_and_plain(tmp_path: Path, name: str) -> None:
    stored = tensors()
    model = load(write(tmp_path / name, stored))
    assert torch.equal(model.qkv.weight, torch.cat([stored[f"{x}.weight"] for x in "qkv"]))
    assert torch.equal(model.patch.weight, stored["conv.weight"].reshape(3, 8))
    assert torch.equal(model.norm.weight, stored["norm.weight"])
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training


def test_a_buffer_that_no_file_fills_is_not_left_on_meta(tmp_path: Path) -> None:
    file = write(tmp_path / "w.safetensors", tensors())
    with torch.device("meta"):
        model = Small()
        model.norm.register_buffer("table", torch.zeros(2), persistent=False)
    with pytest.raises(AssertionError, match=r"\['norm\.table'\], which stay on meta"):
        load_weights(model, [file], SOURCES, lambda _: False, torch.float32, "cpu")


def test_dtype_is_chosen_per_tensor(tmp_path: Path) -> None:
    stored = tensors()
    model = load(write(tmp_path / "w.safetensors", stored), torch.bfloat16)
    assert model.qkv.weight.dtype == model.patch.weight.dtype == torch.bfloat16
    assert model.norm.weight.dtype == torch.float32
    assert torch.equal(model.norm.weight, stored["norm.weight"])


def test_int8_at_rest_means_value_times_scale(tmp_path: Path) -> None:
    stored = tensors()
    stored["k.weight"] = torch.tensor([[1, -2, 3, 4], [5, 6, -7, 127]], dtype=torch.int8)
    stored["k.weight.scale"] = torch.tensor([[0.5], [0.25]])
    model = load(write(tmp_path / "w.safetensors", stored))
    expected = torch.tensor([[0.5, -1.0, 1.5, 2.0], [1.25, 1.5, -1.75, 31.75]])
    assert torch.equal(model.qkv.weight[2:4], expected)


def test_int4_at_rest_means_value_times_scale(tmp_path: Path) -> None:
    stored = tensors()
    weight = torch.randn(2, 64) * torch.tensor([[1.0], [30.0]])
    packed = quantize_int4(weight)
    stored |= {"v.weight": packed[""], "v.weight.scale": packed[".scale"]}
    file = write(tmp_path / "w.safetensors", {name: stored[name] for name in ("v.weight", "v.weight.scale")})
    with torch.device("meta"):
        model = torch.nn.Linear(64, 2, bias=False)
    sources = {"weight": Source(names=("v.weight",))}
    load_weights(model, [file], sources, lambda name: False, torch.float32, "cpu")
    step = weight.unflatten(1, (-1, 32)).abs().amax(-1).repeat_interleave(32, dim=1) / 7
    # rounded to half a step; a clipped group is worth more than one step of its largest number
    assert ((model.weight - weight).abs() <= 1.5 * step).all()
    assert (model.weight - weight).norm() < 0.12 * weight.norm()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k.weight": None}, "tensor 'k.weight' is missing"),
        (
            {"k.weight": None, "kk.weight": torch.zeros(2, 4)},
            "'k.weight' is missing.*did you mean 'kk.weight'",
        ),
        ({"extra": torch.zeros(1)}, "unexpected tensor 'extra'"),
        ({"norm.weigth": torch.zeros(4)}, "unexpected.*'norm.weigth' .did you mean 'norm.weight'"),
        ({"norm.bias": torch.zeros(5)}, r"norm.bias \[5\]; config.json asks for \[4\]"),
        ({"v.weight": torch.zeros(3, 4)}, r"v.weight \[3, 4\]; config.json asks for \[6, 4\] when joined"),
        ({"v.weight": torch.zeros(2, 5)}, r"v.weight \[2, 5\]"),
        ({"conv.weight": torch.zeros(3, 9)}, r"conv.weight \[3, 9\]; config.json asks for \[3, 8\]"),
        ({"q.weight": torch.zeros(2, 4, dtype=torch.int8)}, "int8 tensor 'q.weight' lacks its scale"),
        ({"q.weight": torch.zeros(2, 4, dtype=torch.int64)}, "'q.weight' is stored as .*64"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, name: str, change: dict[str, Tensor | None], message: str
) -> None:
    stored = {key: tensor for key, tensor in (tensors() | change).items() if tensor is not None}
    file = write(tmp_path / name, stored)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(file)
    assert file.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    files = [write(tmp_path / name, tensors()) for name in ("a.safetensors", "b.safetensors")]
    with torch.device("meta"):
        model = Small()
    with pytest.raises(CheckpointError, match=r"in both a\.safetensors and b\.safetensors"):
        load_weights(model, files, SOURCES, lambda _: False, torch.float32, "cpu")


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Payload:
        def __reduce__(self) -> object:
            return (os.mkdir, (str(marker),))

    file = tmp_path / "w.pth"
    torch.save({"q.weight": Payload()}, file)
    with pytest.raises(CheckpointError, match=r"w\.pth: damaged, or holds more than tensors"):
        load(file)
    file.write_bytes(pickle.dumps(Payload(), protocol=2))
    with pytest.raises(CheckpointError, match="holds more than tensors"):
        load(file)
    assert not marker.exists()


def test_a_pickle_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    torch.save([torch.zeros(1)], file)
    with pytest.raises(CheckpointError, match="a mapping of names to tensors"):
        load(file)
    torch.save(tensors(), file, _use_new_zipfile_serialization=False)
    assert load(file).norm.weight.shape == (4,)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("a14b", tmp_path_factory.mktemp("made") / "tiny")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "copy")


def shard(folder: Path, number: int) -> Path:
    return folder / "transformer" / f"diffusion_pytorch_model-0000{number}-of-00002.safetensors"


def test_float32_islands_stay_in_a_bfloat16_model(folder: Path) -> None:
    checkpoint = open_checkpoint(folder)
    full = checkpoint.load_transformer("high", "cpu", torch.float32)
    half = checkpoint.load_transformer("high", "cpu", torch.bfloat16)
    for name, parameter in half.named_parameters():
        expected = torch.float32 if wan.keep_float32(name) else torch.bfloat16
        assert parameter.dtype == expected, name
        assert torch.equal(parameter, full.get_parameter(name).to(expected)), name


def test_a_truncated_shard_is_named(folder: Path) -> None:
    file = shard(folder, 2)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.safetensors: truncated, \d+ bytes of \d+"):
        open_checkpoint(folder).load_transformer("high", "cpu", torch.float32)


def test_a_missing_shard_is_named_and_other_parts_still_load(folder: Path) -> None:
    shard(folder, 1).unlink()
    checkpoint = open_checkpoint(folder)
    with pytest.raises(CheckpointError, match=r"00001-of-00002\.safetensors is missing"):
        checkpoint.load_transformer("high", "cpu", torch.float32)
    checkpoint.load_transformer("low", "cpu", torch.float32)
    checkpoint.load_vae("cpu", torch.float32)


def test_a_config_of_another_size_is_a_wrong_shape(folder: Path) -> None:
    file = folder / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"ffn_dim": 100}))
    with pytest.raises(CheckpointError, match=r"ffn\.net\.0\.proj.* asks for \[100, 48\]"):
        open_checkpoint(folder).load_transformer("high", "cpu", torch.float32)


def test_a_file_that_is_no_vae_is_refused(tmp_path: Path) -> None:
    folder = make_checkpoint("a14b", tmp_path / "wan", "wan")
    torch.save({"weight": torch.zeros(2)}, folder / "Wan2.1_VAE.pth")
    with pytest.raises(CheckpointError, match=r"Wan2\.1_VAE\.pth: not a Wan VAE"):
        open_checkpoint(folder).load_vae("cpu", torch.float32)


def test_a_renamed_tensor_is_named_with_the_nearest(folder: Path) -> None:
    stored = load_file(shard(folder, 2))
    stored["proj_outt.weight"] = stored.pop("proj_out.weight")
    save_file(stored, shard(folder, 2))
    with pytest.raises(
        CheckpointError, match=r"'proj_out\.weight' is missing .did you mean 'proj_outt\.weight'"
    ):
        open_checkpoint(folder).load_transformer("high", "cpu", torch.float32)
