"""A network's parts as ONNX files: the transformer's block stack, and the VAE's decode step.

Every size is dynamic: batch, tokens (frames * rows * columns) and text tokens of the stack; batch, rows and
columns of the decode step, which takes one latent frame whatever the clip's length. A file holds no weight:
it names places in the weights file beside it, so the two graphs of a decode step share theirs. All of it is
float32, whatever the network is. What differs in nothing but weights is traced once a process.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.export import Dim

from rushes.errors import ConfigError
from rushes.models.graph_parts import BlockPart, FirstStepPart, NextStepPart, block_example
from rushes.models.wan import Wan
from rushes.models.wan_blocks import Block, Experts
from rushes.models.wan_vae import WanVAE

M = TypeVar("M", bound=nn.Module)

OPSET = 20
MODULES = ("onnx", "onnxscript")
_ALIGNMENT = 4096
"""Of a weight in its file, so that it can be mapped into memory."""
_TRACED: dict[str, Any] = {}
"""ModelProtos by kind: a trace takes from seconds to a minute."""
_SHARED = ("time", "cos", "sin")
"""Inputs that all blocks read alike."""


def check_exporter(where: str) -> None:
    """Raises `ConfigError` when what writes ONNX files is not installed."""
    for module in MODULES:
        if importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"{where}: needs {module}, which is not installed: pip install 'rushes[export]'"
            )


def write_stack(network: Wan, folder: Path) -> Path:
    """Write `stack.onnx` and its weights: x, time, cos, sin, keys_0, values_0, keys_1, ... -> x."""
    import onnx

    stack, x = onnx.ModelProto(), "x"
    with (folder / "stack.weights").open("wb") as file:
        weights = _WeightsFile(file)
        for layer, block in enumerate(network.blocks):
            assert isinstance(block, Block)
            traced = _trace_block(network, block)
            if not layer:
                stack.CopyFrom(_without_graph(traced))
            named = {f"block.{name}": weight for name, weight in block.named_parameters()}
            x = _append(stack.graph, traced.graph, layer, x, weights, named)
    stack.graph.output.append(_renamed(traced.graph.output[0], x))
    return _save(stack, folder / "stack.onnx")


def write_decode_step(vae: WanVAE, folder: Path) -> tuple[Path, Path]:
    """Write `first.onnx` (latent -> frames, past) and `next.onnx` (latent, past -> frames, past)."""
    paths = []
    with (folder / "decode.weights").open("wb") as file:
        weights = _WeightsFile(file)
        for name, traced in zip(("first", "next"), _trace_step(vae), strict=True):
            weights.refer(traced.graph.initializer, dict(FirstStepPart(vae).named_parameters()))
            paths.append(_save(traced, folder / f"{name}.onnx"))
    return paths[0], paths[1]


def _trace_block(network: Wan, block: Block) -> Any:
    batch, tokens, text = Dim("batch"), Dim("tokens"), Dim("text")
    shapes = ({0: batch, 1: tokens}, {0: batch}, {0: tokens}, {0: tokens}, *[{0: batch, 1: text}] * 2)
    return _trace(_kind(block), lambda: BlockPart(_float32(block)), block_example(network), shapes)


def _trace_step(vae: WanVAE) -> tuple[Any, Any]:
    vae = _float32(vae)
    batch, rows, columns = Dim("batch"), Dim("rows"), Dim("columns")
    size, weight = (2, 3), vae.post_quant_conv.weight
    latent = torch.zeros(2, vae.config.z_dim, 1, *size, device=weight.device)
    with torch.no_grad():
        _, state = vae.plain_step(latent)
    cells = {0: batch, 3: rows, 4: columns}
    past = [
        {0: batch, 2: _times(rows, one.shape[2] // size[0]), 3: _times(columns, one.shape[3] // size[1])}
        for one in state.past
    ]
    first = _trace(f"first {vae.config}", lambda: FirstStepPart(vae), (latent,), (cells,))
    inputs = (latent, list(state.past))
    return first, _trace(f"next {vae.config}", lambda: NextStepPart(vae), inputs, (cells, past))


def _times(dim: Any, factor: int) -> Any:
    return dim if factor == 1 else factor * dim


def _trace(kind: str, make: Callable[[], nn.Module], inputs: tuple[Any, ...], shapes: tuple[Any, ...]) -> Any:
    """A ModelProto of its own, its parameters by name and without their content; made once for each kind."""
    if kind not in _TRACED:
        part = make()
        _TRACED[kind] = _export(part, inputs, shapes)
        names = {name for name, _ in part.named_parameters()}
        for one in _TRACED[kind].graph.initializer:
            if one.name in names:
                one.ClearField("raw_data")
    copied = type(_TRACED[kind])()
    copied.CopyFrom(_TRACED[kind])
    return copied


def _export(part: nn.Module, inputs: tuple[Any, ...], shapes: tuple[Any, ...]) -> Any:
    """Initializers are named as the parameters are: the exporter must fold nothing."""
    with _quiet(), torch.no_grad():
        program = torch.export.export(
            part.eval(),
            inputs,
            dynamic_shapes=shapes,
            strict=False,
            # torch 2.11 meets guards that hold for every size and that it cannot prove (min(c, 2 c) == c):
            # as asserts they reach no ONNX file.
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        made = torch.onnx.export(program, dynamo=True, opset_version=OPSET, optimize=False, verbose=False)
    assert made is not None
    return made.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells of packages that we do not use, and of its own deprecations."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _float32(module: M) -> M:
    """Itself, or a copy where it has weights of another kind."""
    if all(weight.dtype == torch.float32 for weight in module.parameters()):
        return module
    return copy.deepcopy(module).float()


def _kind(block: Block) -> str:
    """Equal for blocks that one trace serves."""
    sizes = [(name, tuple(weight.shape)) for name, weight in block.named_parameters()]
    top_k = block.ffn.top_k if isinstance(block.ffn, Experts) else 0
    return repr((sizes, block.self_attn.head_dim, block.eps, top_k))


def _append(
    stack: Any, block: Any, layer: int, x: str, weights: _WeightsFile, named: Mapping[str, Tensor]
) -> str:
    """Add a block's nodes behind the value `x`; returns the name of what it makes."""
    names = {"": "", "x": x, **{name: name for name in _SHARED}}
    names |= {name: f"{name}_{layer}" for name in ("keys", "values")}
    known = {one.name for one in stack.input}
    for given in block.input:
        name = "x" if given.name == "x" else names[given.name]
        if name not in known and (given.name != "x" or not layer):
            stack.input.append(_renamed(given, name))
    for node in block.node:
        copied = stack.node.add()
        copied.CopyFrom(node)
        copied.name = f"blocks.{layer}/{node.name}"
        copied.input[:] = [names.get(name, f"blocks.{layer}/{name}") for name in node.input]
        copied.output[:] = [name and f"blocks.{layer}/{name}" for name in node.output]
    first = len(stack.initializer)
    stack.initializer.extend(block.initializer)
    added = stack.initializer[first:]
    weights.refer(added, named)
    for one in added:
        one.name = f"blocks.{layer}/{one.name}"
    return f"blocks.{layer}/{block.output[0].name}"


