"""A device with a queue of its own: a planted wait is found first, and its saving is what removing it gives.

The device is a thread that sleeps (`fake_device`); what really passed is what a GPU's recording would hold.
"""

from __future__ import annotations

import random
import secrets
import time
from dataclasses import dataclass

import pytest
from fake_device import FLOPS, FakeDevice, FakeNotes, fake_device

from rushes.profiling.calls import calls_of
from rushes.profiling.capture import Recorded
from rushes.profiling.kineto import read_capture
from rushes.profiling.recorder import Recorder
from rushes.profiling.replay import items_of, replay
from rushes.profiling.report import Run
from rushes.profiling.rows import RowKey, keyed
from rushes.profiling.session import Options, with_capture
from rushes.profiling.stage_table import stage_table, tally
from rushes.profiling.trials import Ceilings, Trial
from rushes.trace import Span, listen, span

STEPS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Loop:
    """Denoising steps: the host prepares each, then launches kernels; the device is the slower one.

    Attributes:
        wait_at: kernel of each step after which the host waits; None for never.
        busy_at: step in which the host does something else for `busy_s`; None for none.
    """

    kernels: int
    kernel_s: float
    prepare_s: float
    wait_at: int | None = None
    busy_at: int | None = None
    busy_s: float = 0.0

    def run(self, device: FakeDevice) -> None:
        for step in range(STEPS):
            with span("denoise", expert="high"):
                for kernel in range(self.kernels):
                    if kernel == 0:
                        time.sleep(self.prepare_s)
                    device.launch("gemm", self.kernel_s)
                    if kernel == self.wait_at:
                        device.wait()
                if step == self.busy_at:
                    time.sleep(self.busy_s)


class Once:
    """Everything was run."""

    def of(self, span: Span) -> float:
        return 1.0


def profiled(loop: Loop | Turns, *, lost: int = 0) -> tuple[Run, float]:
    """The loop's report, and the seconds that it took.

    Args:
        lost: every so many kernels one does not tell who launched it; 0 for none.
    """
    with fake_device() as device:
        recorder, notes = Recorder(device=device), FakeNotes(device)
        begin = time.perf_counter()
        with listen(recorder), listen(notes), span("request"):
            loop.run(device)
            device.synchronize()
        seconds = time.perf_counter() - begin
        times = recorder.times()
        trace = device.trace()
    kernels = [event for event in trace["traceEvents"] if event["cat"] == "kernel"]
    for event in kernels[::lost] if lost else ():
        event["args"]["correlation"] = -1
    rows = tally(times, Once())
    table = stage_table([rows])
    run = Run(
        label="fake",
        model="fake",
        request={},
        is_short=False,
        total_s=table.total_s,
        totals=table.totals,
        rows=table.rows,
        peaks=(),
    )
    by_span = {id(each.span): key for key, each in keyed(times)}
    places = {number: (by_span[id(each)], 1.0) for number, each in notes.spans.items()}
    recorded = Recorded(trace=trace, capture=read_capture(trace), spans=notes.spans, samples=[])
    calls = calls_of(recorded.capture, places)
    # Its products run as fast as it can.
    rates = (("gemm", "float32", FLOPS / loop.kernel_s), ("copy", "", 1e12))
    ceilings = Ceilings(
        trials=[
            Trial(resource=resource, dtype=dtype, signature="", variant="", seconds=1.0, rate=rate)
            for resource, dtype, rate in rates
        ]
    )
    run = with_capture(run, calls, places, rows, recorded, ceilings, Options(), is_async=True)
    return run, seconds


