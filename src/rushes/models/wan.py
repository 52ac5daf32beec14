"""The Wan diffusion transformer: Wan2.2 A14B and TI2V-5B, Wan2.1, and our toy (arXiv:2503.20314).

Shapes: B samples, T latent frames, N tokens (T * rows * columns), L text tokens, d width. The residual
stream, norms, modulation, time path, RoPE, router, patch embedding and head are float32; the other matmuls
run in the dtype of the weights, or autocast's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rushes.errors import ConfigError
from rushes.models.configs import WanConfig
from rushes.models.phase import PLAIN, Phase, PhaseRule, phase_of, phases_of
from rushes.models.wan_blocks import MLP, Block, Call, random_weight
from rushes.models.wan_checkpoint import config_from_dict, keep_float32, sources
from rushes.ops.attention import FrameCausal, attention_kernel
from rushes.ops.experts import expert_kernel
from rushes.ops.kv_cache import KVCache
from rushes.ops.norm import modulated_layer_norm
from rushes.ops.patch import patchify, unpatchify
from rushes.ops.precision import float32_island
from rushes.ops.rope import rope_tables
from rushes.ops.timestep import collapse_timestep, sinusoidal_embedding

__all__ = ["KVCache", "TextContext", "Wan", "cast_weights", "config_from_dict", "keep_float32", "sources"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TextContext:
    """A prompt as the blocks read it, computed once and used at every step.

    Attributes:
        keys, values: one per layer, [B, L, heads, head_dim] (A14B: 419 MB a prompt in bfloat16).
        pooled: float32 [B, d], added to the time embedding; None without `pooled_dim`.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    pooled: Tensor | None = None

    @staticmethod
    def cat(contexts: Sequence[TextContext]) -> TextContext:
        """Join along the batch; all must have the same number of text tokens."""
        pooled = [context.pooled for context in contexts if context.pooled is not None]
        return TextContext(
            keys=tuple(torch.cat(layer) for layer in zip(*(c.keys for c in contexts), strict=True)),
            values=tuple(torch.cat(layer) for layer in zip(*(c.values for c in contexts), strict=True)),
            pooled=torch.cat(pooled) if pooled else None,
        )


class BlockStack(Protocol):
    """What runs all blocks at once in another engine; a pass sets it."""

    def takes(self, time: Tensor, call: Call) -> bool:
        """Whether it can run such a call; the blocks themselves run the others."""
        ...

    def __call__(self, x: Tensor, time: Tensor, context: TextContext, call: Call) -> Tensor:
        """x [B, N, d] and time [B, S, 1, 6, d], both float32 -> x."""
        ...


