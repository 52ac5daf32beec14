"""TextEncode and its cache: what is encoded, what passes through, what is kept."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rushes.models.text import PromptEmbeds
from rushes.stages.base import Given
from rushes.stages.text_encode import EmbeddingCache, EncodedText, TextEncode
from tiny_parts import CPU, TinyParts, embeds, tiny_job

BYTES = embeds("a dog").nbytes


def new_cache(num_texts=10, revision="1"):
    return EmbeddingCache(num_texts * BYTES, lambda: revision)


def stage(parts, cache=None):
    return TextEncode("toy", parts.text_encoder, cache or new_cache(), CPU)


def test_a_text_is_encoded_once_for_many_jobs():
    parts, cache = TinyParts(), new_cache()
    jobs = [tiny_job(prompt) for prompt in ("a dog", "a cat", "a dog")]
    stage(parts, cache).run(jobs)
    assert parts.encoder.prompts == ["blurry", "a dog", "a cat"]
    assert (cache.hits, cache.misses) == (3, 3)
    assert jobs[0].text.negative is jobs[1].text.negative
    # The states are shared, the keys and values made of them are each job's own.
    assert jobs[0].text.prompt is not jobs[2].text.prompt
    assert jobs[0].text.prompt.embeds is jobs[2].text.prompt.embeds


def test_the_key_is_the_text_after_cleaning_and_the_encoders_revision():
    parts, revisions = TinyParts(), ["1"]
    cache = EmbeddingCache(10 * BYTES, lambda: revisions[-1])
    for text in ("salt & pepper", "  salt &amp;\n pepper ", "Salt & pepper"):
        cache.get(text, parts.encoder.encode)
    assert parts.encoder.prompts == ["salt & pepper", "Salt & pepper"]
    assert "salt &amp; pepper" in cache
    revisions.append("2")
    assert "salt & pepper" not in cache


def test_the_least_recently_used_text_leaves_first():
    parts, cache = TinyParts(), new_cache(2)
    for text in ("a", "b", "a", "c"):
        cache.get(text, parts.encoder.encode)
    assert [text in cache for text in "abc"] == [True, False, True]
    assert cache.num_bytes == 2 * BYTES


def test_the_negative_prompt_stays_until_another_one_comes():
    parts, cache = TinyParts(), new_cache(2)
    first = cache.negative("dull", parts.encoder.encode)
    for text in "abc":
        cache.get(text, parts.encoder.encode)
    assert cache.negative("dull", parts.encoder.encode) is first
    second = cache.negative("blurry", parts.encoder.encode)
    assert torch.equal(second.embeds.states, embeds("blurry").states)
    cache.get("d", parts.encoder.encode)
    assert ["dull" in cache, "blurry" in cache] == [False, True]
    assert cache.negative("dull", parts.encoder.encode) is not first


def test_a_text_larger_than_the_cache_is_encoded_all_the_same():
    parts, cache = TinyParts(), EmbeddingCache(0)
    for _ in range(2):
        assert torch.equal(cache.get("a", parts.encoder.encode).states, embeds("a").states)
        cache.negative("dull", parts.encoder.encode)
    assert parts.encoder.prompts == ["a", "dull", "a"]
    assert cache.num_bytes == BYTES


def test_an_encoder_that_fails_leaves_the_pinned_prompt_as_it_was():
    parts, cache = TinyParts(), new_cache(1)
    first = cache.negative("dull", parts.encoder.encode)

    def fail(_text):
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        cache.negative("blurry", fail)
    cache.get("a", parts.encoder.encode)
    assert cache.negative("dull", fail) is first


@given(
    texts=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), max_size=40), room=st.integers(0, 5)
)
@settings(deadline=None)
def test_any_sequence_keeps_to_the_bound_and_gives_what_the_encoder_gives(texts, room):
    cache, negative = new_cache(room), None
    for text, is_negative in texts:
        negative = text if is_negative else negative
        found = cache.negative(text, embeds).embeds if is_negative else cache.get(text, embeds)
        assert torch.equal(found.states, embeds(text).states)
        kept = [each for each in "abcdefgh" if each in cache]
        assert cache.num_bytes == len(kept) * BYTES
        assert len(kept) <= max(room, 1 if negative else 0)
        assert negative is None or negative in kept
    assert cache.hits + cache.misses == len(texts)


def test_threads_that_bring_one_text_encode_it_once():
    parts, cache, together = TinyParts(), new_cache(), Barrier(8)

    def look_up(_number):
        together.wait()
        return [cache.get(text, parts.encoder.encode) for text in "abc"]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(look_up, range(8)))
    assert sorted(parts.encoder.prompts) == ["a", "b", "c"]
    assert all(mine is first for each in found for mine, first in zip(each, found[0], strict=True))
    assert (cache.hits, cache.misses, cache.num_bytes) == (21, 3, 3 * BYTES)


def test_bytes_count_the_pooled_vector():
    pooled = PromptEmbeds(states=torch.zeros(1, 2, 3), pooled=torch.zeros(1, 5))
    assert pooled.nbytes == 4 * (6 + 5)


def test_a_job_whose_texts_are_kept_loads_no_encoder():
    parts, cache = TinyParts(), new_cache()
    stage(parts, cache).run([tiny_job()])

    def refuse():
        raise AssertionError("loaded")

    again = TextEncode("toy", refuse, cache, CPU)
    again.prepare(tiny_job())
    again.run([tiny_job()])
    with pytest.raises(AssertionError, match="loaded"):
        again.prepare(tiny_job("a cat"))


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
