"""Parts are loaded when asked for, and leave room for those that are not yet there."""

from pathlib import Path

import torch

from rushes.models.checkpoint import open_checkpoint
from rushes.models.checkpoint_writer import make_checkpoint
from rushes.pipelines.parts import CheckpointParts


def test_room_is_left_for_the_parts_that_are_not_loaded_yet(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make_checkpoint("a14b", tmp_path / "a14b"))
    parts = CheckpointParts(checkpoint, torch.device("cpu"), torch.bfloat16)
    vae, text = (2 * checkpoint.parts[name].num_parameters for name in ("vae", "text_encoder"))
    assert parts.bytes_to_come() == vae + text
    parts.text_encoder()
    assert parts.bytes_to_come() == vae
    parts.experts()
    assert parts.bytes_to_come() == vae
    parts.vae()
    assert parts.bytes_to_come() == 0


def test_a_streamed_text_encoder_needs_no_room_and_says_the_same(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make_checkpoint("ti2v-5b", tmp_path / "5b"))
    device = torch.device("cpu")
    parts = CheckpointParts(checkpoint, device, torch.bfloat16, streams_text=True)
    assert parts.bytes_to_come() == 2 * checkpoint.parts["vae"].num_parameters
    expected = CheckpointParts(checkpoint, device, torch.bfloat16).text_encoder().encode("a dog")
    assert torch.equal(parts.text_encoder().encode("a dog").states, expected.states)
