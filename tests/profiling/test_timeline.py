"""Rows add up, and nobody is charged for another's work: also where the device runs behind the host."""

from __future__ import annotations

import random
import time

import pytest
from fake_device import fake_device

from rushes.profiling.recorder import Recorder
from rushes.profiling.rows import RowKey, keyed
from rushes.profiling.timeline import Boundary, SpanTime, split
from rushes.trace import Span, event, listen, span, waited


def named(times: list[SpanTime]) -> dict[str, float]:
    found: dict[str, float] = {}
    for each in times:
        found[each.span.name] = found.get(each.span.name, 0.0) + each.own_s
    return found


def make_span(name: str, parent: Span | None = None) -> Span:
    return Span(name=name, attributes={}, parent=parent, thread=0, start_ns=0)


def test_own_times_add_up_to_the_root() -> None:
    """Random trees of spans with random times of host and device."""
    chance = random.Random(4)
    for _ in range(200):
        boundaries: list[Boundary] = []
        host, device, open_spans = 0.0, 0.0, [make_span("root")]
        boundaries.append(Boundary(span=open_spans[0], is_start=True, host_s=0.0, device_s=0.0))
        for number in range(chance.randrange(1, 30)):
            host, device = host + chance.random(), device + 1.5 * chance.random()
            is_start = len(open_spans) == 1 or chance.random() < 0.5
            at = make_span(str(number), open_spans[-1]) if is_start else open_spans.pop()
            boundaries.append(Boundary(span=at, is_start=is_start, host_s=host, device_s=device))
            if is_start:
                open_spans.append(at)
        for at in reversed(open_spans):
            boundaries.append(Boundary(span=at, is_start=False, host_s=host, device_s=device))
        times = split(boundaries)
        assert sum(each.own_s for each in times) == pytest.approx(max(host, device))
        assert times[0].end_s == pytest.approx(max(host, device))
        assert all(each.own_s >= 0 for each in times)


def test_a_stage_that_waits_is_not_charged_for_the_one_before() -> None:
    """Denoise asks for 0.3 s of work and returns; decode asks for 0.03 s and waits for both. The host's clock
    would charge them the other way round."""
    with fake_device() as device:
        recorder = Recorder(device=device)
        with listen(recorder), span("request"):
            with span("denoise"):
                device.launch("gemm", 0.3)
            with span("vae_decode"):
                time.sleep(0.01)
                device.launch("conv", 0.03)
                device.wait()
        times = recorder.times()
    seconds = named(times)
    (gemm,) = (event for event in device.events if event["name"] == "gemm")
    assert seconds["denoise"] == pytest.approx(gemm["dur"] / 1e6, abs=0.03)
    # On a busy machine a nap of 0.03 s may take longer.
    assert 0.03 <= seconds["vae_decode"] < 0.15
    assert sum(seconds.values()) == pytest.approx(times[0].end_s)


def test_a_host_that_is_slower_than_its_device_is_charged() -> None:
    with fake_device() as device:
        recorder = Recorder(device=device)
        with listen(recorder), span("request"), span("denoise"):
            time.sleep(0.1)
            device.launch("gemm", 0.005)
        assert 0.1 <= named(recorder.times())["denoise"] < 0.2


def test_what_began_before_it_was_told_of_takes_nothing_from_others() -> None:
    with fake_device() as device:
        recorder = Recorder(device=device)
        since = time.perf_counter_ns()
        time.sleep(0.01)
        with listen(recorder), span("request"):
            waited("queue", since)
        times = recorder.times()
    assert named(times)["queue"] < 0.005
    assert times[0].start_s == 0


def test_rows_of_steps_tell_branches_experts_and_latents() -> None:
    with fake_device() as device:
        recorder = Recorder(device=device)
        with listen(recorder), span("request"):
            for expert in ("high", "low"):
                with span("denoise", expert=expert):
                    event("step_cache", outcome="computed")
                    for branch in ("conditional", "unconditional"):
                        with span("forward", branch=branch):
                            pass
            with span("denoise", expert="low"):
                with span("forward", is_cache_write=True):
                    pass
                with span("forward", branch="conditional"):
                    pass
            for is_first in (True, False):
                with span("vae_decode"), span("vae_forward", is_first=is_first), span("anything"):
                    pass
        rows = [key for key, _ in keyed(recorder.times())]
    forwards = [key.part for key in rows if "noise" in key.part]
    assert forwards == [
        "conditional, high noise",
        "unconditional, high noise",
        "conditional, low noise",
        "unconditional, low noise",
        "cache write, low noise",
        "conditional, low noise",
    ]
    assert RowKey(stage="vae_decode", part="first latent") in rows
    assert RowKey(stage="vae_decode", part="other latents") in rows
    assert RowKey(stage="vae_decode", part="anything") in rows
