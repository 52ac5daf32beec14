"""Spans reach those who listen, with parents and ends; while nobody listens they cost next to nothing."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextvars import copy_context
from time import perf_counter_ns

import pytest

from rushes.trace import SpanList, current, event, is_on, listen, span, traced, under, waited


def test_parents_paths_and_notes() -> None:
    heard = SpanList()
    with listen(heard), span("request", job="a") as request:
        with span("denoise", step=0) as step:
            step.note(expert="high")
        assert current() is request
    assert [(each.path, each.attributes) for each in heard.spans] == [
        (("request", "denoise"), {"step": 0, "expert": "high"}),
        (("request",), {"job": "a"}),
    ]
    inner, outer = heard.spans
    assert outer.start_ns <= inner.start_ns <= inner.end_ns <= outer.end_ns
    assert outer.seconds >= inner.seconds > 0


def test_an_error_closes_the_span_and_is_named() -> None:
    heard = SpanList()
    with listen(heard), pytest.raises(ValueError, match="no"), span("denoise"):
        raise ValueError("no")
    assert [each.error for each in heard.spans] == ["ValueError"]
    assert current() is None


def test_moments_and_waits() -> None:
    heard = SpanList()
    since = perf_counter_ns()
    with listen(heard), span("request"):
        event("cache", outcome="miss", why="new prompt")
        waited("queue", since, lane="batch")
    moment, wait, request = heard.spans
    assert moment.attributes == {"outcome": "miss", "why": "new prompt"}
    assert moment.seconds < 0.001
    assert (wait.start_ns, wait.parent) == (since, request)


def test_a_thread_works_under_anothers_span() -> None:
    heard = SpanList()
    with listen(heard), span("request") as request:
        parent = current()

        def work() -> None:
            with under(parent), span("video_encode"):
                assert current() is not None
            assert current() is None

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert heard.spans[0].parent is request
    assert heard.spans[0].thread != request.thread


def test_a_generator_closed_elsewhere_leaves_no_span_open() -> None:
    def frames() -> Iterator[int]:
        with span("stream"):
            yield 1
            yield 2

    def begin_here_and_close_elsewhere() -> None:
        stream = frames()
        next(stream)
        thread = threading.Thread(target=stream.close)
        thread.start()
        thread.join()

    heard = SpanList()
    with listen(heard):
        # In a context of its own, where the span of the suspended block stays the current one.
        copy_context().run(begin_here_and_close_elsewhere)
    assert [each.name for each in heard.spans] == ["stream"]
    assert heard.spans[0].end_ns > 0
    assert current() is None


def test_nobody_hears_what_is_off() -> None:
    calls = []

    @traced("tokenize", kind="text")
    def tokens(text: str) -> list[str]:
        calls.append(text)
        return text.split()

    assert tokens("a dog") == ["a", "dog"]
    assert not is_on()
    heard = SpanList()
    with listen(heard):
        tokens("a cat")
        assert is_on()
    with span("late"):
        event("late")
    assert [(each.name, each.attributes) for each in heard.spans] == [("tokenize", {"kind": "text"})]
    assert calls == ["a dog", "a cat"]
    assert tokens.traced_as == "tokenize"  # type: ignore[attr-defined]


def test_two_listeners_each_hear_every_span_of_their_time() -> None:
    first, second = SpanList(), SpanList()
    with listen(first):
        with listen(second), span("a"):
            pass
        with span("b"):
            pass
    assert [each.name for each in first.spans] == ["a", "b"]
    assert [each.name for each in second.spans] == ["a"]


def test_a_span_that_is_off_costs_a_microsecond_or_so() -> None:
    def run(number: int) -> float:
        begin = perf_counter_ns()
        for step in range(number):
            with span("denoise", step=step, expert="high"):
                pass
        return (perf_counter_ns() - begin) / number

    run(1000)
    # A clip opens fewer than 2,000 spans: with 10 us each they would be 0.2 % of 10 s. The fastest of several
    # counts, since the machine may be busy.
    assert min(run(2000) for _ in range(20)) < 10_000


def test_it_loads_no_torch() -> None:
    code = "import rushes.trace, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