@pytest.fixture
def chance() -> random.Random:
    """A seed that pytest prints when a test fails."""
    seed = secrets.randbelow(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


def drawn(chance: random.Random) -> Loop:
    kernels = chance.randrange(3, 6)
    return Loop(kernels=kernels, kernel_s=chance.uniform(0.015, 0.02), prepare_s=chance.uniform(0.03, 0.04))


def fastest(loop: Loop) -> tuple[Run, float]:
    """Of three runs, since the machine may be busy."""
    return min((profiled(loop) for _ in range(3)), key=lambda found: found[1])


def test_a_planted_wait(chance: random.Random) -> None:
    clean_loop = drawn(chance)
    # Behind the last kernels of a step, where the queue is short, a wait costs the preparation of the next.
    wait_at = clean_loop.kernels - 1
    waiting = Loop(
        kernels=clean_loop.kernels,
        kernel_s=clean_loop.kernel_s,
        prepare_s=clean_loop.prepare_s,
        wait_at=wait_at,
    )
    clean, clean_s = fastest(clean_loop)
    planted, planted_s = fastest(waiting)
    first = planted.findings[0]
    assert (first.category, first.stage) == ("sync", "denoise")
    assert "item" in first.subject
    assert first.saving_s == pytest.approx(planted_s - clean_s, rel=0.25)
    assert not [finding for finding in clean.findings if finding.category == "sync"]
    assert sum(row.seconds for row in planted.rows) == pytest.approx(planted.total_s)
    # The device's seconds are those of the kernels, whoever waits for them.
    busy = STEPS * clean_loop.kernels * clean_loop.kernel_s
    assert planted.device_s == pytest.approx(busy, rel=0.15)
    assert clean.device_s == pytest.approx(busy, rel=0.15)


def test_a_host_that_is_busy_elsewhere(chance: random.Random) -> None:
    loop = drawn(chance)
    busy_s = chance.uniform(0.3, 0.5)
    busy = Loop(
        kernels=loop.kernels,
        kernel_s=loop.kernel_s,
        prepare_s=loop.prepare_s,
        busy_at=chance.randrange(STEPS - 1),
        busy_s=busy_s,
    )
    clean, clean_s = fastest(loop)
    planted, planted_s = fastest(busy)
    first = planted.findings[0]
    assert (first.category, first.stage) == ("host", "denoise")
    assert first.saving_s == pytest.approx(planted_s - clean_s, rel=0.25)
    others = [finding.saving_s for finding in clean.findings if finding.category == "host"]
    assert max([0.0, *others]) < 0.25 * busy_s


def test_the_replay_gives_the_recorded_time_back() -> None:
    loop = Loop(kernels=4, kernel_s=0.01, prepare_s=0.02, wait_at=2)
    with fake_device() as device:
        notes = FakeNotes(device)
        with listen(notes):
            begin = time.perf_counter()
            loop.run(device)
            device.synchronize()
            seconds = time.perf_counter() - begin
        items = items_of(read_capture(device.trace()))
    assert sum(item.is_wait for item in items) == STEPS
    # It begins with the first launch.
    assert replay(items) / 1e6 == pytest.approx(seconds - loop.prepare_s, rel=0.1)
    everything = range(len(items))
    gaps_us = {index: item.gap_us for index, item in enumerate(items)}
    assert replay(items, freed_us=gaps_us, free_calls=everything) <= replay(items)


class Turns:
    """Two stages that take turns; the second one's host is busy elsewhere for long."""

    kernel_s = 0.01
    busy_s = 0.2

    def run(self, device: FakeDevice) -> None:
        for frame in range(3):
            with span("vae_decode", latent=frame):
                device.launch("conv", self.kernel_s)
                device.wait()
            with span("video_encode", latent=frame):
                device.launch("convert", self.kernel_s)
                device.wait()
                time.sleep(self.busy_s)


def test_a_stage_is_not_charged_what_another_takes_between_its_turns() -> None:
    loop = Turns()
    run, _ = profiled(loop)
    decode_s = sum(row.seconds for row in run.rows if row.stage == "vae_decode")
    assert decode_s < loop.busy_s
    assert all(finding.saving_s <= decode_s for finding in run.findings if finding.stage == "vae_decode")
    assert sum(finding.saving_s for finding in run.findings) <= run.total_s
    first = run.findings[0]
    # Behind the last nap nothing follows that it could hold up.
    assert (first.category, first.stage) == ("host", "video_encode")
    assert first.saving_s == pytest.approx(2 * loop.busy_s, rel=0.15)


def test_kernels_that_nobody_launched_are_not_explained() -> None:
    # On a busy machine a nap may take some milliseconds longer.
    loop = Loop(kernels=4, kernel_s=0.04, prepare_s=0.005)
    clean, _ = profiled(loop)
    half, _ = profiled(loop, lost=2)
    assert clean.explained == pytest.approx(1.0)
    assert half.explained == pytest.approx(0.5, abs=0.05)


def test_kernels_find_their_operator_and_its_row() -> None:
    """Also those that no operator launched, as a replayed CUDA graph does."""
    with fake_device() as device:
        notes = FakeNotes(device)
        with listen(notes), span("denoise", expert="high"), span("forward"):
            device.launch("sm90_gemm", 0.002, op="aten::addmm")
            device.launch("flash_fwd_kernel", 0.002)
            device.synchronize()
        trace = device.trace()
    graph = [event for event in trace["traceEvents"] if event["name"] != "aten::mm"]
    forward = next(number for number, each in notes.spans.items() if each.name == "forward")
    key = RowKey(stage="denoise", part="conditional")
    calls = calls_of(read_capture({"traceEvents": graph}), {forward: (key, 2.0)})
    assert [(call.name, call.kind) for call in calls] == [
        ("aten::addmm", "conditional"),  # outside of every module
        ("flash_fwd_kernel", "self-attention"),
    ]
    assert all(call.device_us > 1000 for call in calls)
    assert calls[0].device_s == pytest.approx(2e-6 * calls[0].device_us)
