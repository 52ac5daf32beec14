"""What is planted is found first: a slow stage, a slow operator, at a random place and of a random size, and
its saving is what removing it gives. A run without a plant names none.

Plants sleep, so that their size holds on a busy machine; they are several times as long as the tiny clip
around them.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rushes.pipelines.model import Model
from rushes.profiling.clip import Ask
from rushes.profiling.instrument import replaced
from rushes.profiling.report import Run
from rushes.profiling.session import Options
from rushes.profiling.subject import profile_model
from rushes.stages.base import Job
from tiny_parts import TinyParts, tiny_model

ASK = Ask(prompt="a dog", fields={"num_inference_steps": 4})
QUICK = Options(repeats=1, ceiling_s=0.001)
TOLERANCE = 0.25
UNITS = {"text_encode": 1, "denoise": 4, "vae_decode": 3}


@pytest.fixture
def chance() -> random.Random:
    """A seed that pytest prints when a test fails."""
    seed = secrets.randbelow(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


@pytest.fixture(scope="module")
def clean() -> Run:
    """A run without a plant; of its repeats the fastest counts, since the machine may be busy."""
    return profile_model(tiny_model(), ASK, replace(QUICK, repeats=6)).run


@torch.library.custom_op("rushes_tests::slow", mutates_args=())
def slow(x: Tensor, seconds: float) -> Tensor:
    """An operator that takes its time."""
    time.sleep(seconds)
    return x.clone()


@slow.register_fake
def _(x: Tensor, seconds: float) -> Tensor:
    return torch.empty_like(x)


@contextmanager
def slow_stage(net: Model, name: str, seconds: float) -> Iterator[None]:
    """Every unit of a stage begins with a nap."""
    job = net.job(ASK.prompt)
    stage = next(stage for stage in net.pipeline.stages(job) if stage.name == name)
    run = stage.run

    def napping(jobs: list[Job]) -> None:
        time.sleep(seconds)
        run(jobs)

    with replaced(stage, "run", napping):
        yield


def nap_line() -> str:
    """Where `slow_stage` sleeps, as findings write it."""
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return f"test_plants.py:{lines.index('        run(jobs)')}"


@contextmanager
def slow_operator(net: Model, block: int, part: str, seconds: float) -> Iterator[None]:
    """One part of one block of the transformer calls a slow operator."""
    network = net.parts.experts().select(1000.0)
    module = network.blocks[block].get_submodule(part)

    def hook(module: torch.nn.Module, args: tuple[object, ...]) -> tuple[object, ...]:
        return (slow(args[0], seconds), *args[1:])

    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def check(planted: Run, clean: Run, subject: str) -> None:
    """The first finding is about `subject`, and its saving is what removing it gives."""
    removed = planted.total_s - min(clean.totals)
    first = planted.findings[0]
    assert subject in first.subject
    assert first.saving_s == pytest.approx(removed, rel=TOLERANCE)
    assert planted.total_s == pytest.approx(sum(row.seconds for row in planted.rows))


def test_a_slow_stage(chance: random.Random, clean: Run) -> None:
    stage, units = chance.choice(list(UNITS.items()))
    seconds = chance.uniform(1.0, 2.0) / units
    net = tiny_model()
    with slow_stage(net, stage, seconds):
        planted = profile_model(net, ASK, QUICK).run
    check(planted, clean, f"{stage}: ")
    assert planted.findings[0].category == "host"
    assert nap_line() in planted.findings[0].text
    assert not any(nap_line() in finding.text for finding in clean.findings)
    assert max([0.0, *(f.saving_s for f in clean.findings if f.stage == stage)]) < 0.25 * seconds * units


def test_a_slow_operator(chance: random.Random, clean: Run) -> None:
    block, part = chance.randrange(2), chance.choice(["self_attn", "cross_attn.q", "ffn", "ffn.down"])
    seconds = chance.uniform(0.12, 0.25)  # in 8 forwards
    net = tiny_model(TinyParts())
    with slow_operator(net, block, part, seconds):
        planted = profile_model(net, ASK, QUICK).run
    check(planted, clean, "denoise: slow in blocks.*")
    assert planted.findings[0].category == "operator"
    assert not any("slow" in finding.subject for finding in clean.findings)
    assert planted.raw[0].name == "rushes_tests::slow"
    assert planted.raw[0].calls == 8
