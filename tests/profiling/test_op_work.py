"""Operations and bytes from recorded shapes: against torch's own counter and the engine's formulas."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rushes.engine.shapes import UMT5_XXL, ModelShape
from rushes.engine.vae_work import decode_work
from rushes.engine.work import forward_work
from rushes.profiling.capture import record
from rushes.profiling.kineto import Node, read_capture
from rushes.profiling.op_work import dtype_of, work_of
from tiny_parts import ROUTED, TRANSFORMER, VAE


def outermost(work: Callable[[], object]) -> list[Node]:
    """The operators that `work` calls."""
    with torch.no_grad():
        recorded = record(lambda notes: work(), is_cuda=False)
    return [node for root in recorded.capture.roots for node in operators(root)]


def operators(node: Node) -> list[Node]:
    if node.kind == "op":
        return [node]
    return [op for child in node.children for op in operators(child)]


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(shape)


PRODUCTS: dict[str, Callable[[], object]] = {
    "linear": lambda: F.linear(randn(2, 5, 8), randn(12, 8), randn(12)),
    "matmul": lambda: randn(3, 4, 5) @ randn(3, 5, 6),
    "addmm": lambda: torch.addmm(randn(6), randn(4, 5), randn(5, 6)),
    "einsum": lambda: torch.einsum("ab,cb->ac", randn(7, 3), randn(5, 3)),
    "conv2d": lambda: F.conv2d(randn(2, 3, 9, 11), randn(4, 3, 3, 3), stride=2, padding=1),
    "conv3d": lambda: F.conv3d(randn(1, 3, 4, 6, 8), randn(5, 3, 3, 3, 3), padding=(0, 1, 1)),
    "attention": lambda: F.scaled_dot_product_attention(
        randn(2, 3, 16, 8), randn(2, 3, 24, 8), randn(2, 3, 24, 8)
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_operations_are_those_of_torchs_counter(name: str) -> None:
    work = PRODUCTS[name]
    # It knows no attention kernel of the CPU, but the products that attention is made of.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        work()
    found = sum(work_of(op).flops for op in outermost(work))
    assert found == counter.get_total_flops() > 0


@pytest.mark.parametrize(
    ("name", "family"), [("linear", "gemm"), ("conv3d", "conv"), ("attention", "attention")]
)
def test_families_and_dtypes(name: str, family: str) -> None:
    op = next(op for op in outermost(PRODUCTS[name]) if work_of(op).flops)
    assert (work_of(op).family, dtype_of(op)) == (family, "float32")


MOVES: dict[str, tuple[Callable[[torch.Tensor], object], int]] = {
    "view": (lambda x: x.transpose(0, 1).unflatten(0, (4, 4)), 0),
    "add": (lambda x: x + x, 3 * 8 * 16 * 4),
    "copy": (lambda x: x.clone(), 2 * 8 * 16 * 4),
    "no copy": (lambda x: x.contiguous(), 0),
    "cast": (lambda x: x.bfloat16(), 8 * 16 * (4 + 2)),
    "cat": (lambda x: torch.cat([x, x]), 2 * 2 * 8 * 16 * 4),
    "sum": (lambda x: x.sum(), 8 * 16 * 4),
    "an expanded operand is read once": (lambda x: x[:1].expand(8, 16) * 2.0, 4 * (16 + 8 * 16)),
    "softmax": (lambda x: x.softmax(-1), 2 * 8 * 16 * 4),
}


@pytest.mark.parametrize("name", MOVES)
def test_bytes_count_each_tensor_once(name: str) -> None:
    work, expected = MOVES[name]
    x = randn(8, 16)
    assert sum(work_of(op).num_bytes for op in outermost(lambda: work(x))) == expected


@pytest.mark.parametrize(("name", "steps"), [("dense", 3), ("routed", 7)])
def test_a_profiles_operations_are_those_of_the_cost_model(
    name: str, steps: int, request: pytest.FixtureRequest
) -> None:
    """Of a whole run, and extrapolated from a short one."""
    run = request.getfixturevalue(name).run
    transformer = TRANSFORMER if name == "dense" else ROUTED
    shape = ModelShape(transformer=transformer, vae=VAE, text=UMT5_XXL, vae_parameters=0)
    video = run.request["video"]
    tokens = 3 * 2 * 4
    forwards = {row.part: row for row in run.rows if row.stage == "denoise"}
    # The cost model counts the model's own text length; these embeddings are shorter.
    texts = 4 * tokens * (6 - transformer.text_len) * transformer.dim * transformer.num_layers
    expected = steps * (forward_work(shape, tokens).flops + texts)
    assert forwards["conditional"].flops == pytest.approx(expected, rel=0.02)
    decode = sum(row.flops or 0.0 for row in run.rows if row.stage == "vae_decode")
    rows, columns = video["height"] // 2, video["width"] // 2
    first, other = (
        decode_work(VAE, rows, columns, is_first=is_first, value_bytes=4).work.flops
        for is_first in (True, False)
    )
    assert decode == pytest.approx(first + 2 * other, rel=0.02)


def test_shapes_that_were_not_recorded_are_no_error() -> None:
    trace = {
        "traceEvents": [
            {"ph": "X", "cat": "user_annotation", "name": "span:0", "ts": 0, "dur": 10, "pid": 1, "tid": 1},
            {"ph": "X", "cat": "cpu_op", "name": "aten::mm", "ts": 1, "dur": 5, "pid": 1, "tid": 1},
            {"ph": "X", "cat": "cpu_op", "name": "custom::op", "ts": 7, "dur": 1, "pid": 1, "tid": 1},
            {"ph": "M", "name": "process_name"},
        ]
    }
    (root,) = read_capture(trace).roots
    assert [work_of(op).flops for op in operators(root)] == [0.0, 0.0]
