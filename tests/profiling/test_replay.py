"""What a call of the runtime is to the replay: work, a wait, or both."""

from __future__ import annotations

import pytest

from rushes.profiling.kineto import Capture, GpuWork, Node
from rushes.profiling.replay import items_of, replay


def call(name: str, start: float, end: float) -> Node:
    return Node(name=name, kind="runtime", start=start, end=end, args={})


def work(launcher: Node, start: float, end: float) -> GpuWork:
    return GpuWork(name="k", kind="kernel", start=start, end=end, stream=7, launcher=launcher)


def test_a_query_never_waits() -> None:
    launch, query = call("cudaLaunchKernel", 0, 5), call("cudaEventQuery", 10, 12)
    wait = call("cudaEventSynchronize", 20, 105)
    items = items_of(Capture(roots=[launch, query, wait], gpu=[work(launch, 5, 100)]))
    assert [(item.node.name, item.is_wait) for item in items] == [
        ("cudaLaunchKernel", False),
        ("cudaEventSynchronize", True),
    ]


@pytest.mark.parametrize(
    ("name", "is_wait"),
    [
        ("cudaMemcpy", True),
        ("cuMemcpyDtoH_v2", True),
        ("cudaMemcpyAsync", False),
        ("cuMemcpyDtoHAsync_v2", False),
    ],
)
def test_a_blocking_copy_is_work_and_wait(name: str, is_wait: bool) -> None:
    launch, copy, later = (
        call("cudaLaunchKernel", 0, 5),
        call(name, 10, 215),
        call("cudaLaunchKernel", 315, 320),
    )
    gpu = [work(launch, 0, 100), work(copy, 100, 210), work(later, 315, 325)]
    items = items_of(Capture(roots=[launch, copy, later], gpu=gpu))
    assert [item.is_wait for item in items] == [False, is_wait, False]
    assert [len(item.work) for item in items] == [1, 1, 1]
    if is_wait:
        assert items[1].own_us == 5
        assert replay(items) == 325
        # The copy is still made, behind the kernel; only the host goes on.
        assert replay(items, without=[1]) == 220
