"""Floating-point operations and bytes moved, counted from the shapes of the networks.

One multiply-add is 2 operations. Everything here is exact arithmetic on shapes; what a device makes of it is
the affair of `rushes.engine.rates`. N tokens, M keys, d width, f FFN width, L layers, S text tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache

from rushes.engine.shapes import ModelShape, TextShape
from rushes.models.configs import WanConfig

FLOAT32 = 4
"""Bytes of a value of the float32 islands: residual stream, norms, modulation, RoPE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a unit asks of a device.

    Attributes:
        linear: operations in matrix products with weights.
        attention: operations in attention, text keys included.
        conv: operations in convolutions.
        moved: bytes that everything else reads and writes, weights included.
        pixels: pixels that a video codec encodes, on the host.
        layers: run one after another, each with a price of its own however little there is to do in it.
    """

    linear: float = 0.0
    attention: float = 0.0
    conv: float = 0.0
    moved: float = 0.0
    pixels: float = 0.0
    layers: float = 0.0

    @property
    def flops(self) -> float:
        """Operations of all kinds."""
        return self.linear + self.attention + self.conv

    def __add__(self, other: Work) -> Work:
        return Work(
            linear=self.linear + other.linear,
            attention=self.attention + other.attention,
            conv=self.conv + other.conv,
            moved=self.moved + other.moved,
            pixels=self.pixels + other.pixels,
            layers=self.layers + other.layers,
        )

    def __mul__(self, times: float) -> Work:
        return Work(**{name: times * getattr(self, name) for name in KINDS})


KINDS: tuple[str, ...] = tuple(field.name for field in fields(Work))
"""The kinds of work, in the order of `Work`."""


SHARED_STAGES = frozenset(("denoise", "vae_decode"))
"""Stages in which the jobs of a batch go through the layers together; others run one job after another."""


def joint_work(stage: str, works: Sequence[Work]) -> Work:
    """The work of a batch. Jobs that are denoised or decoded together share their forwards."""
    total = sum(works, Work())
    if stage not in SHARED_STAGES:
        return total
    return replace(total, layers=max(work.layers for work in works))


@cache
def forward_work(shape: ModelShape, tokens: int, keys: int | None = None) -> Work:
    """One forward of the diffusion transformer on one sample, its text's keys and values being there.

    Args:
        keys: tokens that each token attends to, its own included; None for `tokens` (a whole clip).
    """
    config, width = shape.transformer, shape.value_bytes
    n, d, layers = tokens, config.dim, config.num_layers
    linear = layers * n * (8 * d * d + 4 * d * d) + _ffn_flops(config, n)
    linear += 2 * n * d * _patch_volume(config) * (config.in_channels + config.out_channels)
    attention = 4 * n * ((keys or n) + config.text_len) * d * layers
    moved = layers * n * (elementwise_bytes(config.dim, width) + 2 * width * _ffn_traffic(config))
    weights = (layers * 6 * d * d + _ffn_weights(config)) * shape.weight_bytes
    return Work(linear=linear, attention=attention, moved=moved + weights, layers=layers)


@cache
def context_work(shape: ModelShape) -> Work:
    """Text states to the keys and values of all layers: once a prompt and noise expert."""
    config = shape.transformer
    d, s = config.dim, config.text_len
    weights = config.text_dim * d + d * d + config.num_layers * 2 * d * d
    return Work(linear=2 * s * weights, moved=weights * shape.weight_bytes, layers=config.num_layers)


@cache
def text_work(shape: ModelShape) -> Work:
    """One prompt through the text encoder."""
    text = shape.text
    weights = text.num_layers * _text_weights(text)
    attention = 4 * text.text_len**2 * text.attention_dim * text.num_layers
    linear = 2 * text.text_len * weights
    moved = weights * float(shape.value_bytes)
    return Work(linear=linear, attention=attention, moved=moved, layers=text.num_layers)


def _text_weights(text: TextShape) -> int:
    return 4 * text.dim * text.attention_dim + text.ffn_matrices * text.dim * text.ffn_dim


def elementwise_bytes(dim: int, value_bytes: int) -> int:
    """Bytes that the norms, gates, casts and RoPE of one block move for one token, run one after another.

    Counted in `rushes.models.wan_blocks.Block`: 43 passes over float32 values and 30 over others.
    """
    return dim * (43 * FLOAT32 + 30 * value_bytes)


def _ffn_traffic(config: WanConfig) -> float:
    """Hidden values of the FFN for a token, written twice and read twice; mean over the layers."""
    hidden = [_hidden(config, layer) for layer in range(config.num_layers)]
    return 2 * sum(hidden) / len(hidden)


def _hidden(config: WanConfig, layer: int) -> int:
    """Hidden units that a token passes in this layer's FFN."""
    experts = config.experts
    if experts is None or layer < config.first_expert_layer:
        return config.ffn_dim
    return experts.top_k * experts.expert_dim + experts.shared_dim


def _ffn_flops(config: WanConfig, tokens: int) -> int:
    flops = sum(4 * tokens * config.dim * _hidden(config, layer) for layer in range(config.num_layers))
    if config.experts is not None:
        routed = config.num_layers - config.first_expert_layer
        flops += 2 * tokens * config.dim * config.experts.num_experts * routed
    return flops


def _ffn_weights(config: WanConfig) -> int:
    """Weights that a forward reads: of many tokens, some go to every expert."""
    experts, d = config.experts, config.dim
    if experts is None:
        return config.num_layers * 2 * d * config.ffn_dim
    routed = config.num_layers - config.first_expert_layer
    per_layer = 2 * d * (experts.num_experts * experts.expert_dim + experts.shared_dim)
    return routed * per_layer + config.first_expert_layer * 2 * d * config.ffn_dim


def matrix_weights(config: WanConfig) -> int:
    """Weights and biases of the matrices that run in the model's own precision, text embedding included."""
    d, layers = config.dim, config.num_layers
    attention = layers * 8 * (d * d + d)
    biases = layers * (config.ffn_dim + d) if config.experts is None else 0
    text = (config.text_dim + 1) * d + (d + 1) * d
    return attention + _ffn_weights(config) + biases + text


def _patch_volume(config: WanConfig) -> int:
    time, rows, columns = config.patch_size
    return time * rows * columns
