"""One field of a request at several values: how time and memory grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rushes.errors import InvalidRequest, UnknownName
from rushes.pipelines.model import Model
from rushes.pipelines.rules import PipelineRules
from rushes.profiling.clip import Ask
from rushes.profiling.growth import growths
from rushes.profiling.report import Run, Sweep
from rushes.profiling.session import Options, profile
from rushes.profiling.subject import Rushes

SIZES = ("num_frames", "width", "height")
"""Fields whose growth is told in tokens."""


def parse_sweep(text: str, rules: PipelineRules) -> tuple[str, tuple[float, ...]]:
    """`FIELD=V,V,V` as a field and its values, smallest first.

    Raises:
        InvalidRequest: the field is unknown or no number, a value breaks its rule or is not above 0, or there
            is only one.

    Example:
        >>> from rushes.pipelines.rules import load_rules
        >>> parse_sweep("num_frames=33,17", load_rules("toy"))
        ('num_frames', (17, 33))
    """
    name, _, listed = text.partition("=")
    fields = {each: field for each, field in rules.fields.items() if field.type is not str and each != "seed"}
    if name not in fields:
        raise UnknownName("sweep", name, fields)
    try:
        given = [fields[name].type(value) for value in listed.split(",")]
    except ValueError as error:
        raise InvalidRequest("sweep", f"{text!r}: not numbers between commas") from error
    values = sorted({float(fields[name].check(value)) for value in given})
    if any(value <= 0 for value in values):
        raise InvalidRequest(
            "sweep", f"{text!r}: growth is fitted over logarithms: every value must be above 0"
        )
    if len(values) < 2:
        raise InvalidRequest("sweep", f"{text!r}: needs two values at least")
    return name, tuple(values)


def sweep(
    net: Model,
    ask: Ask,
    field: str,
    values: Sequence[float],
    options: Options,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[tuple[Run, ...], Sweep]:
    """Profile the clip at every value, one after another.

    Raises:
        InvalidRequest: the clip cannot be made at a value.
    """
    kind = net.rules.fields[field].type
    asks = [replace(ask, fields={**ask.fields, field: kind(value)}) for value in values]
    for each in asks:
        net.job(each.prompt, **each.fields)  # what cannot be made is told before anything runs
    runs = tuple(
        profile([Rushes(net=net, ask=each, label=f"{field}={value:g}")], options, say)[0].run
        for each, value in zip(asks, values, strict=True)
    )
    sizes = _sizes(net, asks, field, values)
    return runs, Sweep(
        field=field,
        values=tuple(values),
        size_name="tokens" if field in SIZES else field,
        sizes=sizes,
        growths=growths(runs, sizes),
        peak_bytes=tuple(max((peak.num_bytes for peak in run.peaks), default=0) for run in runs),
    )


def _sizes(net: Model, asks: Sequence[Ask], field: str, values: Sequence[float]) -> tuple[float, ...]:
    if field not in SIZES:
        return tuple(values)
    return tuple(
        float(net.rules.num_tokens(net.job(each.prompt, **each.fields).request.video)) for each in asks
    )
