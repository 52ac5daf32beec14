"""Rules: every model's data is coherent, and `resolve` fills or refuses each field by name."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rushes.errors import InvalidRequest, UnknownName
from rushes.pipelines.rules import FIELDS, MAX_PROMPT_CHARACTERS, RULES, PipelineRules, load_rules, resolve
from rushes.sampling.solvers import SOLVERS, schedule_for

TOY = load_rules("toy")
A14B = load_rules("wan2.2-t2v-a14b")
TI2V = load_rules("wan2.2-ti2v-5b")
PRESETS = [(name, preset) for name in RULES.names() for preset in load_rules(name).presets]


def reason(rules: PipelineRules, prompt: object = "a dog", **arguments: object) -> str:
    with pytest.raises(InvalidRequest) as caught:
        resolve(rules, prompt, **arguments)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    return str(caught.value)


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_preset_makes_a_valid_request(name: str, preset: str) -> None:
    rules = load_rules(name)
    request = resolve(rules, "a dog", preset=preset, seed=3)
    assert request.pipeline == rules.name == name
    assert request.sampling.solver in SOLVERS
    assert len(schedule_for(request.sampling)) == request.sampling.num_inference_steps
    given = {key: value for key, value in rules.defaults(preset).items() if key != "seed"}
    assert resolve(rules, "a dog", preset=preset, seed=3, **given) == request


@pytest.mark.parametrize("name", RULES.names())
def test_official_sizes_are_valid(name: str) -> None:
    rules = load_rules(name)
    for width, height in rules.sizes:
        video = resolve(rules, "a dog", width=width, height=height).video
        assert (video.width, video.height) == (width, height)
    assert rules.default_preset in rules.presets
    assert (rules.video.width, rules.video.height) in rules.sizes
    assert rules.is_one_expert == (rules.num_experts == 1) == ("guidance_low" not in rules.fields)


def test_official_values() -> None:
    request = resolve(A14B, "a dog")
    video, sampling = request.video, request.sampling
    assert (video.width, video.height, video.num_frames, video.fps) == (1280, 720, 81, 16)
    assert (sampling.num_inference_steps, sampling.solver, sampling.flow_shift) == (40, "unipc", 12.0)
    assert (sampling.guidance_high, sampling.guidance_low, A14B.boundary) == (4.0, 3.0, 0.875)
    video, sampling = resolve(TI2V, "a dog").video, resolve(TI2V, "a dog").sampling
    assert (video.width, video.height, video.num_frames, video.fps) == (1280, 704, 121, 24)
    assert (sampling.num_inference_steps, sampling.flow_shift, sampling.guidance_high) == (50, 5.0, 5.0)


@pytest.mark.parametrize(
    ("name", "preset", "steps", "solver"),
    [
        ("wan2.2-t2v-a14b", "distilled-4", 4, "euler"),
        ("wan2.1-t2v-14b", "distilled-4", 4, "lcm"),
        ("wan2.2-ti2v-5b", "fastwan-3", 3, "lcm"),
        ("wan2.1-t2v-1.3b", "fastwan-3", 3, "lcm"),
    ],
)
def test_distilled_presets_run_without_guidance(name: str, preset: str, steps: int, solver: str) -> None:
    sampling = resolve(load_rules(name), "a dog", preset=preset).sampling
    assert (sampling.num_inference_steps, sampling.solver) == (steps, solver)
    assert sampling.guidance_high == sampling.guidance_low == 1.0


def test_negative_prompt_is_the_models_own_unless_given() -> None:
    official = resolve(A14B, "a dog").negative_prompt
    assert hashlib.sha256(official.encode()).hexdigest().startswith("ce96e0324e4b54ce")
    assert resolve(A14B, "a dog", negative_prompt="").negative_prompt == ""
    assert resolve(A14B, "a dog", negative_prompt="blurred").negative_prompt == "blurred"
    assert resolve(TOY, "a dog").negative_prompt == ""


def test_given_fields_replace_defaults_and_none_does_not() -> None:
    request = resolve(A14B, "a dog", width=832, height=None, num_frames=1, guidance_low=2, solver="euler")
    assert request.video == replace(A14B.video, width=832, num_frames=1)
    assert (request.sampling.guidance_high, request.sampling.guidance_low) == (4.0, 2.0)
    assert request.sampling.solver == "euler"


def test_numpy_numbers_become_plain() -> None:
    request = resolve(TOY, "a dog", width=np.int64(64), flow_shift=np.float32(2.5), guidance_high=np.int32(2))
    assert type(request.video.width) is int
    assert type(request.sampling.flow_shift) is type(request.sampling.guidance_high) is float


@pytest.mark.parametrize(
    ("rules", "field", "value", "words"),
    [
        (TOY, "num_frames", 80, "4n+1 from 1 to 4093, got 80; nearest: 77 and 81"),
        (TOY, "num_frames", 4094, "nearest: 4093"),
        (TOY, "num_frames", 0, "nearest: 1"),
        (TOY, "width", 100, "a multiple of 16 from 16 to 16384, got 100; nearest: 96 and 112"),
        (TOY, "width", 0, "nearest: 16"),
        (TOY, "height", -16, "got -16; nearest: 16"),
        (TOY, "height", 10**9, "got 1000000000; nearest: 16384"),
        (TI2V, "height", 720, "a multiple of 32 from 32 to 32768, got 720; nearest: 704 and 736"),
        (TOY, "width", True, "got True (bool)"),
        (TOY, "seed", True, "got True (bool)"),
        (TOY, "guidance_high", True, "got True (bool)"),
        (TOY, "width", 192.0, "got 192.0"),
        (TOY, "width", "192", "got '192' (str)"),
        (TOY, "width", np.arange(3), "(ndarray)"),
        (TOY, "fps", 0, "from 1 to 120"),
        (TOY, "num_inference_steps", 0, "a whole number from 1 to 1000, got 0"),
        (TOY, "num_inference_steps", 1001, "from 1 to 1000"),
        (TOY, "flow_shift", float("nan"), "got nan"),
        (TOY, "flow_shift", 0.0, "a number from 0.01 to 100, got 0.0"),
        (TOY, "guidance_high", float("inf"), "got inf"),
        (TOY, "guidance_high", "4", "got '4' (str)"),
        pytest.param(TOY, "guidance_high", 10**400, "bits", id="huge guidance"),
        (TOY, "guidance_high", -1, "from 0 to 100, got -1"),
        (TOY, "step_cache", -0.1, "a number from 0 to 100, got -0.1"),
        (TOY, "step_cache", float("nan"), "got nan"),
        (TOY, "guidance_gate", 0, "a number from 0.01 to 1, got 0"),
        (TOY, "guidance_gate", 1.5, "from 0.01 to 1, got 1.5"),
        (TOY, "seed", -1, "from 0 to 9223372036854775807"),
        (TOY, "seed", 2**63, "got 9223372036854775808"),
        pytest.param(TOY, "seed", 10**5000, "got a whole number of 16610 bits", id="huge seed"),
        (TOY, "solver", "unpic", "did you mean 'unipc'?"),
        (TOY, "solver", 3, "one of euler, unipc, dpmpp-2m, ddim, lcm, got 3"),
        (TOY, "guidance_low", 2.0, "toy has one noise expert; set guidance_high"),
        (TOY, "preset", "qualty", "did you mean 'quality'?"),
        (TOY, "preset", ["quality"], "must be one of"),
    ],
)
def test_bad_values_are_refused_by_name(rules: PipelineRules, field: str, value: object, words: str) -> None:
    message = reason(rules, **{field: value})
    assert message.startswith(f"{field}: ")
    assert words in message


def test_an_unknown_field_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match=r"unknown 'widht' \(did you mean 'width'\?\)"):
        resolve(TOY, "a dog", widht=192)


def test_one_expert_reads_guidance_high_for_both() -> None:
    sampling = resolve(TI2V, "a dog", guidance_high=2.5).sampling
    assert sampling.guidance_high == sampling.guidance_low == 2.5


def test_a_causal_request_reuses_nothing_and_says_so() -> None:
    for field, value, off in (("step_cache", 0.1, 0), ("guidance_gate", 0.5, 1)):
        message = reason(TOY, mode="causal", **{field: value})
        assert message == f"{field}: must be {off} in causal mode, which reuses none; got {value}"
        assert getattr(resolve(TOY, "a dog", **{field: value}).sampling, field) == value
    # What a preset brings is dropped, so that the recorded request can be made again.
    preset = replace(TOY.preset(), step_cache=0.1, guidance_gate=0.5)
    rules = replace(TOY, presets={"quality": preset})
    full, causal = (resolve(rules, "a dog", mode=mode, seed=1).sampling for mode in ("full", "causal"))
    assert (full.step_cache, full.guidance_gate) == (0.1, 0.5)
    assert causal == replace(full, step_cache=0.0, guidance_gate=1.0)
    assert resolve(rules, "a dog", mode="causal", seed=1, step_cache=0.0).sampling == causal


def test_every_preset_runs_every_forward_unless_it_says_otherwise() -> None:
    for name, preset in PRESETS:
        sampling = resolve(load_rules(name), "a dog", preset=preset).sampling
        chosen = load_rules(name).preset(preset)
        assert (sampling.step_cache, sampling.guidance_gate) == (chosen.step_cache, chosen.guidance_gate)


def test_a_clip_of_too_many_tokens_names_the_frames_that_fit() -> None:
    message = reason(TOY, width=1024, height=1024, num_frames=81)
    assert message.startswith("num_frames: must be at most 29 at 1024x1024")
    assert resolve(TOY, "a dog", width=1024, height=1024, num_frames=29).video.num_frames == 29
    assert "too large even for one frame, which may have 8388608 pixels" in reason(
        TOY, width=16384, height=16384, num_frames=1
    )


def test_fixed_timesteps_leave_no_choice_of_steps() -> None:
    assert "4 fixed steps, got 5" in reason(A14B, preset="distilled-4", num_inference_steps=5)
    assert resolve(A14B, "a dog", preset="distilled-4", num_inference_steps=4).sampling.timesteps is not None
    moved = resolve(A14B, "a dog", preset="distilled-4", flow_shift=1.0).sampling
    assert moved.timesteps == (1000.0, 750.0, 500.0, 250.0)
    small = load_rules("wan2.1-t2v-1.3b")
    assert reason(small, preset="fastwan-3", flow_shift=3.0).startswith("flow_shift: ")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", "must not be empty"),
        (" \n\t", "must not be empty"),
        ("a\0b", "NUL byte, got one at character 1"),
        pytest.param("x" * 100_000, "at most 20000 characters, got 100000", id="100 kB"),
        ("a\ud800", "lone surrogate at character 1"),
        (None, "must be text"),
        (b"a dog", "must be text, got b'a dog' (bytes)"),
    ],
)
def test_bad_prompts_are_refused(prompt: object, words: str) -> None:
    message = reason(TOY, prompt)
    assert message.startswith("prompt: ")
    assert words in message


@pytest.mark.parametrize(
    "prompt",
    ["🐶 runs 🏞️", "كلب يركض في الحديقة", "犬が走る", pytest.param("x" * MAX_PROMPT_CHARACTERS, id="longest")],
)
def test_any_script_is_a_prompt(prompt: str) -> None:
    assert resolve(TOY, prompt, negative_prompt=prompt).prompt == prompt


def test_an_empty_prompt_may_come_with_embeddings() -> None:
    assert resolve(TOY, "", has_prompt_embeds=True).prompt == ""
    assert "NUL" in reason(TOY, "\0", has_prompt_embeds=True)


def test_negative_prompt_is_checked_under_its_own_name() -> None:
    assert reason(TOY, negative_prompt="a\0").startswith("negative_prompt: ")


def test_an_unspecified_seed_is_drawn_and_recorded() -> None:
    seeds = {resolve(TOY, "a dog").sampling.seed for _ in range(20)}
    assert len(seeds) == 20
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert resolve(TOY, "a dog", seed=0).sampling.seed == 0
    assert resolve(TOY, "a dog", seed=2**63 - 1).sampling.seed == 2**63 - 1


@pytest.mark.parametrize("name", RULES.names())
def test_defaults_obey_the_fields_that_describe_them(name: str) -> None:
    rules = load_rules(name)
    assert set(rules.fields) <= set(FIELDS)
    for field_name, default in rules.defaults().items():
        field = rules.fields[field_name]
        assert field.name == field_name
        assert field.help
        assert field.rule
        assert default is None if field_name == "seed" else field.check(default) == default


@given(
    name=st.sampled_from(sorted(FIELDS)),
    value=st.one_of(
        st.integers(), st.floats(allow_nan=True), st.text(max_size=9), st.booleans(), st.binary(max_size=4)
    ),
)
def test_any_value_is_taken_as_given_or_refused(name: str, value: object) -> None:
    try:
        request = resolve(A14B, "a dog", **{name: value})
    except InvalidRequest as error:
        refused = error.field
    else:
        owner = request.video if hasattr(request.video, name) else request.sampling
        assert getattr(owner, name) == value
        return
    assert refused == name or (refused == "num_frames" and name in ("width", "height"))
