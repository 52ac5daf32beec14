"""Reads what torch.profiler (Kineto) recorded, in the Chrome trace format that it exports. No torch here.

Our own annotations lie among its events: `span:<number>` around a span of the timeline,
`module:<name>|<class>` around a module's call, `line:<file>:<number>` around a call of a torch function,
`clock:<ns>` at a known time of `perf_counter_ns`. Times here are microseconds of the trace.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

Event = Mapping[str, Any]

_HOST = {"cpu_op": "op", "user_annotation": "note", "cuda_runtime": "runtime", "cuda_driver": "runtime"}
_GPU = {"kernel": "kernel", "gpu_memcpy": "memcpy", "gpu_memset": "memset"}
SPAN, MODULE, LINE, CLOCK = "span:", "module:", "line:", "clock:"

COMPILED = "Torch-Compiled Region"
"""How the note begins that torch.compile puts around a call of compiled code."""

EXTERNAL = "External id"
"""The argument in which the device's work names the operator that was running when it was asked for."""


@dataclass(slots=True, eq=False)
class Node:
    """Something that the host did: kind "op" (a torch operator), "note" (an annotation) or "runtime" (a call
    of the CUDA runtime)."""

    name: str
    kind: str
    start: float
    end: float
    args: Mapping[str, Any]
    parent: Node | None = None
    children: list[Node] = field(default_factory=list)

    @property
    def length(self) -> float:
        """Microseconds from start to end."""
        return self.end - self.start

    def above(self) -> Iterator[Node]:
        """The nodes around it, innermost first."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    def below(self) -> Iterator[Node]:
        """Itself and everything within, in order of time."""
        yield self
        for child in self.children:
            yield from child.below()


@dataclass(slots=True, eq=False)
class GpuWork:
    """Something that the device did: kind "kernel", "memcpy" or "memset"; `launcher` is the runtime call that
    asked for it, or the operator where that call was not recorded."""

    name: str
    kind: str
    start: float
    end: float
    stream: int
    launcher: Node | None

    @property
    def length(self) -> float:
        """Microseconds from start to end."""
        return self.end - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """A recorded stretch.

    Attributes:
        roots: what the thread of the spans did.
        gpu: what the device did, in order of starts; empty where the host is the device.
        others: what other threads did that gave the device work. Each has as its parent, among whose children
            it is not, the innermost annotation that was open on the thread of the spans.
    """

    roots: list[Node]
    gpu: list[GpuWork]
    others: list[Node] = field(default_factory=list)

    def nodes(self) -> Iterator[Node]:
        """All of the host's, in order of their starts."""
        for root in self.roots:
            yield from root.below()

    @property
    def is_async(self) -> bool:
        """Whether a device ran behind the host."""
        return bool(self.gpu)


def read_capture(trace: Mapping[str, Any]) -> Capture:
    """The events of one thread as a tree, and the device's work with who asked for it.

    Args:
        trace: as `torch.profiler` exports it. The thread is the one that carries our annotations.
    """
    events = [event for event in trace.get("traceEvents", ()) if _is_complete(event)]
    threads: dict[tuple[Any, Any], list[Event]] = {}
    for event in events:
        if event.get("cat") in _HOST:
            threads.setdefault((event.get("pid"), event.get("tid")), []).append(event)
    roots = _nested(threads.pop(_our_thread(events) or (None, None), []))
    work = [event for event in events if event.get("cat") in _GPU]
    others = [root for thread in threads.values() for root in _nested(thread)] if work else []
    for root in others:
        root.parent = _note_at(roots, root.start)
    launchers = _Launchers.among([*roots, *others])
    gpu = sorted((_gpu_work(event, launchers) for event in work), key=lambda each: each.start)
    used = {id(node) for each in gpu if each.launcher for node in (each.launcher, *each.launcher.above())}
    return Capture(roots=roots, gpu=gpu, others=[root for root in others if id(root) in used])


def _note_at(roots: Sequence[Node], at: float) -> Node | None:
    """The innermost annotation around a point in time."""
    found, nodes = None, roots
    while index := bisect_right(nodes, at, key=lambda node: node.start):
        node = nodes[index - 1]
        if node.kind != "note" or node.end <= at:
            break
        found, nodes = node, node.children
    return found