class Wan(nn.Module):
    """The diffusion transformer of a `WanConfig`; holds weights and nothing else.

    Attributes:
        stack: what runs the blocks of the calls that it takes, instead of the modules; a pass sets it.

    Args:
        attention_backend: a name of `rushes.ops.attention.BACKENDS`, or auto.
        expert_kernel: a name of `rushes.ops.experts.EXPERT_KERNELS`, or auto.

    Example:
        >>> config = WanConfig(num_layers=1, num_attention_heads=2, attention_head_dim=12, in_channels=4,
        ...                    out_channels=4, ffn_dim=32, text_dim=8)
        >>> model = Wan(config)
        >>> context = model.encode_text(torch.randn(1, 5, 8))
        >>> model(torch.randn(1, 4, 3, 4, 6), torch.tensor([500.0]), context).shape
        torch.Size([1, 4, 3, 4, 6])
    """

    def __init__(
        self, config: WanConfig, *, attention_backend: str = "auto", expert_kernel: str = "auto"
    ) -> None:
        super().__init__()
        _check_names(attention_backend, expert_kernel)
        self.config = config
        self.phase_rules: tuple[PhaseRule, ...] = ()
        self.stack: BlockStack | None = None
        dim, patch = config.dim, config.patch_size
        volume = patch[0] * patch[1] * patch[2]
        self.patch_embed = nn.Linear(config.in_channels * volume, dim)
        self.text_embed = MLP(config.text_dim, dim)
        self.time_embed = MLP(config.freq_dim, dim)
        self.time_proj = nn.Linear(dim, 6 * dim)
        self.pooled_embed = MLP(config.pooled_dim, dim) if config.pooled_dim else None
        self.blocks = nn.ModuleList(
            Block(config, layer, attention_backend, expert_kernel) for layer in range(config.num_layers)
        )
        self.head = nn.Linear(dim, config.out_channels * volume)
        self.head_modulation = random_weight(2, dim)

    @property
    def dtype(self) -> torch.dtype:
        """In which the matmuls run."""
        return self.text_embed.fc1.weight.dtype

    def phase(self, step: int, num_steps: int, timestep: float) -> Phase:
        """What `forward` is to be told at `step` (from 0) of `num_steps`; `PLAIN` unless a pass says more."""
        return phase_of(self.phase_rules, step, num_steps, timestep)

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Every phase that a trajectory may pass through: what a warm-up has to run."""
        return phases_of(self.phase_rules)

    def encode_text(self, states: Tensor, pooled: Tensor | None = None) -> TextContext:
        """Text states [B, L, text_dim] (and pooled [B, pooled_dim]) to what every step reads; once a prompt.

        All L tokens are attended to, as in Wan, whose prompts are zero padded to `text_len`.
        """
        assert (pooled is None) == (self.pooled_embed is None), "pooled text goes with pooled_dim"
        self._check_islands()
        embed = self.text_embed
        text = embed.fc2(F.gelu(embed.fc1(states.to(self.dtype)), approximate="tanh"))
        layers = [cast(Block, block).cross_attn.encode(text) for block in self.blocks]
        if pooled is not None and self.pooled_embed is not None:
            with float32_island(pooled.device):
                pooled = self.pooled_embed.fc2(F.silu(self.pooled_embed.fc1(pooled.float())))
        keys, values = zip(*layers, strict=True)
        return TextContext(keys=keys, values=values, pooled=pooled)

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        context: TextContext,
        *,
        causal: bool = False,
        cache: KVCache | None = None,
        write_cache: bool = False,
        router_loads: list[Tensor] | None = None,
        phase: Phase = PLAIN,
    ) -> Tensor:
        """The velocity eps - x0 at `timestep`.

        Args:
            latents: [B, C, T, H, W], H and W multiples of the patch.
            timestep: in [0, 1000]; [B], [B, T] per latent frame or [B, N] per token.
            context: from `encode_text`, of the same batch.
            causal: let a token see its own latent frame and earlier ones only.
            cache: frames seen before; the latents are those that follow, and `causal` is implied.
            write_cache: append this call's keys and values to `cache`.
            router_loads: each layer with experts appends its tokens per expert, float32 [E].
            phase: of all samples, see `phase`.

        Returns:
            float32 [B, out_channels, T, H, W].

        Raises:
            ValueError: `timestep` has another shape.
            ConfigError: weights that must stay float32 were cast, or the frames (cached ones included), rows
                or columns of tokens are more than `rope_max_seq_len`.
        """
        call = self.call_of(
            latents,
            cache=cache,
            causal=causal,
            keeps_kv=write_cache,
            counts_loads=router_loads is not None,
            phase=phase,
        )
        x, time, embedding = self.embed(latents, timestep, context)
        if self.stack is not None and self.stack.takes(time, call):
            return self.read_out(self.stack(x, time, context, call), embedding, self._grid(latents))
        chunk = []
        for layer, block in enumerate(self.blocks):
            past = cache.past(layer) if cache is not None else ()
            x, kv, loads = block(x, time, (context.keys[layer], context.values[layer]), call, past)
            if router_loads is not None and loads is not None:
                router_loads.append(loads)
            if write_cache:
                # The values are a view of the fused projection; a copy lets its queries and keys go.
                chunk.append((kv[0], kv[1].clone(memory_format=torch.contiguous_format)))
        if write_cache:
            assert cache is not None, "write_cache needs a cache"
            cache.append(tuple(chunk), latents.shape[2] // self.config.patch_size[0])
        return self.read_out(x, embedding, self._grid(latents))

    def embed(self, latents: Tensor, timestep: Tensor, context: TextContext) -> tuple[Tensor, Tensor, Tensor]:
        """What the first block reads: x [B, N, d] and time [B, S, 1, 6, d]; and the time embedding
        [B, S, 1, d] for the head. Arguments and errors are those of `forward`."""
        self._check_islands()
        grid = self._grid(latents)
        timestep = collapse_timestep(timestep, grid[0], grid[0] * grid[1] * grid[2]).to(latents.device)
        embedding, time = self._embed_time(timestep, context)
        with float32_island(latents.device):
            x = self.patch_embed(patchify(latents.float(), self.config.patch_size))
        return x, time, embedding

    def call_of(
        self,
        latents: Tensor,
        *,
        cache: KVCache | None = None,
        causal: bool = False,
        keeps_kv: bool = False,
        counts_loads: bool = False,
        phase: Phase = PLAIN,
    ) -> Call:
        """What every block reads alike. Raises `ConfigError` as `forward` does."""
        grid = self._grid(latents)
        offset = cache.num_frames if cache is not None else 0
        self._check_positions((offset + grid[0], *grid[1:]))
        rope = rope_tables(
            grid,
            self.config.attention_head_dim,
            theta=self.config.rope_theta,
            frame_offset=offset,
            device=latents.device,
        )
        is_causal = causal or cache is not None
        mask = FrameCausal(frame_tokens=grid[1] * grid[2]) if is_causal and grid[0] > 1 else None
        return Call(
            dtype=self.dtype,
            rope=rope,
            mask=mask,
            grid=grid,
            phase=phase,
            is_causal=is_causal,
            keeps_kv=keeps_kv,
            counts_loads=counts_loads,
        )

    def _grid(self, latents: Tensor) -> tuple[int, int, int]:
        """Frames, rows and columns of tokens."""
        frames, rows, columns = (
            n // p for n, p in zip(latents.shape[2:], self.config.patch_size, strict=True)
        )
        return frames, rows, columns

    def _check_islands(self) -> None:
        if self.time_proj.weight.dtype != torch.float32:
            raise ConfigError(
                f"the time path is {self.time_proj.weight.dtype}, which changes the video: instead of "
                "model.to(dtype) use rushes.models.wan.cast_weights(model, dtype)"
            )

    def _embed_time(self, timestep: Tensor, context: TextContext) -> tuple[Tensor, Tensor]:
        """Of timesteps [B, S]: the embedding [B, S, 1, d] and its projection [B, S, 1, 6, d]."""
        with float32_island(timestep.device):
            x = sinusoidal_embedding(timestep, self.config.freq_dim)
            x = self.time_embed.fc2(F.silu(self.time_embed.fc1(x)))
            if context.pooled is not None:
                x = x + context.pooled[:, None]
            time = self.time_proj(F.silu(x))
        return x[:, :, None], torch.unflatten(time, -1, (6, -1))[:, :, None]

    def _check_positions(self, ends: tuple[int, int, int]) -> None:
        limit = self.config.rope_max_seq_len
        for axis, end in zip(("frames", "rows", "columns"), ends, strict=True):
            if end > limit:
                raise ConfigError(
                    f"latents: {end} {axis} of tokens, cached ones included, are more than the"
                    f" rope_max_seq_len {limit} of this model"
                )

    def read_out(self, x: Tensor, embedding: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """What `forward` returns, of what the last block leaves and `embed` gave."""
        with float32_island(x.device):
            shift, scale = (self.head_modulation + embedding[:, :, :, None]).unbind(-2)
            out = self.head(modulated_layer_norm(x, shift, scale, eps=self.config.eps))
        return unpatchify(out, grid, self.config.patch_size)


def _check_names(attention_backend: str, expert_kernel_name: str) -> None:
    attention_kernel(attention_backend)
    expert_kernel(expert_kernel_name)


def cast_weights(model: Wan, dtype: torch.dtype) -> Wan:
    """Cast the weights in place, all but those that stay float32 (`keep_float32`); returns the model.

    `model.to(dtype)` would cast these too, and change the video.
    """
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(torch.float32 if keep_float32(name) else dtype)
    return model
