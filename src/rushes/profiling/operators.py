"""From the calls of a capture to the operator table, the raw table and the flame graph. No torch here.

A capture runs a few units; the stage table knows what the whole clip took. So each row's calls are scaled to
what the device worked for that row in the whole clip, and tables agree by construction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter

from rushes.profiling.calls import Call, device_stretches, within_spans
from rushes.profiling.kineto import Capture
from rushes.profiling.report import Flame, Operator, RawOp, Row
from rushes.profiling.rows import RowKey

GAPS = "none"
"""The resource of time around the device."""

MIN_FLAME = 2e-4
"""Share of the whole below which a node of the flame graph is left out."""

SORTS: Mapping[str, Callable[[RawOp], float]] = {
    "device_time": lambda op: op.device_s,
    "host_time": lambda op: op.host_s,
    "calls": lambda op: op.calls,
    "flops": lambda op: op.flops,
    "bytes": lambda op: op.num_bytes,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """What a capture says of one row.

    Attributes:
        busy_s: of the device, scaled to the whole clip.
        wall_s: the capture's own time for the row, scaled alike.
        units: that were captured.
    """

    busy_s: float
    wall_s: float
    units: int


def with_device(row: Row, captured: Captured | None, ideal_s: float, flops: float, *, is_async: bool) -> Row:
    """The row with the split between the device and what is around it.

    Where the host is the device both were measured by one clock in one pass, so their ratio holds. A device
    of its own takes its time whatever the recording costs the host, so its seconds hold.
    """
    if captured is None:
        return row
    share = captured.busy_s / captured.wall_s if captured.wall_s else 0.0
    device_s = captured.busy_s if is_async else row.seconds * share
    return replace(
        row,
        device_s=min(device_s, row.seconds),
        captured=captured.units,
        ideal_s=ideal_s,
        flops=flops,
    )


def scales(rows: Sequence[Row], busy_s: Mapping[RowKey, float]) -> dict[RowKey, float]:
    """By row: from captured device seconds to those of the stage table."""
    found = {}
    for row in rows:
        busy = busy_s.get(key_of(row), 0.0)
        if busy and row.device_s is not None:
            found[key_of(row)] = row.device_s / busy
    return found


def key_of(row: Row) -> RowKey:
    """The key of a row."""
    return RowKey(stage=row.stage, part=row.part)


@dataclass(slots=True, kw_only=True)
class _Sum:
    calls: float = 0.0
    seconds: float = 0.0
    flops: float = 0.0
    num_bytes: float = 0.0
    ideal_s: float = 0.0
    resources: dict[str, float] = field(default_factory=dict)

    def add(self, call: Call, seconds: float, ideal_s: float) -> None:
        self.calls += call.factor
        self.seconds += seconds
        self.flops += call.factor * call.work.flops
        self.num_bytes += call.factor * call.work.num_bytes
        self.ideal_s += call.factor * ideal_s
        family = call.work.family
        self.resources[family] = self.resources.get(family, 0.0) + seconds


def operator_table(
    calls: Sequence[Call],
    scale: Mapping[RowKey, float],
    rows: Sequence[Row],
    ideal_s: Callable[[Call], float],
    *,
    is_async: bool,
) -> tuple[Operator, ...]:
    """Kinds by stage, costliest first; of each stage, what is around the device comes as a kind of its own,
    so that a stage's kinds add up to its wall time."""
    sums: dict[tuple[str, str], _Sum] = {}
    for call in calls:
        if call.key in scale and call.device_us:
            total = sums.setdefault((call.key.stage, call.kind), _Sum())
            total.add(call, call.device_s * scale[call.key], ideal_s(call))
    table = [
        Operator(
            stage=stage,
            kind=kind,
            calls=round(total.calls),
            seconds=total.seconds,
            flops=total.flops,
            num_bytes=total.num_bytes,
            resource=max(total.resources, key=lambda name: total.resources[name]),
            ideal_s=total.ideal_s,
        )
        for (stage, kind), total in sums.items()
        if total.seconds
    ]
    return tuple(sorted([*table, *_gaps(rows, is_async=is_async)], key=lambda operator: -operator.seconds))


def _gaps(rows: Sequence[Row], *, is_async: bool) -> list[Operator]:
    around: dict[str, float] = {}
    for row in rows:
        if row.around_s:
            around[row.stage] = around.get(row.stage, 0.0) + row.around_s
    kind = "launch gaps and host" if is_async else "Python and host"
    return [
        Operator(
            stage=stage, kind=kind, calls=0, seconds=seconds, flops=0, num_bytes=0, resource=GAPS, ideal_s=0
        )
        for stage, seconds in around.items()
    ]


