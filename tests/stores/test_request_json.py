"""Requests and options come back exactly, and what cannot be read is named."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_parts import OPTIONS, REQUEST

from rushes.errors import StoreError
from rushes.stores.request_json import from_json, to_json
from rushes.types import GenerateRequest, JobOptions, LatentSource, SamplingParams, VideoSpec

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers()
TEXTS = st.text(st.characters())  # surrogates and NUL too
REQUESTS = st.builds(
    GenerateRequest,
    prompt=TEXTS,
    negative_prompt=TEXTS,
    pipeline=TEXTS,
    video=st.builds(VideoSpec, width=COUNTS, height=COUNTS, num_frames=COUNTS, fps=COUNTS),
    sampling=st.builds(
        SamplingParams,
        num_inference_steps=COUNTS,
        solver=TEXTS,
        flow_shift=NUMBERS,
        guidance_high=NUMBERS,
        guidance_low=NUMBERS,
        seed=COUNTS,
        timesteps=st.none() | st.lists(NUMBERS).map(tuple),
        lora=st.none() | TEXTS,
    ),
    mode=st.sampled_from(["full", "causal"]),
    source=st.none()
    | st.builds(
        LatentSource,
        name=TEXTS,
        sigma=NUMBERS,
        step=COUNTS,
        is_renoised=st.booleans(),
        mask=st.none() | TEXTS,
    ),
)
MANY_OPTIONS = st.builds(
    JobOptions,
    lane=st.sampled_from(["batch", "interactive"]),
    tenant=TEXTS,
    deadline_s=st.none() | NUMBERS,
    degrade=st.booleans(),
    idempotency_key=st.none() | TEXTS,
    preview_every=COUNTS,
)


@given(REQUESTS)
def test_a_request_comes_back_exactly(request: GenerateRequest) -> None:
    text = to_json(request)
    assert text.isascii()
    assert repr(from_json(GenerateRequest, text)) == repr(request)


@given(MANY_OPTIONS)
def test_options_come_back_exactly(options: JobOptions) -> None:
    assert repr(from_json(JobOptions, to_json(options))) == repr(options)


def test_equal_requests_are_equal_text() -> None:
    whole = replace(REQUEST, sampling=replace(REQUEST.sampling, guidance_high=1))
    assert to_json(whole) == to_json(REQUEST)
    assert list(json.loads(to_json(REQUEST))) == sorted(json.loads(to_json(REQUEST)))


def changed(path: str, value: Any) -> str:
    """`REQUEST` with one field of its JSON replaced, or taken out for ...."""
    mapping = json.loads(to_json(REQUEST))
    *outer, last = path.split(".")
    inner = mapping
    for name in outer:
        inner = inner[name]
    inner[last] = value
    if value is ...:
        del inner[last]
    return json.dumps(mapping)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("video.width", ..., "GenerateRequest.video: missing field 'width'"),
        ("mode", ..., "GenerateRequest: missing field 'mode'"),
        ("prompts", "x", "GenerateRequest: unknown field 'prompts' (did you mean 'prompt'?)"),
        ("video.width", "64", "GenerateRequest.video.width: must be of type int, got str '64'"),
        ("video.width", True, "GenerateRequest.video.width: must be of type int, got bool 'True'"),
        ("video.width", 64.0, "GenerateRequest.video.width: must be of type int, got float '64.0'"),
        ("video", [1], "GenerateRequest.video: must be an object, got list '[1]'"),
        ("prompt", None, "GenerateRequest.prompt: must be of type str, got NoneType 'None'"),
        ("mode", "half", "GenerateRequest.mode: must be one of full, causal, got str 'half'"),
        ("sampling.flow_shift", "a", "GenerateRequest.sampling.flow_shift: must be a finite number, got"),
        ("sampling.flow_shift", False, "GenerateRequest.sampling.flow_shift: must be a finite number, got"),
        ("sampling.flow_shift", 1e999, "GenerateRequest.sampling.flow_shift: must be a finite number, got"),
        ("sampling.timesteps", 5, "GenerateRequest.sampling.timesteps: must be a list, got int '5'"),
        ("sampling.timesteps", [1, "b"], "GenerateRequest.sampling.timesteps.1: must be a finite number"),
        ("sampling.lora", 1, "GenerateRequest.sampling.lora: must be of type str, got int '1'"),
    ],
)
def test_what_is_wrong_is_named(path: str, value: Any, message: str) -> None:
    with pytest.raises(StoreError) as raised:
        from_json(GenerateRequest, changed(path, value))
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "3"])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(StoreError, match=r"^JobOptions: "):
        from_json(JobOptions, text)


@pytest.mark.parametrize(
    "options",
    [
        replace(OPTIONS, deadline_s=float("nan")),
        replace(OPTIONS, deadline_s=10**400),
        replace(OPTIONS, preview_every=1.5),
        replace(OPTIONS, lane="fast"),
    ],
)
def test_nothing_is_written_that_could_not_be_read(options: JobOptions) -> None:
    with pytest.raises(StoreError, match=r"^JobOptions\.(deadline_s|preview_every|lane): must be"):
        to_json(options)


def leaves(kind: type) -> set[str]:
    hints = get_type_hints(kind)
    names = {field.name for field in fields(kind)}
    inner = {name for name in names if is_dataclass(hints[name])}
    return (names - inner).union(*(leaves(hints[name]) for name in inner))


def test_new_fields_come_with_a_migration() -> None:
    """A new field: add it here, and, once version 2 of the store was published, a version with a migration
    that writes the field into the JSON of stored jobs (`sqlite_schema`)."""
    assert leaves(GenerateRequest) == {
        *("prompt", "negative_prompt", "pipeline", "mode", "width", "height", "num_frames", "fps"),
        *("num_inference_steps", "solver", "flow_shift", "guidance_high", "guidance_low", "seed"),
        *("timesteps", "lora", "guidance_gate", "step_cache", "source"),
    }
    assert leaves(LatentSource) == {"name", "sigma", "step", "is_renoised", "mask"}
    assert leaves(JobOptions) == {
        *("lane", "tenant", "deadline_s", "degrade", "idempotency_key", "preview_every", "traceparent"),
    }
