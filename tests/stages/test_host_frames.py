"""Page-locked memory is lent to readers up to a bound, and comes back when they let go."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from torch import Tensor

from rushes.stages.host_frames import LockedMemory


def ordinary(shape: torch.Size) -> Tensor:
    return torch.empty(shape, dtype=torch.uint8)


def frames(seed: int) -> Tensor:
    return torch.randint(
        0, 256, (2, 3, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def test_memory_counts_as_held_while_any_view_of_it_lives() -> None:
    memory = LockedMemory(1000, ordinary)
    pixels = frames(1)
    array = memory.send(pixels).wait()
    assert memory.held_bytes == 128
    view = array[0][1:]
    del array
    gc.collect()
    assert memory.held_bytes == 128
    np.testing.assert_array_equal(view, pixels[0, 1:].numpy())
    del view
    gc.collect()
    assert memory.held_bytes == 0


def test_beyond_the_bound_frames_come_in_ordinary_memory() -> None:
    made: list[torch.Size] = []

    def make(shape: torch.Size) -> Tensor:
        made.append(shape)
        return ordinary(shape)

    memory = LockedMemory(256, make)
    held = [memory.send(frames(seed)).wait() for seed in range(3)]
    assert len(made) == 2
    assert memory.held_bytes == 256
    for seed, each in enumerate(held):
        np.testing.assert_array_equal(each, frames(seed).numpy())
    held.pop(0)
    memory.send(frames(4))
    assert len(made) == 3


def test_where_nothing_can_be_locked_frames_come_all_the_same() -> None:
    def refuse(shape: torch.Size) -> Tensor:
        raise RuntimeError("cannot lock memory")

    memory = LockedMemory(1000, refuse)
    np.testing.assert_array_equal(memory.send(frames(1)).wait(), frames(1).numpy())
    assert memory.held_bytes == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_memory_is_locked_and_holds_the_frames() -> None:
    pixels = frames(1)
    host = LockedMemory().send(pixels.cuda()).wait()
    assert torch.from_numpy(host).is_pinned()
    np.testing.assert_array_equal(host, pixels.numpy())
