"""Shapes tried alone: those that the recorded operators had, whatever order their dimensions have."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rushes.profiling import ceilings
from rushes.profiling.calls import Call
from rushes.profiling.kinds import Place
from rushes.profiling.kineto import Node
from rushes.profiling.op_work import work_of
from rushes.profiling.rows import RowKey


def attention_call(name: str, query: list[int], key: list[int]) -> Call:
    args = {"Input Dims": [query, key, key], "Input type": ["float"] * 3}
    node = Node(name=name, kind="op", start=0.0, end=100.0, args=args)
    return Call(
        name=name,
        key=RowKey(stage="denoise", part="conditional"),
        place=Place(stage="denoise", part="conditional", modules=()),
        kind="self-attention",
        line="",
        device_us=100.0,
        host_us=100.0,
        work=work_of(node),
        node=node,
    )


@pytest.mark.parametrize(
    ("name", "query", "key"),
    [
        ("flash_attn::_flash_attn_forward", [2, 16, 3, 8], [2, 24, 3, 8]),
        ("aten::scaled_dot_product_attention", [2, 3, 16, 8], [2, 3, 24, 8]),
    ],
)
def test_attention_is_tried_with_its_tokens_and_heads(
    name: str, query: list[int], key: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = set()

    def attention(q: Tensor, k: Tensor, v: Tensor, *, backend: str) -> Tensor:
        shapes.add((tuple(q.shape), tuple(k.shape), tuple(v.shape)))
        return q

    monkeypatch.setattr(ceilings, "attention", attention)
    found = ceilings.measure_ceilings([attention_call(name, query, key)], torch.device("cpu"), budget_s=0.0)
    assert shapes == {((2, 16, 3, 8), (2, 24, 3, 8), (2, 24, 3, 8))}
    trials = [trial for trial in found.trials if trial.resource == "attention"]
    assert trials
    for trial in trials:
        assert trial.rate * trial.seconds == pytest.approx(4 * 2 * 3 * 16 * 24 * 8)
