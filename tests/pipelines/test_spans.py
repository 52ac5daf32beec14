"""Spans that the library opens by itself, and what they cost while nobody listens."""

from __future__ import annotations

import pathlib
from time import perf_counter, perf_counter_ns

from rushes.models.expert_pair import SwappedExperts
from rushes.models.wan import Wan
from rushes.sampling.step_cache import ALWAYS, BEYOND, WITHIN
from rushes.trace import Span, SpanList, listen, span
from tiny_parts import TRANSFORMER, TinyParts, tiny_model

MOST_OFF = 0.002
"""Of a job's time, that spans may take which nobody hears."""


def hear(work) -> list[Span]:
    heard = SpanList()
    with listen(heard):
        work()
    return heard.spans


def named(spans: list[Span], name: str) -> list[Span]:
    return [each for each in spans if each.name == name]


def test_a_clip_is_a_tree_of_what_it_ran() -> None:
    net = tiny_model(TinyParts(boundary=0.9), boundary=0.9)
    spans = hear(lambda: net.generate("a dog", seed=3))
    (request,) = named(spans, "request")
    assert request.attributes["seed"] == 3
    steps = named(spans, "denoise")
    assert [step.attributes["step"] for step in steps] == [0, 1, 2]
    assert {step.attributes["expert"] for step in steps} == {"high", "low"}
    forwards = named(spans, "forward")
    assert [each.attributes["branch"] for each in forwards] == ["conditional", "unconditional"] * 3
    assert [each.parent for each in forwards] == [step for step in steps for _ in range(2)]
    decoded = named(spans, "vae_forward")
    assert [each.attributes["is_first"] for each in decoded] == [True, False, False]
    # Of decoded frames: those of pictures that another test's threads still make are heard too.
    made = [each.path for each in named(spans, "postprocess") if "vae_decode" in each.path]
    assert made == 3 * [("request", "vae_decode", "to_host", "postprocess")]
    assert len(named(spans, "text_context")) == 4  # two texts, two experts
    assert {each.attributes["stage"] for each in named(spans, "load")} == {
        "text_encode",
        "denoise",
        "vae_decode",
    }
    assert {each.path[0] for each in spans} == {"request", "resolve"}


def test_look_ups_of_encoded_texts_say_why() -> None:
    net = tiny_model()

    def outcomes(prompt: str) -> list[tuple[object, object]]:
        found = named(hear(lambda: net.generate(prompt, output="latents")), "embedding_cache")
        assert all(each.is_event and each.seconds == 0 for each in found)
        return [(each.attributes["outcome"], each.attributes["why"]) for each in found]

    negative = ("hit", "pinned")
    assert outcomes("a dog") == [("miss", "new text")] * 2
    assert outcomes("a dog") == [negative, ("hit", "kept")]
    net.pipeline.embeddings.max_bytes = 0
    assert outcomes("a cat") == [negative, ("miss", "new text")]
    assert outcomes("a dog") == [negative, ("miss", "dropped for want of room")]


def test_steps_say_what_they_used_again_and_why() -> None:
    net = tiny_model()
    fields = {"num_inference_steps": 12, "output": "latents"}
    assert not named(hear(lambda: net.generate("a dog", **fields)), "step_cache")
    spans = hear(lambda: net.generate("a dog", step_cache=0.5, **fields))
    decided = named(spans, "step_cache")
    assert [each.attributes["step"] for each in decided] == list(range(12))
    whys = {each.attributes["why"] for each in decided}
    assert {ALWAYS, WITHIN} <= whys <= {ALWAYS, WITHIN, BEYOND}
    for each in decided:
        step = each.parent
        assert step is not None
        is_reused = each.attributes["outcome"] == "reused"
        assert is_reused == (each.attributes["why"] == WITHIN) == (step.attributes["conditional"] == 0)
        assert not is_reused or each.attributes["predicted_error"] < 0.5


def test_streams_that_take_turns_keep_their_spans_apart() -> None:
    net = tiny_model()
    heard = SpanList()
    with listen(heard), span("caller") as caller:
        streams = [net.stream("a dog", seed=seed, preview_every=1) for seed in (1, 2)]
        for _ in range(4):
            for stream in streams:
                next(stream)
                with span("theirs"):
                    pass
        for stream in streams:
            stream.close()
    requests = named(heard.spans, "request")
    assert {each.error for each in requests} == {"GeneratorExit"}
    assert all(each.parent is caller for each in (*requests, *named(heard.spans, "theirs")))
    for name in ("denoise", "preview"):
        parents = [each.parent for each in named(heard.spans, name)]
        assert {id(each) for each in parents} == {id(each) for each in requests}


def test_an_expert_that_is_swapped_in_says_how_much() -> None:
    pair = SwappedExperts(Wan(TRANSFORMER).eval(), Wan(TRANSFORMER).eval(), boundary=0.9)
    spans = hear(lambda: [pair.select(timestep) for timestep in (1000.0, 0.0, 0.0)])
    assert [(each.attributes["expert"], each.attributes["groups"]) for each in spans] == [
        ("high", 0),
        ("low", 3),
        ("low", 0),
    ]


def test_spans_that_nobody_hears_cost_less_than_two_thousandths_of_a_job(tmp_path: pathlib.Path) -> None:
    """Of the smallest model that there is, so of any."""
    net = tiny_model()

    def work() -> None:
        net.generate("a dog").save(tmp_path / "x.mp4")

    number = len(hear(work))
    begin = perf_counter()
    work()
    job_s = perf_counter() - begin
    assert number > 40
    assert number * span_off_s() <= MOST_OFF * job_s


def span_off_s(number: int = 2000) -> float:
    """Seconds of a span that nobody hears; the fastest of several counts, since the machine may be busy."""

    def count() -> float:
        begin = perf_counter_ns()
        for step in range(number):
            with span("forward", branch="conditional", batch=step):
                pass
        return (perf_counter_ns() - begin) / number / 1e9

    return min(count() for _ in range(20))
