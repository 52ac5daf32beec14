"""What makes requests equal, and what makes their latents compatible."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rushes.reuse.keys import compatibility_key, exact_key
from rushes.types import GenerateRequest, SamplingParams, VideoSpec

REQUEST = GenerateRequest(
    prompt="a “red” dog",
    negative_prompt="blurry",
    pipeline="toy",
    video=VideoSpec(width=64, height=64, num_frames=17, fps=8),
    sampling=SamplingParams(
        num_inference_steps=20, solver="euler", flow_shift=3.0, guidance_high=5.0, guidance_low=4.0, seed=1
    ),
)


def exact(request: GenerateRequest = REQUEST, identity: str = "m", tenant: str = "t") -> str:
    return exact_key(request, identity=identity, tenant=tenant)


def compat(request: GenerateRequest = REQUEST, identity: str = "m", tenant: str = "t") -> str:
    return compatibility_key(request, identity=identity, tenant=tenant)


def sampled(**changes: object) -> GenerateRequest:
    return replace(REQUEST, sampling=replace(REQUEST.sampling, **changes))  # type: ignore[arg-type]


def test_keys_are_stable_hex_and_differ_from_each_other() -> None:
    assert exact() == exact()
    assert (len(exact()), len(compat())) == (81, 64)
    assert exact() != compat()


def test_prompts_that_the_encoder_reads_alike_are_one() -> None:
    assert exact(replace(REQUEST, prompt='  a "red"\n dog ')) == exact()
    assert exact(replace(REQUEST, prompt="a &quot;red&quot; dog")) == exact()
    assert exact(replace(REQUEST, prompt="A red dog")) != exact()
    assert exact(replace(REQUEST, negative_prompt=" blurry ")) == exact()


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, negative_prompt="sharp"),
        replace(REQUEST, pipeline="wan2.2-ti2v-5b"),
        replace(REQUEST, mode="causal"),
        replace(REQUEST, video=replace(REQUEST.video, num_frames=21)),
        replace(REQUEST, video=replace(REQUEST.video, width=80)),
        sampled(solver="unipc"),
        sampled(flow_shift=5.0),
        sampled(guidance_high=1.0),
        sampled(guidance_low=1.0),
        sampled(lora="style.safetensors"),
        sampled(timesteps=(1000.0, 500.0)),
    ],
)
def test_both_keys_see_what_changes_the_latents(other: GenerateRequest) -> None:
    assert exact(other) != exact()
    assert compat(other) != compat()


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, prompt="a cat"),
        replace(REQUEST, video=replace(REQUEST.video, fps=16)),
        sampled(seed=2),
        sampled(num_inference_steps=30),
        sampled(step_cache=0.1),
        sampled(guidance_gate=0.5),
    ],
)
def test_only_the_exact_key_sees_the_rest(other: GenerateRequest) -> None:
    assert exact(other) != exact()
    assert compat(other) == compat()


def test_model_and_tenant_are_in_both_and_do_not_run_into_each_other() -> None:
    for key in (exact, compat):
        assert len({key(), key(identity="m2"), key(tenant="t2"), key(identity="mt", tenant="")}) == 4


def test_without_guidance_the_negative_prompt_is_never_read() -> None:
    plain = sampled(guidance_high=1.0, guidance_low=1.0)
    assert exact(replace(plain, negative_prompt="other")) == exact(plain)
    assert compat(replace(plain, negative_prompt="other")) == compat(plain)


def test_latents_are_found_by_those_with_the_same_list_of_equal_words() -> None:
    keys = [
        compatibility_key(REQUEST, identity="m", tenant="t", synonyms=synonyms)
        for synonyms in ("", "one list", "another")
    ]
    assert len({*keys}) == 3
    assert keys[0] == compatibility_key(REQUEST, identity="m", tenant="t")