class _WeightsFile:
    """Where the weights of a folder's graphs lie; each is written once, however many graphs name it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._places: dict[int, tuple[int, int]] = {}

    def refer(self, initializers: Sequence[Any], named: Mapping[str, Tensor]) -> None:
        """Replace the content of those that are in `named` by a place in this file."""
        for one in initializers:
            if one.name in named:
                offset, length = self._place(named[one.name])
                one.data_location = type(one).EXTERNAL
                location = Path(self._file.name).name
                for key, value in (("location", location), ("offset", offset), ("length", length)):
                    one.external_data.add(key=key, value=str(value))

    def _place(self, weight: Tensor) -> tuple[int, int]:
        key = weight.data_ptr()
        if key not in self._places:
            self._file.seek(-(-self._file.tell() // _ALIGNMENT) * _ALIGNMENT)
            offset = self._file.tell()
            content = weight.detach().float().contiguous().cpu().numpy()
            self._file.write(content.data)
            self._places[key] = (offset, content.nbytes)
        return self._places[key]


def _renamed(value: Any, name: str) -> Any:
    copied = type(value)()
    copied.CopyFrom(value)
    copied.name = name
    return copied


def _without_graph(model: Any) -> Any:
    bare = type(model)()
    bare.CopyFrom(model)
    for field in ("node", "initializer", "input", "output", "value_info"):
        bare.graph.ClearField(field)
    return bare


def _save(model: Any, file: Path) -> Path:
    file.write_bytes(cast(bytes, model.SerializeToString()))
    return file
