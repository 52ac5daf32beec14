"""sparse-attention: which layers and steps are sparse, and that a job's clip does not depend on its batch."""

import pytest
import torch
from small_wan import forward, relative, small_wan

from rushes.errors import ConfigError
from rushes.ops.kv_cache import KVCache
from rushes.ops.radial_mask import density_of
from rushes.passes.fp8 import Fp8Linears
from rushes.passes.plan import Plan, make_pass
from rushes.passes.sparse import SparseAttention
from rushes.stages.denoise import Denoise
from rushes.stages.text_encode import EmbeddingCache, TextEncode
from tiny_parts import CPU, TinyParts, tiny_job

SPARSE = ("sparse-attention",)
ONE = SparseAttention(density=0.6, block=8, dense_blocks=(0,))


def _sparse(seed=0):
    return ONE.apply(small_wan(seed=seed))


def test_the_plain_phase_is_the_plain_network() -> None:
    assert torch.equal(forward(_sparse(), frames=6), forward(small_wan(), frames=6))
    assert torch.equal(forward(small_wan(), phase=SPARSE), forward(small_wan()))


def test_a_sparse_step_is_another_and_a_full_mask_is_none() -> None:
    plain = forward(small_wan(), frames=6)
    assert density_of(ONE.mask, (6, 4, 4)) < 0.7
    assert 1e-4 < relative(forward(_sparse(), frames=6, phase=SPARSE), plain) < 0.5
    full = SparseAttention(density=1.0, block=8).apply(small_wan())
    assert relative(forward(full, frames=6, phase=SPARSE), plain) < 1e-6


def test_fewer_pairs_are_further_off() -> None:
    plain = forward(small_wan(), frames=8)
    errors = [
        relative(
            forward(SparseAttention(density=density, block=4).apply(small_wan()), frames=8, phase=SPARSE),
            plain,
        )
        for density in (0.95, 0.7, 0.4)
    ]
    assert errors == sorted(errors)
    assert errors[0] > 0


def test_dense_blocks_have_no_other_kernel() -> None:
    wan = SparseAttention(dense_blocks=(0, -1)).apply(small_wan())
    assert [len(block.self_attn.phase_kernels) for block in wan.blocks] == [0, 1, 0]


@pytest.mark.parametrize(("num_steps", "num_dense"), [(4, 1), (8, 1), (40, 10)])
def test_first_steps_are_dense(num_steps: int, num_dense: int) -> None:
    wan = SparseAttention(dense_share=0.25).apply(small_wan())
    phases = [wan.phase(step, num_steps, 500.0) for step in range(num_steps)]
    assert phases == [()] * num_dense + [SPARSE] * (num_steps - num_dense)


def test_frames_one_after_another_stay_dense() -> None:
    caches = [KVCache(), KVCache()]
    outs = [
        forward(wan, frames=2, phase=SPARSE, cache=cache, write_cache=True)
        for wan, cache in zip((_sparse(), small_wan()), caches, strict=True)
    ]
    assert torch.equal(*outs)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"density": 0.0}, "density is 0.0; needs to be above 0 and at most 1"),
        ({"density": 1.5}, "at most 1"),
        ({"dense_share": 1.0}, "dense_share is 1.0"),
        ({"block": 0}, "block 0"),
        ({"key_block": -1, "backend": "fa3"}, "key_block -1"),
        ({"key_block": 176}, "key_block 176 with block 128: flex takes one size"),
        ({"backend": "fa4"}, "backend is 'fa4'; choose one of flex, fa3"),
        ({"float8": True}, "float8 needs backend fa3, not flex"),
    ],
)
def test_values_out_of_range(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match="pass sparse-attention") as caught:
        make_pass("sparse-attention", **settings)
    assert words in str(caught.value)


def test_networks_it_cannot_change() -> None:
    with pytest.raises(ConfigError, match="all 3 blocks"):
        SparseAttention(dense_blocks=(0, 1, 2)).apply(small_wan())
    with pytest.raises(ConfigError, match="a Linear is no transformer"):
        SparseAttention().apply(torch.nn.Linear(1, 1))


