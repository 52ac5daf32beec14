"""Pages of keys: read sequence by sequence they are masked attention; and the same on float8 codes."""

import pytest
import torch

from rushes.errors import ConfigError
from rushes.ops.attention_fp8 import quantize_heads
from rushes.ops.fa3 import paged_fa3_module
from rushes.ops.radial_mask import RadialMask, kept_blocks, token_mask
from rushes.ops.reference import attention_loop
from rushes.ops.sparse import radial_attention
from rushes.ops.sparse_fp8 import radial_attention_fp8
from rushes.ops.sparse_pages import check_pages, in_pages, pages_of

GRID = (6, 4, 5)
ON_HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
HAS_KERNEL = ON_HOPPER and paged_fa3_module() is not None


def _qkv(grid=GRID, heads=2, dim=16, device="cpu", dtype=torch.float32):
    tokens = grid[0] * grid[1] * grid[2]
    return [torch.randn(2, tokens, heads, dim, device=device, dtype=dtype) for _ in range(3)]


def _by_sequences(q, k, v, mask, grid):
    """What a kernel of paged keys does, one sequence at a time."""
    pages = pages_of(mask, grid, len(q))
    queries, keys, values = q.flatten(0, 1), in_pages(k, mask.keys), in_pages(v, mask.keys)
    outs = []
    for number, count in enumerate(pages.num_keys):
        own = slice(int(pages.starts[number]), int(pages.starts[number + 1]))
        read = pages.table[number].long()
        some = [side[read].flatten(0, 1)[: int(count)] for side in (keys, values)]
        outs.append(attention_loop(queries[own][None], *(side[None] for side in some))[0])
    return torch.cat(outs).view(q.shape)


@pytest.mark.parametrize(("block", "key_block"), [(16, 11), (13, 16), (8, 8), (120, 7)])
def test_sequences_of_pages_are_masked_attention(block: int, key_block: int) -> None:
    q, k, v = _qkv()
    mask = RadialMask(density=0.5, block=block, key_block=key_block)
    assert kept_blocks(mask, GRID).shape == (-(-120 // block), -(-120 // key_block))
    expected = attention_loop(q, k, v, token_mask(mask, GRID))
    torch.testing.assert_close(_by_sequences(q, k, v, mask, GRID), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(radial_attention(q, k, v, GRID, mask), expected, rtol=1e-4, atol=1e-5)


def test_what_is_beyond_the_tokens_is_zero() -> None:
    paged = in_pages(torch.full((2, 10, 1, 4), float("nan")), 8)
    assert paged.shape == (4, 8, 1, 4)
    assert paged[[0, 2]].isnan().all()
    assert paged[[1, 3], :2].isnan().all()
    assert (paged[[1, 3], 2:] == 0).all()


def test_float8_is_masked_attention_of_the_codes_values() -> None:
    q, k, v = _qkv()
    mask = RadialMask(density=0.5, block=16, key_block=11)
    k = k + 3  # the mean goes before quantisation
    out = radial_attention_fp8(q, k, v, GRID, mask)
    values = []
    for x in (q, k - k.mean(1, keepdim=True), v):
        codes, scale = quantize_heads(x)
        values.append(codes.float() * scale[:, None, :, None])
    expected = attention_loop(*values, token_mask(mask, GRID))
    assert out.dtype == q.dtype
    assert (out - expected).norm() < 5e-3 * expected.norm()
    exact = attention_loop(q, k, v, token_mask(mask, GRID))
    assert 5e-3 < (out - exact).norm() / exact.norm() < 0.1


def test_float8_is_one_operator_of_a_compiled_graph() -> None:
    q, k, v = _qkv()
    mask = RadialMask(density=0.5, block=16, key_block=11)
    compiled = torch.compile(radial_attention_fp8, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(q, k, v, GRID, mask), radial_attention_fp8(q, k, v, GRID, mask), rtol=1e-2, atol=1e-2
    )


@pytest.mark.skipif(HAS_KERNEL, reason="this machine has the kernel")
def test_a_machine_without_the_kernel_is_told_what_it_lacks() -> None:
    check_pages(torch.device("cpu"), "pass x")
    with pytest.raises(ConfigError, match=r"pass x: backend fa3 .* choose flex"):
        check_pages(torch.device("cuda" if torch.cuda.is_available() else "mps"), "pass x")


@pytest.mark.skipif(not HAS_KERNEL, reason="needs a Hopper GPU and a FlashAttention 3 with paged keys")
@pytest.mark.parametrize(("is_float8", "page", "most"), [(False, 176, 1e-2), (True, 224, 0.1)])
def test_the_kernel_is_masked_attention(is_float8: bool, page: int, most: float) -> None:
    grid = (7, 10, 23)  # no multiple of a block
    q, k, v = _qkv(grid, dim=128, device="cuda", dtype=torch.bfloat16)
    mask = RadialMask(density=0.5, block=256, key_block=page)
    expected = attention_loop(*(x.double() for x in (q, k, v)), token_mask(mask, grid).cuda())
    if is_float8:
        out = radial_attention_fp8(q, k, v, grid, mask)
    else:
        out = radial_attention(q, k, v, grid, mask, backend="fa3")
    assert (out - expected).norm() < most * expected.norm()
