"""What this device reaches at best, measured now: products, attention, convolutions, copies.

The ceiling of a resource is the best rate of any shape and kernel tried: one generic shape and the costliest
ones of the run, each alone in a loop. What a shape of the run reaches alone is kept too: that, not the
ceiling, is what a better kernel or layout would make of it.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rushes.errors import RushesError
from rushes.ops.attention import BACKENDS, attention
from rushes.profiling.calls import Call
from rushes.profiling.kineto import Node
from rushes.profiling.op_work import WITH_BIAS, conv_arguments, is_heads_second, short, tensors, work_of
from rushes.profiling.trials import Ceilings, Trial, signature, worker

NUM_SHAPES = 4
"""Costliest shapes tried for each resource."""

DTYPES: Mapping[str, torch.dtype] = {
    name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")
}


def measure_ceilings(
    calls: Sequence[Call], device: torch.device, *, budget_s: float = 0.1, known: Ceilings | None = None
) -> Ceilings:
    """Try every resource.

    Args:
        calls: of the run; their costliest shapes are tried too.
        budget_s: for each trial, one call at least.
        known: what this device reached before; nothing in it is tried again, and what is found joins it.
    """
    found = Ceilings() if known is None else known
    before = {(trial.resource, trial.dtype, trial.variant, trial.signature) for trial in found.trials}
    for resource, dtype, name, variant, work, make in _candidates(calls, device):
        if (resource, dtype, variant, name) in before:
            continue
        seconds = _tried(make, device, budget_s)
        if seconds is not None:
            found.trials.append(
                Trial(
                    resource=resource,
                    dtype=dtype,
                    signature=name,
                    variant=variant,
                    seconds=seconds,
                    rate=work / seconds,
                )
            )
    return found


def _tried(make: Callable[[], Callable[[], object]], device: torch.device, budget_s: float) -> float | None:
    """None for a kernel that this device or shape does not have, of which torch also warns."""
    with warnings.catch_warnings(action="ignore"):
        try:
            return best_seconds(make(), device, budget_s)
        except (RuntimeError, RushesError):
            return None


@torch.no_grad()
def best_seconds(work: Callable[[], object], device: torch.device, budget_s: float) -> float:
    """Seconds of the fastest of as many calls as fit into the budget; at least two, the first of which only
    warms up."""
    work()
    best, end = math.inf, time.perf_counter() + budget_s
    while True:
        best = min(best, _seconds(work, device))
        if time.perf_counter() >= end:
            return best


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


Candidate = tuple[str, str, str, str, float, Callable[[], Callable[[], object]]]
"""Resource, dtype, signature, variant, work of a call, and what makes the call once memory may be taken."""


def _candidates(calls: Sequence[Call], device: torch.device) -> Iterator[Candidate]:
    yield _copy(device)
    dtypes = dict.fromkeys(call.work.dtype for call in calls if call.work.flops and call.work.dtype in DTYPES)
    for dtype in [*dtypes] or ["float32"]:
        size = 8192 if device.type == "cuda" else 768
        yield _product((size, size, size), dtype, "", device)
    for op, call in _costliest(calls, "gemm"):
        (x, _, _), (weight, _, _) = _operands(op)
        rows = math.prod(x[:-1])
        yield _product((rows, x[-1], weight[-1]), call.work.dtype, signature(op), device)
    for op, call in _costliest(calls, "attention"):
        yield from _attentions(op, call, device)
    for op, call in _costliest(calls, "conv"):
        yield from _convs(op, call, device)


def _costliest(calls: Sequence[Call], family: str) -> list[tuple[Node, Call]]:
    """The operators of a family whose shapes take most time, one of each shape."""
    seconds: dict[str, float] = {}
    examples: dict[str, tuple[Node, Call]] = {}
    for call in calls:
        if call.work.family != family or call.work.dtype not in DTYPES or call.node is None:
            continue
        op = worker(call.node)
        name = signature(op)
        seconds[name] = seconds.get(name, 0.0) + call.device_s
        examples.setdefault(name, (op, call))
    ranked = sorted(seconds, key=lambda name: -seconds[name])
    return [examples[name] for name in ranked[:NUM_SHAPES]]


def _operands(op: Node) -> list[tuple[Sequence[int], Sequence[int], str]]:
    found = tensors(op)
    return found[-2:] if short(op.name) in WITH_BIAS else found[:2]


def _copy(device: torch.device) -> Candidate:
    num_bytes = 2**29 if device.type == "cuda" else 2**26

    def make() -> Callable[[], object]:
        source = torch.ones(num_bytes // 4, device=device)
        target = torch.empty_like(source)
        return lambda: target.copy_(source)

    return "copy", "", "", f"{num_bytes >> 20} MiB to {num_bytes >> 20} MiB", 2.0 * num_bytes, make


def _product(shape: tuple[int, int, int], dtype: str, name: str, device: torch.device) -> Candidate:
    rows, inner, columns = shape

    def make() -> Callable[[], object]:
        a, b = _random((rows, inner), dtype, device), _random((columns, inner), dtype, device)
        return lambda: F.linear(a, b)

    return "gemm", dtype, name, f"{rows} x {inner} x {columns}", 2.0 * rows * inner * columns, make


def _attentions(op: Node, call: Call, device: torch.device) -> Iterator[Candidate]:
    """One shape in every kernel that there is."""
    shapes = [tuple(shape) for shape, _, _ in tensors(op)[:3]]
    if len(shapes) < 3 or any(len(shape) != 4 for shape in shapes):
        return
    # Ours takes [B, N, H, D], as flash_attn does; torch's own take [B, H, N, D].
    taken = shapes if is_heads_second(op) else [(b, n, h, d) for b, h, n, d in shapes]
    dtype, flops = call.work.dtype, work_of(op).flops
    for backend in BACKENDS:

        def make(backend: str = backend) -> Callable[[], object]:
            given = [_random(shape, dtype, device) for shape in taken]
            return lambda: attention(*given, backend=backend)

        yield "attention", dtype, signature(op), backend, flops, make


def _convs(op: Node, call: Call, device: torch.device) -> Iterator[Candidate]:
    """One shape in both layouts."""
    image, weight = (tuple(shape) for shape, _, _ in tensors(op)[:2])
    is_3d = len(weight) == 5
    dtype, flops = call.work.dtype, work_of(op).flops
    last = torch.channels_last_3d if is_3d else torch.channels_last
    stride, padding, dilation = conv_arguments(op)
    for layout, memory in (("contiguous", torch.contiguous_format), ("channels_last", last)):

        def make(memory: torch.memory_format = memory) -> Callable[[], object]:
            x = _random(image, dtype, device).contiguous(memory_format=memory)
            w = _random(weight, dtype, device).contiguous(memory_format=memory)
            conv = F.conv3d if is_3d else F.conv2d
            return lambda: conv(x, w, None, stride, padding, dilation)

        yield "conv", dtype, signature(op), f"{layout}, {weight[1]} to {weight[0]} channels", flops, make


def _random(shape: Sequence[int], dtype: str, device: torch.device) -> Tensor:
    return torch.randn(tuple(shape), device=device, dtype=DTYPES[dtype])
