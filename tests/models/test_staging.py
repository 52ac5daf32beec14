"""Weights through buffers, by several readers, are the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from rushes.errors import CheckpointError
from rushes.models import wan
from rushes.models.checkpoint import open_checkpoint
from rushes.models.checkpoint_writer import make_checkpoint
from rushes.models.headers import read_json
from rushes.models.staging import Stager
from rushes.models.weights import load_weights

CPU = torch.device("cpu")


@pytest.mark.parametrize("chunk_bytes", [8, 64, 4096])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16])
def test_copies_in_pieces(chunk_bytes: int, stored: torch.dtype, wanted: torch.dtype) -> None:
    stager, targets = Stager(CPU, chunk_bytes), []
    sources = [(100 * torch.randn(shape)).to(stored) for shape in ((7, 3), (50,), (), (2, 0))]
    for source in sources:
        targets.append(torch.empty(source.shape, dtype=wanted))
        stager.copy(targets[-1], source)
    stager.finish()
    for source, target in zip(sources, targets, strict=True):
        assert torch.equal(target, source.to(wanted))


def load(folder: Path, dtype: torch.dtype, num_readers: int, **more: object) -> nn.Module:
    part = open_checkpoint(folder).part("transformer")
    config = wan.config_from_dict(read_json(part.path / "config.json"), "diffusers")
    with torch.device("meta"):
        model = wan.Wan(config)
    files, table = part.weights.present, wan.sources(config, "diffusers")
    return load_weights(model, files, table, wan.keep_float32, dtype, CPU, num_readers=num_readers, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("a14b", tmp_path_factory.mktemp("staging") / "tiny")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_readers_fill_what_one_thread_reads(folder: Path, dtype: torch.dtype) -> None:
    plain, staged = load(folder, dtype, 0), load(folder, dtype, 3)
    for (name, expected), (other, got) in zip(
        plain.named_parameters(), staged.named_parameters(), strict=True
    ):
        assert name == other
        assert expected.dtype == got.dtype
        assert torch.equal(expected, got), name


def test_tells_once_when_memory_is_taken(folder: Path) -> None:
    told: list[None] = []
    load(folder, torch.float32, 2, on_allocated=lambda: told.append(None))
    assert len(told) == 1


def test_a_damaged_file_is_told_by_readers_too(tmp_path: Path) -> None:
    folder = make_checkpoint("a14b", tmp_path / "tiny")
    shard = next((folder / "transformer").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        load(folder, torch.float32, 2)
