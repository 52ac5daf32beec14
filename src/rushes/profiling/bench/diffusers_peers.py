"""diffusers as a rival, as it is and with what its users add; same folder, same noise, same text."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import shutil
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import torch

from rushes.models.checkpoint import open_checkpoint
from rushes.models.headers import read_json
from rushes.profiling.bench.base import Contender, Place
from rushes.profiling.bench.contenders import Peer

if TYPE_CHECKING:
    from rushes.profiling.bench.diffusers_pipeline import DiffusersPipeline

FP8_CAPABILITY = (8, 9)
CACHE_DIT_BLOCKS = 8  # `Fn_compute_blocks` of its default settings
QUANTIZATION = "torchao.quantization"
PARTS = {"transformer": "WanTransformer3DModel", "vae": "AutoencoderKLWan"}

Change = Callable[["DiffusersPipeline"], None]


def _lacks(package: str, *, install: str | None = None) -> str | None:
    if importlib.util.find_spec(package) is not None:
        return None
    name = install or package
    return f"{name} is not installed (pip install {name})"


def _plain(place: Place) -> str | None:
    missing = _lacks("diffusers")
    if missing is not None:
        return missing
    layout = open_checkpoint(place.folder).layout
    if layout != "diffusers":
        return f"diffusers reads its own layout, {place.model} is in the {layout} layout"
    return _unknown_keys(place)


def _unknown_keys(place: Place) -> str | None:
    """Keys of a network's config.json that diffusers would leave out, and so build another network."""
    import diffusers

    for part, kind in PARTS.items():
        file = place.folder / part / "config.json"
        known = inspect.signature(getattr(diffusers, kind).__init__).parameters
        unknown = [key for key in read_json(file) if not key.startswith("_") and key not in known]
        if unknown:
            keys = ", ".join(unknown)
            return f"{place.model}: {part}/config.json has keys that diffusers does not know ({keys})"
    return None


def _compiled(place: Place) -> str | None:
    missing = _plain(place)
    if missing is not None:
        return missing
    if torch.device(place.device).type == "cuda":
        return _lacks("triton")
    has_compiler = shutil.which("g++") or shutil.which("clang++")
    return None if has_compiler else "torch.compile needs a C++ compiler on a CPU (g++ or clang++)"


def _fp8(place: Place) -> str | None:
    missing = _compiled(place) or _lacks("torchao")
    if missing is not None:
        return missing
    device = torch.device(place.device)
    if device.type != "cuda":
        return f"fp8 matrix products need a CUDA device, this is {place.device}"
    if torch.cuda.get_device_capability(device) < FP8_CAPABILITY:
        return "fp8 matrix products need compute capability 8.9 or more"
    return None if place.dtype == "bfloat16" else f"fp8 with scales by row needs bfloat16, not {place.dtype}"


def _cache_dit(place: Place) -> str | None:
    missing = _plain(place) or _lacks("cache_dit", install="cache-dit")
    if missing is not None:
        return missing
    num_layers = read_json(place.folder / "transformer" / "config.json").get("num_layers", 0)
    if num_layers <= CACHE_DIT_BLOCKS:
        return f"cache-dit always computes {CACHE_DIT_BLOCKS} blocks, {place.model} has {num_layers}"
    return None


def _compile(pipeline: DiffusersPipeline) -> None:
    for transformer in pipeline.transformers:
        transformer.compile_repeated_blocks(fullgraph=True)


def _quantize(pipeline: DiffusersPipeline) -> None:
    torchao = importlib.import_module(QUANTIZATION)
    config = torchao.Float8DynamicActivationFloat8WeightConfig(granularity=torchao.PerRow())
    for transformer in pipeline.transformers:
        torchao.quantize_(transformer.blocks, config)
    _compile(pipeline)


def _enable_cache(pipeline: DiffusersPipeline) -> None:
    importlib.import_module("cache_dit").enable_cache(pipeline.pipe)


def _open(name: str, changes: tuple[Change, ...], place: Place) -> Contender:
    from rushes.profiling.bench.diffusers_pipeline import DiffusersPipeline

    pipeline = DiffusersPipeline(name, place)
    for change in changes:
        change(pipeline)
    return pipeline


def _peer(
    name: str,
    title: str,
    missing: Callable[[Place], str | None],
    *changes: Change,
) -> Peer:
    return Peer(title=title, missing=missing, open=partial(_open, name, changes))


DIFFUSERS = _peer("diffusers", "WanPipeline as it is", _plain)
COMPILED = _peer("diffusers-compile", "WanPipeline, blocks compiled", _compiled, _compile)
FP8 = _peer(
    "diffusers-fp8",
    "WanPipeline, blocks in fp8 by torchao and compiled",
    _fp8,
    _quantize,
)
CACHE_DIT = _peer(
    "diffusers-cache-dit",
    "WanPipeline under cache-dit's defaults",
    _cache_dit,
    _enable_cache,
)
