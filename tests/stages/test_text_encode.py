"""TextEncode: what is encoded, what passes through, what is kept."""

import torch

from rushes.stages.base import Given
from rushes.stages.text_encode import EncodedText, NegativePrompts, TextEncode
from tiny_parts import CPU, TinyParts, embeds, tiny_job


def stage(parts, negatives=None):
    return TextEncode("toy", parts.text_encoder, negatives or NegativePrompts(), CPU)


def test_the_negative_prompt_is_encoded_once_for_many_jobs():
    parts, negatives = TinyParts(), NegativePrompts()
    jobs = [tiny_job(prompt) for prompt in ("a dog", "a cat")]
    stage(parts, negatives).run(jobs)
    assert parts.encoder.prompts == ["blurry", "a dog", "a cat"]
    assert jobs[0].text.negative is jobs[1].text.negative


def test_another_negative_prompt_replaces_the_kept_one():
    parts, negatives = TinyParts(), NegativePrompts()
    first, second = (negatives.get(text, parts.encoder.encode) for text in ("dull", "blurry"))
    assert torch.equal(second.embeds.states, embeds("blurry").states)
    assert negatives.get("dull", parts.encoder.encode) is not first


def test_given_embeddings_pass_at_their_own_length_and_need_no_encoder():
    parts = TinyParts()
    given = Given(prompt_embeds=embeds("a dog", 3), negative_prompt_embeds=embeds("x", 1))
    job = tiny_job(given=given)
    stage(parts).prepare(job)
    stage(parts).run([job])
    assert (job.text.prompt.num_tokens, job.text.negative.num_tokens) == (3, 1)
    assert parts.encoder.prompts == []


def test_forgetting_an_expert_frees_its_keys_and_values_only():
    parts = TinyParts()
    job = tiny_job()
    stage(parts).run([job])
    text = job.text.prompt
    high, low = (text.context(expert, parts.transformers[expert]) for expert in ("high", "low"))
    text.forget("high")
    assert text.context("low", parts.transformers["low"]) is low
    assert text.context("high", parts.transformers["high"]) is not high


def test_keys_and_values_belong_to_one_lora():
    wan, text = TinyParts().transformers["high"], EncodedText(embeds("a dog"))
    plain, adapted = (text.context("high", wan, lora) for lora in (None, "a.safetensors"))
    assert plain is not adapted
    assert text.context("high", wan) is plain
    text.forget("high")
    assert text.context("high", wan, "a.safetensors") is not adapted