def test_it_composes_with_fp8_linears() -> None:
    passes = (Fp8Linears(), ONE)
    wan = Plan(passes=passes).apply("transformer", small_wan())
    other = Plan(passes=passes[::-1]).apply("transformer", small_wan())
    out = forward(wan, frames=6, phase=SPARSE)
    assert torch.equal(out, forward(other, frames=6, phase=SPARSE))
    assert relative(out, forward(_sparse(), frames=6, phase=SPARSE)) < 0.05
    assert relative(out, forward(small_wan(), frames=6)) > 1e-4


def _denoised(parts: TinyParts, groups: list[list[int]], ahead: int = 0) -> list[torch.Tensor]:
    """Latents of three jobs, run in these groups; the first is `ahead` steps further than the others."""
    jobs = [tiny_job(f"a dog {seed}", seed=seed, steps=4, frames=9) for seed in range(3)]
    stage = Denoise("toy", parts.experts, parts.boundary, CPU)
    for job in jobs:
        TextEncode("toy", parts.text_encoder, EmbeddingCache(2**20), CPU).run([job])
    for _ in range(ahead):
        stage.run(jobs[:1])
    for group in groups:
        while left := [jobs[i] for i in group if not stage.done(jobs[i])]:
            stage.run(left)
    return [torch.cat(list(job.latents), dim=2) for job in jobs]


def _sparse_parts() -> TinyParts:
    parts = TinyParts()
    one = SparseAttention(density=0.5, block=4)
    parts.transformers["high"] = one.apply(parts.transformers["high"])
    return parts


def test_each_backend_has_blocks_of_its_own() -> None:
    def blocks(**settings) -> tuple[int, int]:
        mask = SparseAttention(**settings).mask
        return mask.block, mask.keys

    assert blocks() == (128, 128)
    assert blocks(backend="fa3") == (256, 176)
    assert blocks(backend="fa3", float8=True) == (256, 224)
    assert blocks(backend="fa3", block=8) == (8, 176)
    assert blocks(block=8) == (8, 8)
    assert blocks(backend="fa3", block=8, key_block=5) == (8, 5)


def test_on_float8_codes_it_is_near_the_same() -> None:
    mask = {"density": 0.6, "block": 8, "key_block": 8, "backend": "fa3"}
    exact, codes = (
        forward(SparseAttention(**mask, float8=on).apply(small_wan()), frames=6, phase=SPARSE)
        for on in (False, True)
    )
    assert 1e-4 < relative(codes, exact) < 0.05
    assert torch.equal(exact, forward(_sparse(), frames=6, phase=SPARSE))


def test_a_clip_does_not_depend_on_its_batch() -> None:
    alone = _denoised(_sparse_parts(), [[0], [1], [2]])
    dense = _denoised(TinyParts(), [[0], [1], [2]])
    for ahead in (0, 1, 2):
        batched = _denoised(_sparse_parts(), [[0, 1, 2]], ahead)
        for one, other, plain in zip(batched, alone, dense, strict=True):
            assert relative(one, other) <= 1e-4
            assert relative(one, plain) > 1e-3


def test_jobs_in_dense_steps_run_a_forward_of_their_own() -> None:
    parts = _sparse_parts()
    calls: list[tuple[int, tuple[str, ...]]] = []
    parts.transformers["high"].register_forward_hook(
        lambda _module, args, options, _output: calls.append((args[0].shape[0], options["phase"])),
        with_kwargs=True,
    )
    _denoised(parts, [[0, 1, 2]], ahead=1)
    both = 2  # guidance runs each of them twice
    assert calls[:both] == [(1, ())] * both
    assert sorted(calls[both : 3 * both]) == sorted([(1, SPARSE), (2, ())] * both)
    assert calls[3 * both : 4 * both] == [(3, SPARSE)] * both
