"""The transformer against diffusers', and against itself in its other forms."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from rushes.errors import ConfigError, UnknownName
from rushes.models.configs import ExpertsConfig, WanConfig
from rushes.models.wan import KVCache, TextContext, Wan, cast_weights, keep_float32, sources

A14B = WanConfig(
    num_layers=2,
    num_attention_heads=3,
    attention_head_dim=32,
    in_channels=16,
    out_channels=16,
    ffn_dim=160,
    text_dim=48,
)
TI2V_5B = replace(
    A14B, num_layers=3, num_attention_heads=2, attention_head_dim=24, in_channels=48, out_channels=48
)
TOY = WanConfig(
    num_layers=3,
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=4,
    out_channels=4,
    ffn_dim=64,
    text_dim=24,
    text_len=6,
    pooled_dim=20,
    first_expert_layer=1,
    experts=ExpertsConfig(num_experts=4, top_k=2, expert_dim=16, shared_dim=32),
)
DENSE_TOY = replace(TOY, experts=None, pooled_dim=0)


@pytest.fixture(autouse=True)
def _fresh_seed() -> None:
    seed = torch.seed() % 2**31
    torch.manual_seed(seed)
    print(f"torch.manual_seed({seed})")


def oracle(config: WanConfig) -> WanTransformer3DModel:
    """diffusers' model; every parameter random (norms and biases too) and exact in bfloat16."""
    model = WanTransformer3DModel(
        num_layers=config.num_layers,
        num_attention_heads=config.num_attention_heads,
        attention_head_dim=config.attention_head_dim,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        ffn_dim=config.ffn_dim,
        text_dim=config.text_dim,
    )
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
        parameter.data = parameter.data.bfloat16().float()
    return model.eval().requires_grad_(False)


def from_oracle(model: WanTransformer3DModel, config: WanConfig) -> Wan:
    theirs = model.state_dict()
    ours = {}
    for name, source in sources(config, "diffusers").items():
        joined = torch.cat([theirs.pop(part) for part in source.names])
        ours[name] = joined.view(source.reshape) if source.reshape else joined
    assert not theirs
    wan = Wan(config)
    wan.load_state_dict(ours)
    return wan.eval().requires_grad_(False)


def relative_error(got: Tensor, want: Tensor) -> float:
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm())


