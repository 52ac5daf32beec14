from __future__ import annotations

import torch

from rushes.ops.kv_cache import KVCache, join


def chunk(num_tokens: int) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    return tuple((torch.randn(1, num_tokens, 2, 4), torch.randn(1, num_tokens, 2, 4)) for _ in range(3))


def test_joined_in_the_order_written() -> None:
    cache, first, second, new = KVCache(), chunk(6), chunk(12), chunk(6)
    cache.append(first, 1)
    cache.append(second, 2)
    assert cache.num_frames == 3
    for layer in range(3):
        keys, values = join(cache.past(layer), *new[layer])
        assert torch.equal(keys, torch.cat([first[layer][0], second[layer][0], new[layer][0]], dim=1))
        assert torch.equal(values, torch.cat([first[layer][1], second[layer][1], new[layer][1]], dim=1))


def test_bytes_are_those_of_the_formula() -> None:
    cache = KVCache()
    cache.append(chunk(6), 1)
    num_layers, num_tokens, dim, float_bytes = 3, 6, 8, 4
    assert cache.nbytes == 2 * num_layers * num_tokens * dim * float_bytes


def test_copy_goes_its_own_way() -> None:
    cache = KVCache()
    cache.append(chunk(6), 1)
    fork = cache.copy()
    fork.append(chunk(6), 1)
    assert (cache.num_frames, fork.num_frames) == (1, 2)
    assert fork.nbytes == 2 * cache.nbytes
