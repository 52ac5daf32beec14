"""The helpers that a GPU benchmark holds its warm steps with."""

from collections.abc import Callable

import pytest
import torch

from rushes.profiling.steady import no_new_memory

CUDA = torch.device("cuda")


def counts(*numbers: tuple[int, int]) -> Callable[[], dict[str, int]]:
    left = iter(numbers)
    return lambda: dict(zip(("num_device_alloc", "num_alloc_retries"), next(left), strict=True))


def test_a_steady_step_passes() -> None:
    with no_new_memory(CUDA, counts((5, 1), (5, 1))):
        pass


@pytest.mark.parametrize(("after", "words"), [((6, 1), r"alloc \+1"), ((5, 2), r"retries \+1")])
def test_one_that_takes_memory_does_not(after: tuple[int, int], words: str) -> None:
    with pytest.raises(AssertionError, match=words), no_new_memory(CUDA, counts((5, 1), after)):
        pass


def test_an_error_inside_is_not_hidden() -> None:
    with pytest.raises(ValueError, match="mine"), no_new_memory(CUDA, counts((5, 1), (6, 1))):
        raise ValueError("mine")


def test_a_cpu_has_nothing_to_count() -> None:
    with pytest.raises(AssertionError, match="cpu has no allocator"), no_new_memory(torch.device("cpu")):
        pass
