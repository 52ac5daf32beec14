"""Streams of slots: what a unit sees of work that was queued before it and elsewhere."""

from contextlib import suppress

import pytest
import torch

from rushes.engine.slots import Slot, slots_of

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_one_slot_does_everything_on_a_cpu_and_stages_have_their_own_on_a_gpu() -> None:
    (slot,) = slots_of(torch.device("cpu"))
    assert slot.stages == ("text_encode", "denoise", "vae_decode")
    with slot.unit():
        pass
    gpu = slots_of(torch.device("cuda"))
    assert sorted(stage for slot in gpu for stage in slot.stages) == sorted(slot.stages)
    assert len({slot.name for slot in gpu}) == 3


def test_decoding_and_prompts_are_served_before_steps() -> None:
    denoise, decode, text = slots_of(torch.device("cuda"))
    assert decode.priority == text.priority < denoise.priority


@needs_gpu
def test_slots_of_a_name_share_their_streams_whatever_engine_has_them() -> None:
    seen = []
    for _ in range(2):
        with slots_of(torch.device("cuda"))[0].unit():
            seen.append(torch.cuda.current_stream())
    assert seen[0] == seen[1]


@needs_gpu
def test_a_unit_reads_what_was_queued_outside_of_units_and_others_read_what_it_made() -> None:
    device = torch.device("cuda")
    made, read = (Slot(stages=(name,), device=device) for name in ("denoise", "vae_decode"))
    weights = torch.ones(4096, 4096, device=device)
    for _ in range(20):
        weights = weights @ torch.full_like(weights, 1 / 4096)  # still running when the unit begins
    with made.unit():
        doubled = 2 * weights
        assert torch.cuda.current_stream() != torch.cuda.default_stream()
    with read.unit():
        total = doubled.sum()
    assert total.item() == pytest.approx(2 * 4096**2, rel=1e-3)


@needs_gpu
def test_a_unit_that_runs_ahead_ends_before_its_stream_does_unless_it_fails() -> None:
    slot = Slot(stages=("vae_decode",), device=torch.device("cuda"))
    done = torch.cuda.Event()
    ones = torch.full((8192, 8192), 1 / 8192, device="cuda")

    def queue_much() -> None:
        product = ones
        for _ in range(50):
            product = product @ ones
        done.record()

    with slot.unit(runs_ahead=True):
        queue_much()
    assert not done.query()
    with suppress(ValueError), slot.unit(runs_ahead=True):
        queue_much()
        raise ValueError
    assert done.query()
