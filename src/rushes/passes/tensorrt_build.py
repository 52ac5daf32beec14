"""What a TensorRT engine is built with, as data: the ONNX files are those of `rushes.passes.onnx_files`.

Unmeasured: TensorRT's libraries are not on PyPI and nothing here imports them, nor does anything depend on
this module. It fixes what a back-end for them keeps to: names and ranges of inputs, flags, cache key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal, get_args

from rushes.errors import ConfigError
from rushes.models.configs import WanConfig
from rushes.passes.base import ClipShape

Precision = Literal["fp16", "bf16", "fp8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
Shape = tuple[int, ...]
BATCHES = (1, 4, 8)
"""Least, best and most samples of one forward."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeProfile:
    """The sizes of one input that an engine takes, and the one that it is fastest at."""

    least: Shape
    best: Shape
    most: Shape

    def __post_init__(self) -> None:
        ordered = len(self.least) == len(self.best) == len(self.most) and all(
            0 < a <= b <= c for a, b, c in zip(self.least, self.best, self.most, strict=True)
        )
        if not ordered:
            raise ConfigError(
                f"shape profile: {self.least}, {self.best}, {self.most}; needs least <= best <= most, above 0"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRTBuild:
    """How one engine is built.

    Attributes:
        profiles: by input of the graph.
        precisions: that a layer may run in, beside float32.
        workspace_gib: scratch memory that a kernel may ask for.
    """

    profiles: Mapping[str, ShapeProfile]
    precisions: tuple[str, ...] = ("bf16",)
    workspace_gib: float = 8.0
    measured: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        for precision in self.precisions:
            if precision not in PRECISIONS:
                raise ConfigError(
                    f"TensorRT build: precision {precision!r} is none of {', '.join(PRECISIONS)}"
                )
        if self.workspace_gib <= 0:
            raise ConfigError(f"TensorRT build: workspace_gib is {self.workspace_gib}; needs to be above 0")

    def cache_key(self, graph: bytes, gpu: str, version: str) -> str:
        """Names an engine file: an engine runs on the GPU and the TensorRT version that built it only.

        Args:
            graph: the ONNX file; its weights are named by the caller's checkpoint.
            gpu: name and compute capability.
        """
        content = repr((sorted(self.profiles.items()), self.precisions, self.workspace_gib, gpu, version))
        return blake2b(content.encode() + graph, digest_size=16).hexdigest()

    def builder_arguments(self) -> dict[str, Any]:
        """As `trtexec` spells them."""
        sides = {"min": "least", "opt": "best", "max": "most"}
        shapes = {
            f"{flag}Shapes": ",".join(
                f"{name}:{'x'.join(map(str, getattr(profile, side)))}"
                for name, profile in self.profiles.items()
            )
            for flag, side in sides.items()
        }
        flags = dict.fromkeys(self.precisions, True)
        return {**shapes, **flags, "memPoolSize": f"workspace:{int(self.workspace_gib * 1024)}M"}


def stack_build(
    config: WanConfig, least: ClipShape, best: ClipShape, most: ClipShape, **settings: Any
) -> TensorRTBuild:
    """The build of `stack.onnx` for clips between two sizes; the batch spans `BATCHES`."""
    sizes = [_stack_shapes(config, *pair) for pair in zip((least, best, most), BATCHES, strict=True)]
    return TensorRTBuild(profiles=_profiles(sizes), **settings)


def first_step_build(least: ClipShape, best: ClipShape, most: ClipShape, **settings: Any) -> TensorRTBuild:
    """The build of `first.onnx`, one latent frame at a time; the batch spans `BATCHES`."""
    sizes: list[dict[str, Shape]] = []
    for clip, batch in zip((least, best, most), BATCHES, strict=True):
        channels, _, rows, columns = clip.latent_shape
        sizes.append({"latent": (batch, channels, 1, rows, columns)})
    return TensorRTBuild(profiles=_profiles(sizes), **settings)


def _stack_shapes(config: WanConfig, clip: ClipShape, batch: int) -> dict[str, Shape]:
    cells = zip(clip.latent_shape[1:], config.patch_size, strict=True)
    frames, rows, columns = (size // patch for size, patch in cells)
    tokens, heads, head_dim = frames * rows * columns, config.num_attention_heads, config.attention_head_dim
    text = (batch, clip.text_len, heads, head_dim)
    layers = {f"{name}_{layer}": text for layer in range(config.num_layers) for name in ("keys", "values")}
    table = (tokens, head_dim)
    x, time = (batch, tokens, config.dim), (batch, 1, 1, 6, config.dim)
    return {"x": x, "time": time, "cos": table, "sin": table, **layers}


def _profiles(sizes: list[dict[str, Shape]]) -> dict[str, ShapeProfile]:
    least, best, most = sizes
    return {name: ShapeProfile(least=least[name], best=best[name], most=most[name]) for name in least}
