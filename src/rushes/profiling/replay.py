"""What a capture would have taken without something: the host's calls and the device's queue, replayed.

The host spends time between its calls, launches work, and waits at synchronisations. The device takes work in
order, stream by stream, as soon as it has been launched. With the recorded lengths that model gives the
recorded time back; with a synchronisation left out, or with launches that cost nothing, it gives the time
without. Work of one stream that waits for another's is not modelled. No torch here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from rushes.profiling.kineto import Capture, GpuWork, Node

MAX_LAUNCH_US = 20.0
"""A launch that takes longer waited for room in the device's queue, which the replay makes by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A call of the runtime.

    Attributes:
        gap_us: what the host did between the call before and this one.
        own_us: of the call itself, waiting for the device not included.
        work: (stream, microseconds) that it launched.
        is_wait: it returns when the device is done, with what it launched itself as well.
    """

    node: Node
    gap_us: float
    own_us: float
    work: tuple[tuple[int, float], ...]
    is_wait: bool


def items_of(capture: Capture) -> list[Item]:
    """The calls that launch or wait, in order."""
    launched: dict[int, list[GpuWork]] = {}
    for each in capture.gpu:
        if each.launcher is not None:
            launched.setdefault(id(each.launcher), []).append(each)
    items: list[Item] = []
    before_us, done_us = None, 0.0
    for node in capture.nodes():
        work = launched.get(id(node), [])
        is_wait = is_blocking_copy(node.name) if work else node.kind == "runtime" and is_wait_name(node.name)
        if not work and not is_wait:
            continue
        done_us = max([done_us, *(each.end for each in work)]) if is_wait else done_us
        blocked = max(0.0, min(node.end, done_us) - node.start) if is_wait else 0.0
        own = node.length - blocked
        items.append(
            Item(
                node=node,
                gap_us=max(0.0, node.start - before_us) if before_us is not None else 0.0,
                own_us=own if is_wait else min(own, MAX_LAUNCH_US),
                work=tuple((each.stream, each.length) for each in work),
                is_wait=is_wait,
            )
        )
        before_us = node.end
        done_us = max([done_us, *(each.end for each in work)])
    return items


def is_wait_name(name: str) -> bool:
    """Whether a call of the runtime does nothing but wait for the device; a query never blocks."""
    return "Synchronize" in name


def is_blocking_copy(name: str) -> bool:
    """Whether a call of the runtime copies and returns when that is done."""
    return "Memcpy" in name and "Async" not in name


def replay(
    items: Sequence[Item],
    *,
    without: Collection[int] = (),
    freed_us: Mapping[int, float] = MappingProxyType({}),
    free_calls: Collection[int] = (),
) -> float:
    """Microseconds until host and device are done.

    Args:
        without: indices of waits that are left out; what they launch stays.
        freed_us: by index of an item, what the host no longer takes before it.
        free_calls: indices of items whose call costs the host nothing.
    """
    host, ready = 0.0, dict[int, float]()
    for index, item in enumerate(items):
        host += max(0.0, item.gap_us - freed_us.get(index, 0.0))
        for stream, length in item.work:
            ready[stream] = max(host, ready.get(stream, 0.0)) + length
        waits = item.is_wait and index not in without
        if waits:
            host = max([host, *ready.values()])
        if (waits or item.work) and index not in free_calls:
            host += item.own_us
    return max([host, *ready.values()])
