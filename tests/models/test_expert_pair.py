"""Who is on the device when, and that a refilled expert computes what a resident one does."""

from __future__ import annotations

from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rushes.errors import CheckpointError
from rushes.models.checkpoint import Expert
from rushes.models.checkpoint_writer import make_checkpoint
from rushes.models.expert_pair import (
    ArrivingExperts,
    ExpertPair,
    OneExpert,
    ResidentExperts,
    SwappedExperts,
    both_fit,
)
from rushes.models.loader import load_experts, open_checkpoint
from rushes.models.wan import Wan

HIGH, LOW = 900.0, 100.0
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("a14b", tmp_path_factory.mktemp("pair") / "tiny")


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def load(folder: Path, *, resident: bool | None, device: str = "cpu") -> ExpertPair:
    return open_checkpoint(folder).load_experts(device, torch.float32, resident=resident)


@torch.inference_mode()
def run(model: Wan, timestep: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    device = model.head.weight.device
    context = model.encode_text(torch.randn(1, 4, 32, generator=generator).to(device))
    latents = torch.randn(1, 16, 2, 4, 6, generator=generator).to(device)
    return model(latents, torch.tensor([timestep], device=device), context)


def test_on_the_cpu_both_stay(folder: Path) -> None:
    pair = load(folder, resident=None)
    assert isinstance(pair, ResidentExperts)
    assert pair.select(875.0) is pair.select(1000.0)
    assert pair.select(874.999) is pair.select(0.0)
    assert pair.select(875.0) is not pair.select(874.0)


def test_both_fit_beside_what_is_still_to_come() -> None:
    high, device = torch.nn.Linear(25, 4, bias=False), torch.device("cuda")  # 400 bytes
    for free_bytes, reserved, fits in ((600, 0, True), (599, 0, False), (650, 50, True), (649, 50, False)):
        assert both_fit(high, device, reserved=reserved, free_bytes=free_bytes) == fits


def test_a_model_of_one_expert_has_one(tmp_path: Path) -> None:
    pair = load(make_checkpoint("ti2v-5b", tmp_path / "tiny"), resident=None)
    assert isinstance(pair, OneExpert)
    assert pair.select(HIGH) is pair.select(LOW)


def test_a_swapped_pair_computes_what_a_resident_one_does(folder: Path, device: str) -> None:
    resident, swapped = (load(folder, resident=kept, device=device) for kept in (True, False))
    assert isinstance(swapped, SwappedExperts)
    for timestep in (HIGH, LOW, HIGH, LOW):
        assert torch.equal(run(swapped.select(timestep), timestep), run(resident.select(timestep), timestep))


def test_prefetching_refills_behind_the_last_forward(folder: Path, device: str) -> None:
    """Blocks change only after the forward has left them, so its result is still the high-noise expert's."""
    resident, swapped = (load(folder, resident=kept, device=device) for kept in (True, False))
    high, low = resident.select(HIGH), resident.select(LOW)
    model = swapped.select(HIGH)
    swapped.prefetch_low()
    assert torch.equal(run(model, HIGH), run(high, HIGH))
    if device == "cuda":
        torch.cuda.synchronize()  # the copies run on a stream that only `select` makes this one wait for
    for name, parameter in model.named_parameters():
        expected = low if name.startswith("blocks.") else high
        assert torch.equal(parameter, expected.get_parameter(name)), name
    assert swapped.select(LOW) is model
    assert torch.equal(run(model, LOW), run(low, LOW))


def test_an_abandoned_prefetch_is_undone_by_the_next_select(folder: Path, device: str) -> None:
    resident, swapped = (load(folder, resident=kept, device=device) for kept in (True, False))
    model = swapped.select(HIGH)
    swapped.prefetch_low()
    run(model, HIGH)
    assert torch.equal(run(swapped.select(HIGH), HIGH), run(resident.select(HIGH), HIGH))
    run(model, HIGH)
    assert torch.equal(run(model, HIGH), run(resident.select(HIGH), HIGH))


class InterruptedCopies(TorchDispatchMode):
    """Raises `KeyboardInterrupt` at one copy."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left = at

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= func is torch.ops.aten.copy_.default
        if self.left == 0:
            raise KeyboardInterrupt
        return func(*args, **(kwargs or {}))


def test_the_low_noise_expert_arrives_while_the_high_one_works(folder: Path) -> None:
    checkpoint, may_arrive, asked = open_checkpoint(folder), Event(), Event()

    def held_up(model: Wan, expert: Expert) -> Wan:
        if expert == "low":
            assert may_arrive.wait(60)
        return model

    pair = load_experts(checkpoint, "cpu", torch.float32, change=held_up, in_background=True)
    assert isinstance(pair, ArrivingExperts)
    resident = load(folder, resident=True)
    assert torch.equal(run(pair.select(HIGH), HIGH), run(resident.select(HIGH), HIGH))
    pair.prefetch_low()
    found: list[Tensor] = []

    def ask() -> None:
        asked.set()
        found.append(run(pair.select(LOW), LOW))

    asking = Thread(target=ask)
    asking.start()
    assert asked.wait(60)
    asking.join(0.2)
    assert asking.is_alive()
    assert not found
    may_arrive.set()
    asking.join(60)
    pair.wait()
    assert torch.equal(found[0], run(resident.select(LOW), LOW))


def test_a_low_noise_expert_that_cannot_be_read_fails_when_it_is_needed(tmp_path: Path) -> None:
    folder = make_checkpoint("a14b", tmp_path / "tiny")
    shard = next((folder / "transformer_2").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    pair = load_experts(open_checkpoint(folder), "cpu", torch.float32, in_background=True)
    assert run(pair.select(HIGH), HIGH).isfinite().all()
    for _ in range(2):
        with pytest.raises(CheckpointError, match="truncated"):
            pair.select(LOW)
    with pytest.raises(CheckpointError, match="truncated"):
        pair.wait()


@pytest.mark.parametrize("then", [LOW, HIGH])
def test_an_interrupted_refill_is_made_good_by_the_next_select(
    folder: Path, device: str, then: float
) -> None:
    resident, swapped = (load(folder, resident=kept, device=device) for kept in (True, False))
    with pytest.raises(KeyboardInterrupt), InterruptedCopies(at=16):
        swapped.select(LOW)
    assert torch.equal(run(swapped.select(then), then), run(resident.select(then), then))


def test_the_experts_of_a_swapped_pair_share_one_set_of_weights(folder: Path) -> None:
    swapped = load(folder, resident=False)
    before = {name: parameter.data_ptr() for name, parameter in swapped.select(HIGH).named_parameters()}
    after = {name: parameter.data_ptr() for name, parameter in swapped.select(LOW).named_parameters()}
    assert before == after
