"""A streamed text encoder says what a resident one says, and holds one block on its device at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rushes.models.checkpoint import Checkpoint, open_checkpoint
from rushes.models.checkpoint_writer import make_checkpoint
from rushes.models.text import UMT5TextEncoder

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
PROMPTS = ("a dog is running in the park", "", "a red chair " * 400)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(make_checkpoint("a14b", tmp_path_factory.mktemp("streamed") / "tiny"))


def load(checkpoint: Checkpoint, device: str, *, streamed: bool) -> UMT5TextEncoder:
    encoder = checkpoint.load_text_encoder(device, torch.float32, streamed=streamed)
    assert isinstance(encoder, UMT5TextEncoder)
    assert encoder.is_streamed == streamed
    return encoder


def blocks(encoder: UMT5TextEncoder) -> list[nn.Module]:
    return list(encoder.model.get_submodule("encoder.block").children())


@pytest.mark.parametrize("device", DEVICES)
def test_states_are_those_of_a_resident_encoder(checkpoint: Checkpoint, device: str) -> None:
    resident, streamed = (load(checkpoint, device, streamed=kind) for kind in (False, True))
    expected = [resident.encode(prompt).states for prompt in PROMPTS]
    moved = load(checkpoint, device, streamed=False)
    moved.stream(torch.device(device))
    for encoder in (streamed, moved):
        for prompt, states in zip(PROMPTS, expected, strict=True):
            found = encoder.encode(prompt).states
            assert found.device == states.device
            assert torch.equal(found, states)


def test_only_the_block_that_runs_has_left_the_host(checkpoint: Checkpoint) -> None:
    encoder = load(checkpoint, "cpu", streamed=True)
    host = [[p.data_ptr() for p in block.parameters()] for block in blocks(encoder)]
    away: list[list[int]] = []

    def look(*_: object) -> None:
        now = [[p.data_ptr() for p in block.parameters()] for block in blocks(encoder)]
        away.append([i for i, (a, b) in enumerate(zip(now, host, strict=True)) if a != b])

    for block in blocks(encoder):
        block.layer[1].register_forward_pre_hook(look)  # type: ignore[index,union-attr]
    encoder.encode("a dog")
    assert away == [[i] for i in range(len(host))]
    assert [[p.data_ptr() for p in block.parameters()] for block in blocks(encoder)] == host


def test_a_call_that_fails_leaves_no_block_behind(checkpoint: Checkpoint) -> None:
    encoder = load(checkpoint, "cpu", streamed=True)
    expected = encoder.encode("a dog").states
    host = [p.data_ptr() for block in blocks(encoder) for p in block.parameters()]

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    hook = blocks(encoder)[-1].layer[1].register_forward_pre_hook(fail)  # type: ignore[index,union-attr]
    with pytest.raises(torch.OutOfMemoryError):
        encoder.encode("a dog")
    hook.remove()
    assert [p.data_ptr() for block in blocks(encoder) for p in block.parameters()] == host
    assert torch.equal(encoder.encode("a dog").states, expected)