def inputs(
    config: WanConfig, size: tuple[int, int, int] = (3, 4, 6), batch: int = 2, text_len: int = 6
) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, a timestep per latent frame, text states."""
    latents = torch.randn(batch, config.in_channels, *size)
    return latents, 1000 * torch.rand(batch, size[0]), torch.randn(batch, text_len, config.text_dim)


def context_of(model: Wan, states: Tensor) -> TextContext:
    width = model.config.pooled_dim
    return model.encode_text(states, torch.randn(states.shape[0], width) if width else None)


@pytest.mark.parametrize("config", [A14B, TI2V_5B], ids=["a14b", "ti2v-5b"])
@pytest.mark.parametrize(("size", "text_len"), [((3, 6, 10), 512), ((1, 4, 4), 77), ((5, 8, 2), 1)])
def test_forward_equals_diffusers(config: WanConfig, size: tuple[int, int, int], text_len: int) -> None:
    theirs = oracle(config)
    ours = from_oracle(theirs, config)
    latents, timestep, states = inputs(config, size, text_len=text_len)
    want = theirs(latents, timestep[:, 0], states, return_dict=False)[0]
    got = ours(latents, timestep[:, 0], ours.encode_text(states))
    assert got.dtype == torch.float32
    assert relative_error(got, want) <= 1e-5


@pytest.mark.parametrize("form", ["tokens", "frames", "samples"])
def test_timestep_per_token_equals_diffusers(form: str) -> None:
    """diffusers takes one for each token; ours may be given the shortest form that says the same."""
    theirs = oracle(TI2V_5B)
    ours = from_oracle(theirs, TI2V_5B)
    latents, frames, states = inputs(TI2V_5B, (3, 6, 10))
    short = {"tokens": 1000 * torch.rand(2, 45), "frames": frames, "samples": frames[:, 0]}[form]
    per_token = short.reshape(2, -1).repeat_interleave(45 // short.reshape(2, -1).shape[1], dim=1)
    want = theirs(latents, per_token, states, return_dict=False)[0]
    context = ours.encode_text(states)
    assert relative_error(ours(latents, short, context), want) <= 1e-5
    assert relative_error(ours(latents, per_token, context), want) <= 1e-5


@pytest.mark.parametrize("config", [A14B, TI2V_5B], ids=["a14b", "ti2v-5b"])
def test_bfloat16_is_no_further_off_than_diffusers(config: WanConfig, tmp_path: Path) -> None:
    reference = oracle(config)
    reference.save_pretrained(tmp_path)
    theirs = WanTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    ours = cast_weights(from_oracle(reference, config), torch.bfloat16)
    latents, timestep, states = inputs(config, (3, 6, 10), text_len=32)
    with torch.no_grad():
        want = reference(latents, timestep[:, 0], states, return_dict=False)[0]
        low = theirs(latents.bfloat16(), timestep[:, 0], states.bfloat16(), return_dict=False)[0]
        got = ours(latents, timestep[:, 0], ours.encode_text(states))
    assert 0 < relative_error(got, want) <= relative_error(low, want)


@pytest.mark.parametrize("config", [DENSE_TOY, TOY], ids=["dense", "experts"])
@pytest.mark.parametrize("chunks", [(1, 1, 1, 1, 1), (2, 3), (1, 3, 1)])
def test_cached_chunks_equal_the_causal_whole(config: WanConfig, chunks: tuple[int, ...]) -> None:
    model = Wan(config).requires_grad_(False)
    latents, timestep, states = inputs(config, (5, 4, 6))
    context, cache = context_of(model, states), KVCache()
    outs = []
    for part, times in zip(latents.split(chunks, dim=2), timestep.split(chunks, dim=1), strict=True):
        outs.append(model(part, times, context, cache=cache, write_cache=True))
    whole = model(latents, timestep, context, causal=True)
    assert relative_error(torch.cat(outs, dim=2), whole) <= 1e-5
    assert cache.num_frames == 5


def test_cache_holds_what_the_formula_says_and_no_more() -> None:
    """A view of the fused projection would keep three times its own bytes alive."""
    model = Wan(TOY).requires_grad_(False)
    latents, timestep, states = inputs(TOY)
    cache = KVCache()
    model(latents, timestep, context_of(model, states), cache=cache, write_cache=True)
    assert cache.nbytes == 2 * TOY.num_layers * 2 * (3 * 2 * 3) * TOY.dim * 4
    held = [x for layer in range(TOY.num_layers) for kv in cache.past(layer) for x in kv]
    assert sum(x.untyped_storage().nbytes() for x in held) == cache.nbytes


def test_cache_changes_only_when_told_to() -> None:
    model = Wan(TOY).requires_grad_(False)
    latents, timestep, states = inputs(TOY)
    context, cache = context_of(model, states), KVCache()
    first = model(latents, timestep, context, cache=cache)
    assert cache.nbytes == cache.num_frames == 0
    model(latents, timestep, context, cache=cache, write_cache=True)
    kept = [x.clone() for kv in cache.past(1) for x in kv]
    again = model(latents, timestep, context, cache=cache)
    assert all(torch.equal(a, b) for a, b in zip(kept, [x for kv in cache.past(1) for x in kv], strict=True))
    assert torch.equal(again, model(latents, timestep, context, cache=cache))
    assert relative_error(again, first) > 1e-3


def test_failed_forward_leaves_the_cache() -> None:
    model = Wan(TOY).requires_grad_(False)
    latents, timestep, states = inputs(TOY)
    context, cache = context_of(model, states), KVCache()
    broken = replace(context, keys=(*context.keys[:2], context.keys[2][..., :3]))
    with pytest.raises(RuntimeError):
        model(latents, timestep, broken, cache=cache, write_cache=True)
    assert cache.nbytes == cache.num_frames == 0


def test_causal_frames_do_not_see_later_ones() -> None:
    model = Wan(DENSE_TOY).requires_grad_(False)
    latents, timestep, states = inputs(DENSE_TOY)
    context = context_of(model, states)
    changed = latents.clone()
    changed[:, :, 2] += 1
    for causal in (True, False):
        before, after = (model(x, timestep, context, causal=causal) for x in (latents, changed))
        assert (relative_error(after[:, :, :2], before[:, :, :2]) < 1e-6) is causal


@pytest.mark.parametrize("kernel", ["dense", "grouped"])
@pytest.mark.parametrize("autocast", [False, True])
def test_every_weight_learns(kernel: str, autocast: bool) -> None:
    model = Wan(TOY, expert_kernel=kernel)
    latents, timestep, states = inputs(TOY)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        velocity = model(latents, timestep, context_of(model, states), causal=True)
    assert velocity.dtype == torch.float32
    velocity.square().mean().backward()
    idle = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert idle == {"blocks.1.ffn.router_bias", "blocks.2.ffn.router_bias"}


def test_gradients_flow_through_the_cache() -> None:
    model = Wan(DENSE_TOY)
    latents, timestep, states = inputs(DENSE_TOY)
    latents.requires_grad_()
    context, cache = context_of(model, states), KVCache()
    model(latents[:, :, :1], timestep[:, :1], context, cache=cache, write_cache=True)
    model(latents[:, :, 1:], timestep[:, 1:], context, cache=cache).sum().backward()
    assert latents.grad is not None
    assert latents.grad[:, :, 0].abs().sum() > 0


def test_autocast_leaves_the_islands_alone() -> None:
    """float32 weights under bfloat16 autocast round no more than bfloat16 weights do."""
    model = Wan(DENSE_TOY).requires_grad_(False)
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    latents, timestep, states = inputs(DENSE_TOY)
    want = model(latents, timestep, model.encode_text(states))
    with torch.autocast("cpu", torch.bfloat16):
        got = model(latents, timestep, model.encode_text(states))
    low = cast_weights(model, torch.bfloat16)
    floor = relative_error(low(latents, timestep, low.encode_text(states)), want)
    assert 0 < relative_error(got, want) <= 1.5 * floor


def test_expert_kernels_agree_and_report_their_loads() -> None:
    latents, timestep, states = inputs(TOY)
    dense, grouped = Wan(TOY, expert_kernel="dense"), Wan(TOY, expert_kernel="grouped")
    grouped.load_state_dict(dense.state_dict())
    context = context_of(dense, states)
    loads: list[Tensor] = []
    want = dense(latents, timestep, context, router_loads=loads)
    assert relative_error(grouped(latents, timestep, context), want) <= 1e-5
    num_tokens = 2 * 3 * 2 * 3
    assert [(tuple(x.shape), float(x.sum())) for x in loads] == [((4,), 2.0 * num_tokens)] * 2


def test_prompts_batch_along_the_first_dimension() -> None:
    model = Wan(TOY).requires_grad_(False)
    latents, timestep, states = inputs(TOY)
    contexts = [context_of(model, states[i : i + 1]) for i in range(2)]
    together = model(latents, timestep, TextContext.cat(contexts))
    for i in range(2):
        alone = model(latents[i : i + 1], timestep[i : i + 1], contexts[i])
        assert relative_error(together[i : i + 1], alone) <= 1e-5


def test_built_on_meta_and_loaded_is_the_same_model() -> None:
    model = Wan(TOY).requires_grad_(False)
    with torch.device("meta"):
        empty = Wan(TOY)
    empty.load_state_dict(model.state_dict(), assign=True)
    latents, timestep, states = inputs(TOY)
    context = context_of(model, states)
    assert torch.equal(empty(latents, timestep, context), model(latents, timestep, context))


def test_forward_runs_on_meta_to_be_counted() -> None:
    with torch.device("meta"):
        model = Wan(TOY)
        latents, timestep, states = inputs(TOY)
        assert model(latents, timestep, context_of(model, states), causal=True).shape == latents.shape


@pytest.mark.parametrize("causal", [False, True])
def test_compiles_to_one_graph(causal: bool) -> None:
    model = Wan(replace(TOY, num_layers=2), expert_kernel="dense")
    latents, timestep, states = inputs(TOY)
    pooled = torch.randn(2, TOY.pooled_dim)

    def velocity(latents: Tensor, states: Tensor, loads: list[Tensor]) -> Tensor:
        context = model.encode_text(states, pooled)
        return model(latents, timestep, context, causal=causal, router_loads=loads)

    loads: list[Tensor] = []
    got = torch.compile(velocity, backend="eager", fullgraph=True)(latents, states, loads)
    assert relative_error(got, velocity(latents, states, [])) <= 1e-5
    assert len(loads) == 1
    got.sum().backward()


@pytest.mark.parametrize(
    ("size", "seen", "message"),
    [
        ((3, 4, 4), 0, None),
        ((4, 4, 4), 0, "4 frames of tokens"),
        ((2, 4, 4), 2, "4 frames of tokens, cached ones included"),
        ((1, 8, 4), 0, "4 rows of tokens"),
        ((1, 4, 8), 0, "4 columns of tokens, cached ones included, are more than the rope_max_seq_len 3"),
    ],
)
@torch.no_grad()
def test_positions_beyond_the_models_are_refused(
    size: tuple[int, int, int], seen: int, message: str | None
) -> None:
    config = replace(TOY, rope_max_seq_len=3)
    model = Wan(config)
    latents, timestep, states = inputs(config, size)
    context, cache = context_of(model, states), KVCache()
    if seen:
        model(latents[:, :, :seen], timestep[:, :seen], context, cache=cache, write_cache=True)
    with pytest.raises(ConfigError, match=message) if message else nullcontext():
        model(latents, timestep, context, cache=cache)


def test_casting_the_islands_is_refused() -> None:
    model = Wan(DENSE_TOY).to(torch.bfloat16)
    latents, timestep, states = inputs(DENSE_TOY)
    context = Wan(DENSE_TOY).encode_text(states)
    with pytest.raises(ConfigError, match="cast_weights"):
        model.encode_text(states)
    with pytest.raises(ConfigError, match="cast_weights"):
        model(latents, timestep, context)


def test_cast_weights_keeps_the_islands() -> None:
    model = cast_weights(Wan(TOY), torch.bfloat16)
    kept = {name for name, p in model.named_parameters() if p.dtype == torch.float32}
    assert kept == {name for name, _ in model.named_parameters() if keep_float32(name)}
    assert {"blocks.0.modulation", "time_proj.weight", "blocks.1.ffn.router.weight"} <= kept
    assert not any("qkv" in name or "experts_up" in name for name in kept)


def test_unknown_kernels_are_refused_when_built() -> None:
    with pytest.raises(UnknownName, match="did you mean 'flash'"):
        Wan(TOY, attention_backend="flesh")
    with pytest.raises(UnknownName, match="did you mean 'dense'"):
        Wan(TOY, expert_kernel="dens")
