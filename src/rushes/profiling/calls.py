"""Every operator call of a capture: what it is, where it stands, how long the device took. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rushes.profiling.kinds import Place, kind_of, kind_of_kernel
from rushes.profiling.kineto import COMPILED, LINE, MODULE, SPAN, Capture, GpuWork, Node, union
from rushes.profiling.op_work import OpWork, conv_output, is_view, short, tensors, work_of
from rushes.profiling.rows import RowKey

NO_WORK = OpWork(flops=0.0, num_bytes=0.0, family="copy", dtype="")


@dataclass(slots=True, kw_only=True)
class Call:
    """An operator that no other operator called, or a kernel that none asked for.

    Attributes:
        key: its row of the stage table.
        device_us, host_us: of the device and of the host; equal where the host is the device, but for
            operators that touch no data, which are none of the device's.
        node: what was recorded of it, None for a kernel alone.
        factor: how often the whole clip does what this call did once.
    """

    name: str
    key: RowKey
    place: Place
    kind: str
    line: str
    device_us: float
    host_us: float
    work: OpWork
    node: Node | None
    gpu: list[GpuWork] = field(default_factory=list)
    factor: float = 1.0

    @property
    def device_s(self) -> float:
        """Of the whole clip."""
        return self.factor * self.device_us / 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """The annotations that enclose a point."""

    span: int = -1
    modules: tuple[str, ...] = ()
    line: str = ""
    is_compiled: bool = False


def calls_of(capture: Capture, rows: Mapping[int, tuple[RowKey, float]]) -> list[Call]:
    """All calls of a capture.

    Args:
        rows: by number of a span: the row of its own time, and the factor to the whole clip.
    """
    work = _by_operator(capture)
    calls = []
    for op, around in _outermost_ops(capture):
        if around.span not in rows:
            continue
        key, factor = rows[around.span]
        gpu = work.pop(id(op), [])
        call = _call(op, key, around, gpu, factor)
        if capture.is_async:
            call.device_us = sum(each.length for each in gpu)
        elif not is_view(op):
            call.device_us = op.length
        calls.append(call)
    for gpu in work.values():
        calls.extend(_kernel_calls(gpu, rows))
    return calls


def _call(op: Node, key: RowKey, around: Around, gpu: list[GpuWork], factor: float) -> Call:
    work = work_of(op)
    place = _place(key, around)
    image, weights = _conv_shapes(op)
    return Call(
        name=op.name,
        key=key,
        place=place,
        kind=kind_of(op.name, work.family, place, image, weights),
        line=around.line,
        device_us=0.0,
        host_us=op.length,
        work=work,
        node=op,
        gpu=gpu,
        factor=factor,
    )


def _place(key: RowKey, around: Around) -> Place:
    return Place(stage=key.stage, part=key.part, modules=around.modules, is_compiled=around.is_compiled)


def _conv_shapes(op: Node) -> tuple[list[int] | None, list[int] | None]:
    """What a convolution returns, whose size names its kind, and its weights."""
    for node in op.below():
        if "conv" in short(node.name) and len(found := tensors(node)) > 1:
            return conv_output(node), list(found[1][0])
    return None, None


def _outermost_ops(capture: Capture) -> Iterator[tuple[Node, Around]]:
    pending = [(root, around_of(root)) for root in reversed([*capture.roots, *capture.others])]
    while pending:
        node, around = pending.pop()
        if node.kind == "op":
            yield node, around
        elif node.kind == "note":
            within = _entered(node.name, around)
            pending.extend((child, within) for child in reversed(node.children))


def _entered(note: str, around: Around) -> Around:
    if note.startswith(SPAN):
        # Modules around a span, as of a text encoder within another module, say nothing about what is in it.
        return replace(around, span=int(note.removeprefix(SPAN)))
    if note.startswith(MODULE):
        return replace(around, modules=(*around.modules, note.removeprefix(MODULE)))
    if note.startswith(LINE):
        return replace(around, line=note.removeprefix(LINE) or around.line)
    return replace(around, is_compiled=True) if note.startswith(COMPILED) else around


def _by_operator(capture: Capture) -> dict[int, list[GpuWork]]:
    """The device's work by identity of the outermost operator that asked for it; what no operator did, by the
    launching call."""
    found: dict[int, list[GpuWork]] = {}
    for work in capture.gpu:
        if work.launcher is None:
            continue
        above = (work.launcher, *work.launcher.above())
        ops = [node for node in above if node.kind == "op"]
        found.setdefault(id(ops[-1]) if ops else id(work.launcher), []).append(work)
    return found


def _kernel_calls(gpu: list[GpuWork], rows: Mapping[int, tuple[RowKey, float]]) -> Iterator[Call]:
    for work in gpu:
        around = around_of(work.launcher)
        if around.span not in rows:
            continue
        key, factor = rows[around.span]
        place = _place(key, around)
        yield Call(
            name=work.name,
            key=key,
            place=place,
            kind=kind_of_kernel(work.name, place),
            line=around.line,
            device_us=work.length,
            host_us=0.0,
            work=NO_WORK,
            node=None,
            gpu=[work],
            factor=factor,
        )


def around_of(node: Node | None) -> Around:
    """The annotations around a node, found from within."""
    around = Around()
    for note in reversed(list(node.above()) if node is not None else []):
        if note.kind == "note":
            around = _entered(note.name, around)
    return around


def device_stretches(capture: Capture) -> list[tuple[float, float]]:
    """When the device worked within the outermost spans, whoever asked for it: merged, microseconds.

    Where the host is the device: when it was in an operator.
    """
    if not capture.is_async:
        ops = (node for node, around in _outermost_ops(capture) if around.span >= 0)
        return union([(node.start, node.end) for node in ops])
    return within_spans(capture, [(work.start, work.end) for work in capture.gpu])


def within_spans(capture: Capture, intervals: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """What of the intervals lies in the outermost spans, merged."""
    spans = union([(node.start, node.end) for root in capture.roots for node in _outermost_spans(root)])
    clipped = [
        (max(start, since), min(end, until))
        for start, end in intervals
        for since, until in spans
        if start < until and end > since
    ]
    return union(clipped)


def _outermost_spans(node: Node) -> Iterator[Node]:
    if node.kind == "note" and node.name.startswith(SPAN):
        yield node
    elif node.kind == "note":
        for child in node.children:
            yield from _outermost_spans(child)


def own_stretches(capture: Capture) -> dict[int, list[tuple[float, float]]]:
    """Of every span, by number: the stretches of time that no span within it took, microseconds."""
    stretches: dict[int, list[tuple[float, float]]] = {}
    for node in capture.nodes():
        if node.kind == "note" and node.name.startswith(SPAN):
            stretches[int(node.name.removeprefix(SPAN))] = _own(node)
    return stretches


def _own(node: Node) -> list[tuple[float, float]]:
    left, at = [], node.start
    for inner in _spans_within(node):
        if inner.start > at:
            left.append((at, inner.start))
        at = max(at, inner.end)
    if node.end > at:
        left.append((at, node.end))
    return left


def _spans_within(node: Node) -> Iterator[Node]:
    for child in node.children:
        if child.kind == "note" and child.name.startswith(SPAN):
            yield child
        elif child.kind == "note":
            yield from _spans_within(child)
