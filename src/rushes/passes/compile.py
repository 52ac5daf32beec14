"""Regional compilation: one graph for all blocks of a kind, by torch.compile with Inductor.

Norms, modulation, RoPE, GELU, casts and residual sums are fused around the matmuls and the attention kernel.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch._dynamo.utils import counters

from rushes.config import cache_folder
from rushes.errors import ConfigError
from rushes.models.wan import Wan
from rushes.models.wan_blocks import Block, Call
from rushes.ops.kv_cache import LayerKV
from rushes.passes.base import ClipShape, Part
from rushes.passes.blocks import block_inputs
from rushes.passes.compile_cache import CompileCache

log = logging.getLogger(__name__)

Unseen = Literal["compile", "eager"]
_CXX = ("g++", "clang++")
_RECOMPILES = 1024
"""Far above `max_shapes`, which is the limit that counts: torch's own would end the process's clips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compile:
    """Compile the blocks of the transformer, and each shape of their inputs by itself.

    Causal calls, whose keys grow with every latent frame, stay eager, and so do calls beyond `max_shapes`.
    `warm_up` compiles before the first request, or takes compiled code from the cache folder.

    Attributes:
        unseen: what happens to a shape that was not warmed up: "compile" makes its first call wait, "eager"
            runs it uncompiled for good.
        max_shapes: different inputs (clip size, batch, text length, phase) that are compiled; those warmed up
            are, however many.
        uses_cache: keep compiled code in `RUSHES_CACHE` and take it from there.
    """

    name: ClassVar[str] = "compile"
    part: ClassVar[Part] = "transformer"
    order: ClassVar[int] = 90

    unseen: Unseen = "compile"
    max_shapes: int = 32
    uses_cache: bool = True

    def __post_init__(self) -> None:
        if self.unseen not in get_args(Unseen):
            raise ConfigError(
                f"pass compile: unseen is {self.unseen!r}; choose one of {', '.join(get_args(Unseen))}"
            )
        if self.max_shapes < 1:
            raise ConfigError(f"pass compile: max_shapes is {self.max_shapes}; needs at least 1")

    def apply(self, network: nn.Module) -> nn.Module:
        """See `Pass`."""
        if not isinstance(network, Wan):
            raise ConfigError(f"pass compile: a {type(network).__name__} has no blocks to compile")
        check_compiler(network.head.weight.device)
        compiled = torch.compile(Block.forward, fullgraph=True, dynamic=False)
        shapes = _Shapes(unseen=self.unseen, limit=self.max_shapes)
        for block in network.blocks:
            assert isinstance(block, Block)
            block.forward = _Regional(block, compiled, shapes)  # type: ignore[method-assign]
        return network

    @torch.no_grad()
    def warm_up(self, network: nn.Module, shape: ClipShape) -> None:
        """See `WarmsUp`. Runs one block of each kind in every phase, not the whole network."""
        assert isinstance(network, Wan), "`apply` has let another network pass"
        blocks = list(_kinds(network))
        device = network.head.weight.device
        stored = CompileCache(cache_folder() / "compiled")
        key = (network.config, self, [_kind(block) for block in blocks], network.phases, shape)
        found = self.uses_cache and stored.load(device, *key)
        misses = _misses()
        for phase in network.phases:
            inputs = block_inputs(network, shape, phase)
            for block in blocks:
                regional = block.forward
                assert isinstance(regional, _Regional)
                regional.shapes.warmed.add(_key(*inputs))
                block(*inputs)
        if self.uses_cache and not (found and misses == _misses()):
            stored.save(device, *key)


_Key = tuple[Any, ...]


@dataclass(slots=True, kw_only=True)
class _Shapes:
    """Which shapes the blocks of one network are compiled for. Sets, as slots of an engine are threads."""

    unseen: Unseen
    limit: int
    warmed: set[_Key] = field(default_factory=set)
    met: set[_Key] = field(default_factory=set)

    def takes(self, key: _Key) -> bool:
        """Whether calls of this shape run compiled."""
        if key in self.met or key in self.warmed:
            return True
        if self.unseen == "eager":
            return False
        if len(self.met | self.warmed) >= self.limit:
            log.warning("pass compile: %d shapes are compiled; %s runs uncompiled", self.limit, key)
            return False
        self.met.add(key)
        return True


class _Regional:
    """Stands for `Block.forward`. Hooks of the block still run, outside the graph."""

    def __init__(self, block: Block, compiled: Callable[..., Any], shapes: _Shapes) -> None:
        self._block, self._compiled, self.shapes = block, compiled, shapes
        self._ready: set[_Key] = set()

    def __call__(
        self, x: Tensor, time: Tensor, text: LayerKV, call: Call, past: tuple[LayerKV, ...] = ()
    ) -> tuple[Tensor, LayerKV | None, Tensor | None]:
        if call.is_causal or past:
            return Block.forward(self._block, x, time, text, call, past)
        key = _key(x, time, text, call)
        if key in self._ready:
            try:
                return self._run(x, time, text, call)
            except FailOnRecompileLimitHit:  # torch has dropped the code (`torch.compiler.reset`): once more
                self._ready.discard(key)
        if not self.shapes.takes(key):
            return Block.forward(self._block, x, time, text, call)
        # torch's settings belong to a thread, and slots are threads: set where the compiler runs.
        with torch._dynamo.config.patch(recompile_limit=_RECOMPILES, accumulated_recompile_limit=_RECOMPILES):
            found = self._run(x, time, text, call)
        self._ready.add(key)
        return found

    def _run(
        self, x: Tensor, time: Tensor, text: LayerKV, call: Call
    ) -> tuple[Tensor, LayerKV | None, Tensor | None]:
        found: tuple[Tensor, LayerKV | None, Tensor | None] = self._compiled(self._block, x, time, text, call)
        return found


def _misses() -> int:
    """Graphs that this process has compiled itself."""
    return counters["inductor"]["fxgraph_cache_miss"]


def _key(x: Tensor, time: Tensor, text: LayerKV, call: Call) -> _Key:
    tokens = (*x.shape[:2], call.grid, time.shape[1], text[0].shape[1])
    return (*tokens, call.dtype, call.phase, call.keeps_kv, call.counts_loads)


def check_compiler(device: torch.device, where: str = "pass compile") -> None:
    """Raises `ConfigError` where code for a CPU cannot be compiled."""
    if device.type == "cpu" and not any(map(shutil.which, _CXX)):
        raise ConfigError(f"{where}: on a CPU it needs a C++ compiler: one of {', '.join(_CXX)}")


def _kinds(network: Wan) -> Iterator[Block]:
    """The first block of each kind: those of a kind share their compiled code."""
    seen = []
    for block in network.blocks:
        assert isinstance(block, Block)
        kind = _kind(block)
        if kind not in seen:
            seen.append(kind)
            yield block


def _kind(block: Block) -> list[Any]:
    """What a graph of the block is specialised on: types, plain settings, and what tensors look like."""
    plain = (bool, int, float, str, tuple, type(None))
    modules: list[Any] = [
        (name, type(module).__name__, {k: v for k, v in vars(module).items() if isinstance(v, plain)})
        for name, module in block.named_modules()
    ]
    tensors = [*block.named_parameters(), *block.named_buffers()]
    return modules + [(name, str(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors]
