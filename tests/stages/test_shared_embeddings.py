"""Embeddings that workers share: bit for bit the same, through real servers, and never in the way."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from real_servers import RealServer
from rushes.models.text import PromptEmbeds
from rushes.stages.shared_embeddings import SharedEmbeddings, pack, unpack
from rushes.stages.text_encode import EmbeddingCache
from rushes.stores.kv import KVStore
from rushes.stores.kv_memcached import MemcachedKV
from rushes.stores.kv_memory import MemoryKV
from rushes.stores.kv_redis import RedisKV
from rushes.trace import SpanList, listen
from tiny_parts import CPU, TinyParts, embeds, tiny_model


class Watched(MemoryKV):
    """Tells what it was given."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes)
        self.told: list[tuple[str, bytes]] = []

    def put(self, key: str, data: bytes, *, ttl_s: float | None = None) -> None:
        self.told.append((key, data))
        super().put(key, data, ttl_s=ttl_s)


def a_worker(kv: KVStore | None, revision: str = "1") -> tuple[EmbeddingCache, TinyParts]:
    cache = EmbeddingCache(2**20, lambda: revision)
    if kv is not None:
        cache.shared = SharedEmbeddings(kv, CPU)
    return cache, TinyParts()


def same_bits(a: PromptEmbeds, b: PromptEmbeds) -> bool:
    pairs = [(a.states, b.states)]
    if a.pooled is not None or b.pooled is not None:
        assert a.pooled is not None
        assert b.pooled is not None
        pairs.append((a.pooled, b.pooled))
    return all(
        one.dtype == other.dtype
        and one.shape == other.shape
        and torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))
        for one, other in pairs
    )


@pytest.fixture(params=["memory", "redis", "memcached"])
def kv(request: pytest.FixtureRequest):
    if request.param == "memory":
        kv: KVStore = MemoryKV(2**20)
    elif request.param == "redis":
        kv = RedisKV(f"redis://{request.getfixturevalue('redis_server').address}/1")
    else:
        kv = MemcachedKV(request.getfixturevalue("memcached_server").address)
    yield kv
    kv.close()


def test_what_one_worker_encoded_another_has_bit_for_bit(kv: KVStore) -> None:
    revision = str(time.time_ns())
    (first, ours), (second, theirs), (alone, third) = (
        a_worker(kv, revision),
        a_worker(kv, revision),
        a_worker(None),
    )
    made = first.get("a dog", ours.encoder.encode)
    first.negative("blurry", ours.encoder.encode)
    assert " a  dog\n" in second
    found = second.get("a dog", theirs.encoder.encode)
    assert same_bits(found, made)
    assert same_bits(found, alone.get("a dog", third.encoder.encode))
    assert same_bits(second.negative("blurry", theirs.encoder.encode).embeds, embeds("blurry"))
    assert theirs.encoder.prompts == []
    second.get("a dog", theirs.encoder.encode)
    assert (second.hits, second.shared_hits, second.misses) == (3, 2, 0)
    assert second.num_bytes == first.num_bytes


def test_a_clip_is_bit_for_bit_the_same_with_it_and_without(kv: KVStore) -> None:
    models = [tiny_model() for _ in range(3)]
    for net in models[1:]:
        net.pipeline.embeddings.shared = SharedEmbeddings(kv, CPU)
    clips = [net.generate("a dog", seed=3).frames for net in models]
    assert all(np.array_equal(clip, clips[0]) for clip in clips)
    assert models[2].pipeline.embeddings.shared_hits > 0


def test_another_encoder_shares_nothing(kv: KVStore) -> None:
    revision = str(time.time_ns())
    (first, ours), (second, theirs) = a_worker(kv, revision), a_worker(kv, revision + "'")
    first.get("a dog", ours.encoder.encode)
    second.get("a dog", theirs.encoder.encode)
    assert theirs.encoder.prompts == ["a dog"]


def test_without_it_nobody_is_asked() -> None:
    cache, parts = a_worker(None)
    cache.get("a dog", parts.encoder.encode)
    assert (cache.misses, cache.shared_hits, parts.encoder.prompts) == (1, 0, ["a dog"])


def test_a_server_that_dies_costs_an_encoding_and_no_more(own_redis: RealServer) -> None:
    cache, parts = a_worker(RedisKV(f"redis://{own_redis.address}/0", pause_s=30))
    cache.get("a dog", parts.encoder.encode)
    own_redis.kill()
    start = time.monotonic()
    for text in ("a cat", "a dog", "a cow"):
        assert same_bits(cache.get(text, parts.encoder.encode), embeds(text))
    assert time.monotonic() - start < 1.0
    assert parts.encoder.prompts == ["a dog", "a cat", "a cow"]


def test_no_prompt_is_in_a_key_or_a_value() -> None:
    kv = Watched(2**20)
    cache, parts = a_worker(kv)
    cache.get("a secret plan", parts.encoder.encode)
    ((key, data),) = kv.told
    assert "secret" not in key
    assert b"secret" not in data


def test_damage_is_a_miss(caplog: pytest.LogCaptureFixture) -> None:
    kv = Watched(2**20)
    cache, parts = a_worker(kv)
    cache.get("a dog", parts.encoder.encode)
    ((key, whole),) = kv.told
    for data in (b"", b"x" * 40, whole[:-1], whole[::-1]):
        kv.put(key, data)
        other, theirs = a_worker(kv)
        assert same_bits(other.get("a dog", theirs.encoder.encode), embeds("a dog"))
        assert theirs.encoder.prompts == ["a dog"]
    assert "encoded anew" in caplog.text


def test_a_trace_says_that_it_was_shared() -> None:
    kv = MemoryKV(2**20)
    cache, parts = a_worker(kv)
    cache.get("a dog", parts.encoder.encode)
    other, theirs = a_worker(kv)
    heard = SpanList()
    with listen(heard):
        other.get("a dog", theirs.encoder.encode)
    (event,) = [each for each in heard.spans if each.name == "embedding_cache"]
    assert event.attributes == {"outcome": "hit", "why": "shared"}


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.integers(0, 12),
    st.integers(0, 12),
    st.booleans(),
)
def test_packing_loses_no_bit(dtype: torch.dtype, used: int, padding: int, has_pooled: bool) -> None:
    states = torch.zeros((1, used + padding, 6), dtype=dtype)
    states[:, :used] = torch.randn((1, used, 6)).to(dtype)
    if used:
        states[:, used - 1] = -0.0
    given_embeds = PromptEmbeds(states=states, pooled=torch.randn((1, 3)) if has_pooled else None)
    assert same_bits(unpack(pack(given_embeds)), given_embeds)


def test_the_zeros_behind_a_text_are_not_sent() -> None:
    states = torch.zeros((1, 512, 4096), dtype=torch.bfloat16)
    states[:, :20] = 1
    assert len(pack(PromptEmbeds(states=states))) < 200_000
