"""The radial mask against its rule, token by token, and the kernels against dense and masked attention."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

from rushes.errors import ConfigError
from rushes.ops import sparse
from rushes.ops.radial_mask import (
    RadialMask,
    density_of,
    floor_density,
    kept_blocks,
    token_mask,
)
from rushes.ops.reference import attention_loop
from rushes.ops.sparse import radial_attention

GRID = (6, 4, 5)
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _qkv(grid=GRID, heads=2, dim=16, device="cpu", dtype=torch.float32):
    tokens = grid[0] * grid[1] * grid[2]
    return [torch.randn(2, tokens, heads, dim, device=device, dtype=dtype) for _ in range(3)]


def test_single_tokens_follow_the_rule() -> None:
    """With blocks of one token the mask is the paper's, for one width c."""
    mask, per_frame = RadialMask(density=0.5, block=1, sink_frames=1), GRID[1] * GRID[2]
    kept = token_mask(mask, GRID)
    widths = []
    for query in range(kept.shape[0]):
        for key in range(kept.shape[0]):
            apart = abs(query // per_frame - key // per_frame)
            shift = abs(query % per_frame - key % per_frame)
            width = shift * 2 ** (max(apart, 1).bit_length() - 1)
            is_always = apart == 0 or shift == 0 or key < per_frame
            widths.append((0 if is_always else width, bool(kept[query, key])))
    assert max(width for width, is_kept in widths if is_kept) < min(
        width for width, is_kept in widths if not is_kept
    )


@pytest.mark.parametrize("density", [0.2, 0.25, 0.5, 0.8])
def test_density_is_met_at_the_shapes_of_wan(density: float) -> None:
    for grid in ((21, 30, 52), (31, 22, 40)):
        found = density_of(RadialMask(density=density), grid)
        assert density - 0.02 < found <= density
        assert floor_density(RadialMask(density=density), grid) < density


def test_what_is_always_kept() -> None:
    mask = RadialMask(density=1e-6, block=10, sink_frames=2)
    kept, per_frame = token_mask(mask, GRID), 20
    assert kept[:, : 2 * per_frame].all()
    for frame in range(GRID[0]):
        own = slice(frame * per_frame, (frame + 1) * per_frame)
        assert kept[own, own].all()
    assert not kept.all()
    assert (
        density_of(mask, GRID)
        == pytest.approx(floor_density(mask, GRID))
        == pytest.approx(float(kept.double().mean()))
    )


def test_more_density_keeps_more_and_all_of_what_less_kept() -> None:
    masks = [kept_blocks(RadialMask(density=d, block=4), GRID) for d in (0.4, 0.6, 0.8, 1.0)]
    for fewer, more in pairwise(masks):
        assert (fewer <= more).all()
        assert fewer.sum() < more.sum()
    assert masks[-1].all()


def test_one_frame_stays_dense() -> None:
    mask, grid = RadialMask(density=0.1, block=4), (1, 4, 5)
    q, k, v = _qkv(grid)
    torch.testing.assert_close(radial_attention(q, k, v, grid, mask), attention_loop(q, k, v))


@pytest.mark.parametrize("block", [7, 16])
@pytest.mark.parametrize("density", [0.4, 1.0])
def test_the_operator_is_masked_attention(block: int, density: float) -> None:
    q, k, v = _qkv()
    mask = RadialMask(density=density, block=block)
    expected = attention_loop(q, k, v, token_mask(mask, GRID))
    torch.testing.assert_close(radial_attention(q, k, v, GRID, mask), expected, rtol=1e-4, atol=1e-5)
    dense = attention_loop(q, k, v)
    assert torch.allclose(expected, dense, atol=1e-5) == (density == 1.0)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_is_given_the_same_mask() -> None:
    """Uncompiled, it reads the mask's function; the lists of blocks are compared by themselves."""
    q, k, v = _qkv()
    mask = RadialMask(density=0.5, block=16)
    blocks = sparse._block_mask_on(mask, GRID, q.device)
    out = flex_attention(*(x.transpose(1, 2) for x in (q, k, v)), block_mask=blocks).transpose(1, 2)
    expected = attention_loop(q, k, v, token_mask(mask, GRID))
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(blocks.to_dense()[0, 0].bool(), kept_blocks(mask, GRID))


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method.:DeprecationWarning")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="a GPU's own kernel")
@pytest.mark.parametrize("density", [0.3, 0.999])
def test_the_gpu_kernel_is_masked_attention(density: float) -> None:
    grid = (7, 10, 23)  # no multiple of a block
    q, k, v = _qkv(grid, dim=128, device="cuda", dtype=torch.bfloat16)
    mask = RadialMask(density=density)
    expected = attention_loop(*(x.double() for x in (q, k, v)), token_mask(mask, grid).cuda())
    out = radial_attention(q, k, v, grid, mask)
    assert out.is_contiguous()
    assert (out - expected).norm() < 1e-2 * expected.norm()


@pytest.mark.parametrize("device", DEVICES)
def test_it_is_one_operator_of_a_compiled_graph(device: str) -> None:
    mask = RadialMask(density=0.5, block=16)
    call = partial(radial_attention, grid=GRID, mask=mask)
    q, k, v = _qkv(device=device)
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(q, k, v), call(q, k, v))


def test_a_long_clip_does_not_fall_to_the_reference() -> None:
    grid = (2, 100, 100)
    q = torch.zeros(1, 1, 1, 8).expand(1, 20000, 1, 8)
    with pytest.raises(ConfigError, match=r"20000 tokens in blocks of 64 x 64 .* takes 16384 at most"):
        radial_attention(q, q, q, grid, RadialMask(density=0.8, block=64, sink_frames=0))


@torch.library.custom_op("rushes_tests::flex", mutates_args=())
def _flex_inside(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, density: float) -> torch.Tensor:
    mask = RadialMask(density=density, block=128, sink_frames=1)
    return sparse.radial_attention_flex(q, k, v, (4, 16, 8), mask)


@_flex_inside.register_fake
def _(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, density: float) -> torch.Tensor:
    return torch.empty_like(q, memory_format=torch.contiguous_format)


@pytest.mark.filterwarnings("default")  # of the compiler
@torch.no_grad()
def test_the_kernel_can_be_met_first_inside_a_compiled_graph() -> None:
    """A block that was compiled calls the operator: nothing of it may need vmap there."""
    q, k, v = (torch.randn(1, 4 * 16 * 8, 2, 16) for _ in range(3))
    graph = torch.compile(lambda *qkv: _flex_inside(*(2 * x for x in qkv), 0.4), backend="aot_eager")
    mask = RadialMask(density=0.4, block=128, sink_frames=1)
    expected = sparse.radial_attention_reference(2 * q, 2 * k, 2 * v, (4, 16, 8), mask)
    torch.testing.assert_close(graph(q, k, v), expected, atol=1e-5, rtol=1e-5)
