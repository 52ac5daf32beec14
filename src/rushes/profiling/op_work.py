"""What a torch operator asks of a device, from the shapes that the profiler recorded. No torch here.

A multiply-add is 2 operations, as in `rushes.engine.work`, with whose formulas for whole forwards these
agree. Bytes count each tensor once, read or written, whatever the kernel really moves: what lies above that
is the kernel's to lose.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rushes.profiling.kineto import Node

ITEM_BYTES = {
    "double": 8,
    "long int": 8,
    "long": 8,
    "c10::complex<double>": 16,
    "c10::complex<float>": 8,
    "float": 4,
    "int": 4,
    "c10::BFloat16": 2,
    "c10::Half": 2,
    "short int": 2,
    "unsigned char": 1,
    "signed char": 1,
    "bool": 1,
    "c10::Float8_e4m3fn": 1,
    "c10::Float8_e5m2": 1,
}
DTYPES = {"double": "float64", "float": "float32", "c10::BFloat16": "bfloat16", "c10::Half": "float16"}
_FLOAT8 = "c10::Float8"

_NAMES = {
    "views": "view reshape _reshape_alias transpose t permute movedim expand expand_as slice select unsqueeze"
    " squeeze as_strided chunk split split_with_sizes unbind tensor_split flatten unflatten detach detach_"
    " alias narrow view_as empty empty_like empty_strided new_empty resolve_conj resolve_neg lift_fresh"
    " result_type resize_ view_as_real view_as_complex real imag unfold size stride item is_nonzero set_"
    " _local_scalar_dense _unsafe_view numpy_T _efficientzerotensor",
    "reductions": "sum mean amax amin max min argmax argmin any all norm linalg_vector_norm std var",
    "plain copies": "to _to_copy contiguous clone reshape copy_ float bfloat16 half double type_as",
}
VIEWS, REDUCTIONS, PLAIN_COPIES = (frozenset(names.split()) for names in _NAMES.values())
"""Operators that touch no data; that shrink it; that are a copy at most."""

WITH_BIAS = frozenset(("addmm", "_addmm_activation", "baddbmm"))
"""Products whose first operand is what they are added to."""

Dims = Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpWork:
    """Operations and bytes of one call.

    Attributes:
        family: gemm, attention, conv, or copy for everything that memory decides.
        dtype: of the operands, as torch names it; empty where no tensor tells.
    """

    flops: float
    num_bytes: float
    family: str
    dtype: str


def short(name: str) -> str:
    """`aten::_softmax` -> `_softmax`."""
    return name.rsplit("::", 1)[-1]


def work_of(op: Node) -> OpWork:
    """The work of an operator with everything that it calls."""
    leaves = _costly(op)
    flops = sum(_FLOPS[_table_name(node)](node) for node in leaves)
    families = {_FAMILY[_table_name(node)] for node in leaves}
    order = ("attention", "conv", "gemm")
    family = next((each for each in order if each in families), "copy")
    return OpWork(flops=flops, num_bytes=_bytes(op, leaves), family=family, dtype=dtype_of(op))


def _costly(op: Node) -> list[Node]:
    """The operators within that a formula is known for, outermost ones only."""
    if _table_name(op) in _FLOPS and _has_shapes(op):
        return [op]
    return [leaf for child in op.children if child.kind != "runtime" for leaf in _costly(child)]


def _has_shapes(op: Node) -> bool:
    return len(tensors(op)) > 1


def _table_name(op: Node) -> str:
    name = short(op.name)
    if "flash_attn" in op.name or name.startswith(("_scaled_dot_product", "_flash_attention", "sageattn")):
        return "heads_second" if "flash_attn" in op.name or "sage" in name else "attention"
    return name


def is_heads_second(op: Node) -> bool:
    """Whether an attention takes [B, N, H, D], heads behind tokens, and not [B, H, N, D]."""
    return _table_name(op) == "heads_second"


def tensors(op: Node) -> list[tuple[Dims, Dims, str]]:
    """Shape, strides and type of each tensor argument; of those in lists the type is not recorded."""
    dims, types = op.args.get("Input Dims") or (), op.args.get("Input type") or ()
    strides = op.args.get("Input Strides") or [[]] * len(dims)
    found: list[tuple[Dims, Dims, str]] = []
    for shape, stride, kind in zip(dims, strides, types, strict=False):
        if kind in ITEM_BYTES or kind.startswith(_FLOAT8):
            found.append((shape, stride, kind))
        elif kind == "TensorList":
            strided = stride or [[]] * len(shape)
            found.extend((each, each_stride, "") for each, each_stride in zip(shape, strided, strict=False))
    return found


def dtype_of(op: Node) -> str:
    """The narrowest floating-point type among the operands: what a matrix unit would work in."""
    kinds = [kind for node in op.below() for _, _, kind in tensors(node) if kind]
    if any(kind.startswith(_FLOAT8) for kind in kinds):
        return "float8"
    floats = [kind for kind in kinds if kind in DTYPES]
    return DTYPES[min(floats, key=lambda kind: ITEM_BYTES[kind])] if floats else ""


def _concrete(op: Node, index: int, default: list[int]) -> list[int]:
    """A list argument, which the profiler records as text; the scalar 2 stands for [2]."""
    values = op.args.get("Concrete Inputs") or ()
    try:
        value = json.loads(values[index])
    except (IndexError, ValueError, TypeError):
        return default
    return value if isinstance(value, list) else [value]


# Operations.


def _mm(op: Node) -> float:
    (a, _, _), (b, _, _) = tensors(op)[-2:] if short(op.name) in WITH_BIAS else tensors(op)[:2]
    return 2.0 * math.prod(a) * b[-1]


def _bmm(op: Node) -> float:
    (a, _, _), (b, _, _) = tensors(op)[-2:] if short(op.name) in WITH_BIAS else tensors(op)[:2]
    return 2.0 * math.prod(a) * b[-1]


def _linear(op: Node) -> float:
    (x, _, _), (weight, _, _) = tensors(op)[:2]
    return 2.0 * math.prod(x) * weight[0]


def _grouped(op: Node) -> float:
    """Rows in runs, each times its own matrix: x [M, a], weights [E, a, b]."""
    (x, _, _), (weights, _, _) = tensors(op)[:2]
    return 2.0 * math.prod(x) * weights[-1]


def _attention(op: Node) -> float:
    """q [..., N, D], k and v [..., M, D]."""
    (q, _, _), (k, _, _), (v, _, _) = tensors(op)[:3]
    return 2.0 * math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _attention_heads_second(op: Node) -> float:
    """q [B, N, H, D], k and v [B, M, H, D]."""
    (q, _, _), (k, _, _), (v, _, _) = tensors(op)[:3]
    return 2.0 * math.prod(q[:-1]) * k[1] * (q[-1] + v[-1])


def conv_output(op: Node) -> list[int]:
    """Shape of what a convolution returns."""
    (x, _, _), (weight, _, _) = tensors(op)[:2]
    rank = len(weight) - 2
    stride, padding, dilation = conv_arguments(op)
    sizes = [
        (x[2 + axis] + 2 * padding[axis] - dilation[axis] * (weight[2 + axis] - 1) - 1) // stride[axis] + 1
        for axis in range(rank)
    ]
    return [x[0], weight[0], *sizes]


def conv_arguments(op: Node) -> tuple[list[int], list[int], list[int]]:
    """Stride, padding and dilation of a convolution, a value for each axis."""
    rank = len(tensors(op)[1][0]) - 2
    found = (_concrete(op, index, [default]) for index, default in ((3, 1), (4, 0), (5, 1)))
    stride, padding, dilation = (
        values if len(values) == rank else [int(values[0])] * rank for values in found
    )
    return stride, padding, dilation


def _conv(op: Node) -> float:
    (_, _, _), (weight, _, _) = tensors(op)[:2]
    return 2.0 * math.prod(conv_output(op)) * math.prod(weight[1:])


_FLOPS: Mapping[str, Callable[[Node], float]] = {
    **dict.fromkeys(("mm", "addmm", "_addmm_activation", "_scaled_mm", "_int_mm"), _mm),
    **dict.fromkeys(("bmm", "baddbmm"), _bmm),
    **dict.fromkeys(("_grouped_mm", "_scaled_grouped_mm"), _grouped),
    "mkldnn_linear": _linear,
    "attention": _attention,
    "heads_second": _attention_heads_second,
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution", "_convolution"), _conv),
}
_FAMILY = {
    **dict.fromkeys(("attention", "heads_second", "scaled_dot_product_attention"), "attention"),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution", "_convolution"), "conv"),
    **dict.fromkeys(
        (
            *("mm", "addmm", "_addmm_activation", "_scaled_mm", "_int_mm"),
            *("bmm", "baddbmm", "_grouped_mm", "_scaled_grouped_mm"),
        ),
        "gemm",
    ),
    "mkldnn_linear": "gemm",
}


# Bytes.


def is_view(op: Node) -> bool:
    """Whether an operator, with all that it calls, touches no data."""
    return all(short(node.name) in VIEWS or node.kind != "op" for node in op.below())


def _bytes(op: Node, leaves: Sequence[Node]) -> float:
    if leaves:
        return sum(_read(node) + _product_bytes(node) for node in leaves)
    name = short(op.name)
    copies = [node for node in op.below() if short(node.name) == "copy_"]
    if name in PLAIN_COPIES:
        return sum(_read(node) for node in copies[:1])  # its arguments are target and source
    if is_view(op):
        return 0.0
    return _read(op) + _written(op, name)


def _read(op: Node) -> float:
    """Of all arguments. What an expanded one repeats is read once."""
    return float(sum(_num_bytes(*tensor) for tensor in _arrays(op)))


def _arrays(op: Node) -> list[tuple[Dims, Dims, str]]:
    """The tensor arguments that are more than a number."""
    return [tensor for tensor in tensors(op) if tensor[0]]


def _num_bytes(shape: Dims, strides: Dims, kind: str) -> int:
    sizes = [size for size, stride in zip(shape, strides, strict=False) if stride != 0] if strides else shape
    return math.prod(sizes) * _item_bytes(kind)


def _item_bytes(kind: str) -> int:
    return 1 if kind.startswith(_FLOAT8) else ITEM_BYTES.get(kind, 4)


def _product_bytes(op: Node) -> float:
    """What a product, an attention or a convolution writes."""
    found, name = tensors(op), _table_name(op)
    item = _item_bytes(found[0][2])
    if _FAMILY[name] == "attention":
        return float(math.prod(found[0][0]) * item)
    if _FAMILY[name] == "conv":
        return float(math.prod(conv_output(op)) * item)
    return _FLOPS[name](op) / 2 / max(1, _inner(op)) * item


def _inner(op: Node) -> int:
    """The dimension that a product sums over."""
    operands = tensors(op)
    first = operands[-2] if short(op.name) in WITH_BIAS else operands[0]
    return first[0][-1]


def _written(op: Node, name: str) -> float:
    """What an operator that is no product writes."""
    found = _arrays(op)
    if not found:
        return 0.0
    first = _num_bytes(*found[0])
    if name in REDUCTIONS:
        return 0.0
    if name in ("cat", "stack"):
        return float(sum(_num_bytes(*tensor) for tensor in found))
    if "upsample" in name or "interpolate" in name:
        return float(_upsampled(op, found[0]))
    if name in ("embedding", "index_select", "gather", "index"):
        return float(_num_bytes(*found[-1]))
    shapes = [math.prod(shape) for shape, _, _ in found]
    items = max(_item_bytes(kind) for _, _, kind in found)
    return float(max(first, max(shapes) * items))


def _upsampled(op: Node, image: tuple[Dims, Dims, str]) -> int:
    """Bytes of the larger image: a call within records its size, else it is twice as large each way."""
    shape, _, kind = image
    for node in op.below():
        size = _concrete(node, 1, [])
        if len(size) == len(shape) - 2:
            return math.prod((*shape[:2], *size)) * _item_bytes(kind)
    return int(2 ** (len(shape) - 2) * math.prod(shape)) * _item_bytes(kind)