def explained(calls: Sequence[Call], scale: Mapping[RowKey, float], capture: Capture) -> float:
    """Share of all that the device worked in the capture, attributed or not, that has a kind with a name."""
    every_us = _length(device_stretches(capture))
    named = [call for call in calls if call.key in scale and call.kind != "other"]
    intervals = [interval for call in named for interval in _intervals(call, is_async=capture.is_async)]
    return min(1.0, _length(within_spans(capture, intervals)) / every_us) if every_us else 1.0


def _intervals(call: Call, *, is_async: bool) -> list[tuple[float, float]]:
    if is_async or call.node is None:
        return [(work.start, work.end) for work in call.gpu]
    return [(call.node.start, call.node.end)]


def _length(stretches: Sequence[tuple[float, float]]) -> float:
    return sum(end - start for start, end in stretches)


# Single operators and kernels.


def raw_table(calls: Sequence[Call], scale: Mapping[RowKey, float], *, is_async: bool) -> list[RawOp]:
    """Kernels where there is a device of its own, else operators by their own time; costliest first."""
    found: dict[tuple[str, str, str, str], RawOp] = {}
    for call in calls:
        if call.key not in scale or not call.device_us:
            continue
        pieces = _pieces(call, is_async=is_async)
        # Of several kernels the longest does the work; the others prepare it.
        main = max(pieces, key=itemgetter(1)) if is_async and pieces else None
        for each in pieces:
            name, device_us, host_us = each
            factor = call.factor * scale[call.key] / 1e6
            is_whole = each is main if is_async else name == call.name
            piece = RawOp(
                name=name,
                stage=call.key.stage,
                kind=call.kind,
                where=call.place.where,
                line=call.line,
                calls=round(call.factor),
                device_s=device_us * factor,
                host_s=host_us * factor,
                flops=call.factor * call.work.flops if is_whole else 0.0,
                num_bytes=call.factor * call.work.num_bytes if is_whole else 0.0,
            )
            key = (name, piece.stage, piece.where, piece.line)
            found[key] = _joined(found[key], piece) if key in found else piece
    return sorted(found.values(), key=lambda op: -op.device_s)


def _pieces(call: Call, *, is_async: bool) -> list[tuple[str, float, float]]:
    """Name, device and host microseconds of what a call is made of."""
    if is_async or call.node is None:
        share = call.host_us / max(1, len(call.gpu))
        return [(work.name, work.length, share) for work in call.gpu]
    pieces: dict[str, float] = {}
    for node in call.node.below():
        if node.kind == "op":
            own = node.length - sum(child.length for child in node.children if child.kind == "op")
            pieces[node.name] = pieces.get(node.name, 0.0) + own
    return [(name, own, own) for name, own in pieces.items()]


def _joined(a: RawOp, b: RawOp) -> RawOp:
    return replace(
        a,
        calls=a.calls + b.calls,
        device_s=a.device_s + b.device_s,
        host_s=a.host_s + b.host_s,
        flops=a.flops + b.flops,
        num_bytes=a.num_bytes + b.num_bytes,
    )


# The flame graph.


def flame_graph(calls: Sequence[Call], scale: Mapping[RowKey, float]) -> Flame:
    """Device seconds by stage, part, module and operator; numbered modules of one kind are one."""
    tree: dict[str, _Node] = {}
    for call in calls:
        if call.key in scale:
            _add(tree, _stack_of(call), call.device_s * scale[call.key])
    total = sum(node.seconds for node in tree.values())
    return Flame(name="device", seconds=total, children=_frozen(tree, MIN_FLAME * total))


@dataclass(slots=True, kw_only=True)
class _Node:
    seconds: float = 0.0
    children: dict[str, _Node] = field(default_factory=dict)


def _stack_of(call: Call) -> list[str]:
    names = [_module_label(module) for module in call.place.modules]
    line = [call.line] if call.line else []
    return [call.key.stage, call.key.part, *names, *line, call.name]


def _module_label(module: str) -> str:
    name, _, class_name = module.partition("|")
    last = re.sub(r"\.\d+(?=\.|$)", ".*", name)
    parts = [part for part in last.split(".") if part]
    tail = ".".join(parts[-2:]) if parts and parts[-1] == "*" else (parts[-1] if parts else "")
    return f"{tail} ({class_name})" if tail else class_name


def _add(tree: dict[str, _Node], stack: Sequence[str], seconds: float) -> None:
    for name in stack:
        node = tree.setdefault(name, _Node())
        node.seconds += seconds
        tree = node.children


def _frozen(tree: Mapping[str, _Node], least_s: float) -> tuple[Flame, ...]:
    ranked = sorted(tree.items(), key=lambda item: -item[1].seconds)
    return tuple(
        Flame(name=name, seconds=node.seconds, children=_frozen(node.children, least_s))
        for name, node in ranked
        if node.seconds > least_s
    )


def top(ops: Sequence[RawOp], sort: str, limit: int) -> tuple[RawOp, ...]:
    """The first `limit` by one of `SORTS`."""
    return tuple(sorted(ops, key=SORTS[sort], reverse=True)[:limit])