def _is_complete(event: Event) -> bool:
    return event.get("ph") == "X" and "ts" in event and "dur" in event


def _our_thread(events: Sequence[Event]) -> tuple[Any, Any] | None:
    for event in events:
        if event.get("cat") == "user_annotation" and str(event["name"]).startswith((SPAN, CLOCK)):
            return event.get("pid"), event.get("tid")
    return None


def _nested(events: Sequence[Event]) -> list[Node]:
    """Events of one thread as trees: a later one that begins within another lies within it."""
    nodes = [
        Node(
            name=str(event["name"]),
            kind=_HOST[event["cat"]],
            start=float(event["ts"]),
            end=float(event["ts"]) + float(event["dur"]),
            args=event.get("args") or {},
        )
        for event in events
    ]
    # Of two that begin at once, the longer one is outside; of equal ones, the one recorded first.
    nodes.sort(key=lambda node: (node.start, -node.end))
    roots: list[Node] = []
    open_nodes: list[Node] = []
    for node in nodes:
        while open_nodes and open_nodes[-1].end <= node.start:
            open_nodes.pop()
        if open_nodes:
            node.parent = open_nodes[-1]
            node.parent.children.append(node)
        else:
            roots.append(node)
        open_nodes.append(node)
    for node in nodes:
        if node.kind == "op" and _is_wrapper(node):
            node.kind = "note"
    return roots


def _is_wrapper(op: Node) -> bool:
    """Whether it is no operator, though recorded as one, but a name around some: compiled code, or the class
    of an autograd function. Operators have a namespace."""
    if op.name.startswith(COMPILED):
        return True
    return "::" not in op.name and any(child.kind == "op" for child in op.children)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Launchers:
    """Who may have asked the device for work: calls of the runtime, by correlation, and operators, by id."""

    calls: Mapping[Any, Node]
    operators: Mapping[Any, Node]

    @staticmethod
    def among(roots: Sequence[Node]) -> _Launchers:
        """All that were recorded."""
        calls, operators = {}, {}
        for node in (node for root in roots for node in root.below()):
            if node.kind == "runtime" and "correlation" in node.args:
                calls[node.args["correlation"]] = node
            elif node.kind == "op" and EXTERNAL in node.args:
                operators[node.args[EXTERNAL]] = node
        return _Launchers(calls=calls, operators=operators)

    def of(self, args: Mapping[str, Any]) -> Node | None:
        """The call that lies within an operator; else, as not every call of a driver is recorded and clocks
        may differ, the operator itself; else whatever call there is."""
        call = self.calls.get(args.get("correlation"))
        if call is not None and any(node.kind == "op" for node in call.above()):
            return call
        return self.operators.get(args.get(EXTERNAL), call)


def _gpu_work(event: Event, launchers: _Launchers) -> GpuWork:
    args = event.get("args") or {}
    return GpuWork(
        name=str(event["name"]),
        kind=_GPU[event["cat"]],
        start=float(event["ts"]),
        end=float(event["ts"]) + float(event["dur"]),
        stream=int(args.get("stream", 0)),
        launcher=launchers.of(args),
    )


def clock_offset(capture: Capture) -> float | None:
    """What to add to seconds of `perf_counter` to get microseconds / 1e6 of the trace; None without a mark.

    The mark's name is made just before it begins, so the earliest of several begins is the truest.
    """
    offsets = [
        node.start / 1e6 - int(node.name.removeprefix(CLOCK)) / 1e9
        for node in capture.nodes()
        if node.kind == "note" and node.name.startswith(CLOCK)
    ]
    return min(offsets) if offsets else None


def union(intervals: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same stretches of time, merged where they overlap and in order."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(intervals, key=itemgetter(0)):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def without(
    stretches: Sequence[tuple[float, float]], holes: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """What of `stretches`, which do not overlap, lies in none of `holes`, which are merged and in order.

    Example:
        >>> without([(0.0, 10.0)], [(2.0, 3.0), (9.0, 12.0)])
        [(0.0, 2.0), (3.0, 9.0)]
    """
    left = []
    for start, end in stretches:
        for hole_start, hole_end in holes:
            if hole_end <= start:
                continue
            if hole_start >= end:
                break
            if hole_start > start:
                left.append((start, hole_start))
            start = max(start, hole_end)
        if start < end:
            left.append((start, end))
    return left
