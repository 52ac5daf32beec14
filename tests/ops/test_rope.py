from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from rushes.ops.reference import rope_loop
from rushes.ops.rope import apply_rope, axis_dims, rope_tables


@pytest.mark.parametrize("head_dim", [12, 16, 64, 128])
@pytest.mark.parametrize("frame_offset", [0, 900])
def test_equals_the_loop(head_dim: int, frame_offset: int) -> None:
    grid = (2, 3, 2)
    x = torch.randn(2, 12, 2, head_dim)
    got = apply_rope(x, rope_tables(grid, head_dim, frame_offset=frame_offset))
    want = rope_loop(x.double(), grid, frame_offset=frame_offset)
    torch.testing.assert_close(got.double(), want, atol=1e-6, rtol=1e-6)


def test_public_wan_splits_its_head_44_42_42() -> None:
    assert axis_dims(128) == (44, 42, 42)


def test_offset_frames_are_the_later_frames_of_the_whole() -> None:
    whole = rope_tables((5, 2, 3), 16)
    late = rope_tables((2, 2, 3), 16, frame_offset=3)
    assert torch.equal(whole.cos[18:], late.cos)
    assert torch.equal(whole.sin[18:], late.sin)


def test_scores_depend_on_distance_only() -> None:
    x, y = torch.randn(1, 1, 1, 64), torch.randn(1, 1, 1, 64)
    scores = []
    for first in (0, 500):
        turned = [
            apply_rope(t, rope_tables((1, 1, 1), 64, frame_offset=first + d)) for t, d in ((x, 0), (y, 7))
        ]
        scores.append((turned[0] * turned[1]).sum())
    torch.testing.assert_close(scores[0], scores[1], atol=1e-4, rtol=1e-4)


class StandInForMPS(TorchFunctionMode):
    """Puts tensors meant for MPS on the CPU and refuses those that MPS refuses, on any machine."""

    def __init__(self) -> None:
        super().__init__()
        self.placed: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is torch.device or "mps" not in (*args, *given.values()):
            return func(*args, **given)
        on_cpu = ["cpu" if value == "mps" else value for value in args]
        result = func(*on_cpu, **{name: "cpu" if value == "mps" else value for name, value in given.items()})
        if result.dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        self.placed.append(result)
        return result


def test_tables_for_mps_are_float64_on_the_cpu_only() -> None:
    with StandInForMPS() as mps:
        rope = rope_tables((2, 3, 4), 16, device="mps")
    assert mps.placed[0] is rope.cos
    assert mps.placed[1] is rope.sin
    assert torch.equal(rope.cos, rope_tables((2, 3, 4), 16).cos)
