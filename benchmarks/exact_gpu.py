"""Exact work on a GPU: one block stack of the A14B, eager and compiled, with each attention kernel.

    python -m benchmarks.exact_gpu [--layers 4] [--output exact_gpu.json]

For every kernel: milliseconds of a forward, error against a float32 block stack, seconds to compile, and
whether a warm forward takes memory or waits. Compiling is cold with an empty `RUSHES_CACHE` and
`TORCHINDUCTOR_CACHE_DIR`; a second run with only the latter emptied shows what the cache file saves. `--tiny`
proves the script on a CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from benchmarks.random_wan import TINY, TRUE, random_wan
from torch import Tensor

from rushes.errors import RushesError
from rushes.models.wan import TextContext, Wan
from rushes.ops.attention import best_backend
from rushes.passes.attention import Attention
from rushes.passes.base import ClipShape
from rushes.passes.compile import Compile
from rushes.passes.plan import Plan
from rushes.profiling.steady import no_new_memory, no_waiting

BACKENDS = ("cudnn", "fa3")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("exact_gpu.json"))
    asked = parser.parse_args(arguments)
    device = torch.device("cpu" if asked.tiny else "cuda")
    config = (TINY if asked.tiny else TRUE).transformers["a14b"]
    config = replace(config, num_layers=min(asked.layers, config.num_layers))
    size = (config.in_channels, 3, 4, 6) if asked.tiny else (config.in_channels, 21, 60, 104)
    shape = ClipShape(latent_shape=size, text_len=8 if asked.tiny else 512)
    rows: list[dict[str, Any]] = [{"best backend": best_backend(device)}]
    exact = velocity(random_wan(config, 1, device, torch.float32), shape)
    for backend in ("sdpa",) if asked.tiny else BACKENDS:
        for passes in ((), (Compile(),)):
            try:
                model = random_wan(config, 1, device, torch.bfloat16)
                rows.append(measure(model, backend, passes, shape, exact, asked.repeats))
            except (RushesError, RuntimeError, AssertionError) as error:
                rows.append({"backend": backend, "failed": f"{type(error).__name__}: {error}"})
            print(json.dumps(rows[-1]), flush=True)
    asked.output.write_text(json.dumps(rows, indent=2) + "\n")
    return 0


def measure(
    model: Wan, backend: str, passes: tuple[Compile, ...], shape: ClipShape, exact: Tensor, repeats: int
) -> dict[str, Any]:
    """One row: a kernel, eager or compiled."""
    device = model.head.weight.device
    plan = Plan(passes=(Attention(backend=backend), *passes))
    model = plan.apply("transformer", model)
    row: dict[str, Any] = {"backend": backend, "compiled": bool(passes)}
    if passes:
        row["compile [s]"] = seconds(lambda: plan.warm_up("transformer", model, shape), device)
    got = velocity(model, shape)
    row["error"] = ((got - exact).norm() / exact.norm()).item()
    context, latents, timestep = inputs(model, shape)
    forward = torch.no_grad()(lambda: model(latents, timestep, context))
    row["forward [ms]"] = 1000 * statistics.median(seconds(forward, device) for _ in range(repeats))
    if device.type == "cuda":
        with no_new_memory(device), no_waiting():
            forward()
        row["steady"] = True
    return row


def inputs(model: Wan, shape: ClipShape) -> tuple[TextContext, Tensor, Tensor]:
    """Seeded, on the model's device."""
    device, generator = model.head.weight.device, torch.Generator().manual_seed(0)
    states = torch.randn(1, shape.text_len, model.config.text_dim, generator=generator).to(device)
    latents = torch.randn(1, *shape.latent_shape, generator=generator).to(device)
    with torch.no_grad():
        return model.encode_text(states), latents, torch.tensor([500.0]).to(device)


@torch.no_grad()
def velocity(model: Wan, shape: ClipShape) -> Tensor:
    """Of one forward, float32."""
    context, latents, timestep = inputs(model, shape)
    return model(latents, timestep, context)


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, the device's work included."""
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    begin = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - begin


if __name__ == "__main__":
    sys.exit(main())
