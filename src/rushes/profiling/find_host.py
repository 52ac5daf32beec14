"""Findings about the host: where it keeps the device waiting. No torch here."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rushes.profiling.calls import around_of, own_stretches
from rushes.profiling.evidence import Evidence
from rushes.profiling.gaps import LONG_US, RowGaps, gaps_of
from rushes.profiling.kineto import union
from rushes.profiling.op_work import short
from rushes.profiling.operators import key_of
from rushes.profiling.replay import Item, items_of, replay
from rushes.profiling.report import Finding, Row
from rushes.profiling.rows import RowKey
from rushes.profiling.words import percent, seconds

TELLING = 0.2
"""Share of the looks at the host from which on a line is worth naming."""

Site = tuple[RowKey, str]


def host_findings(evidence: Evidence) -> Iterator[Finding]:
    """Rows in which the host does something else for long, or that are the host's alone.

    A device with a queue of its own may work on meanwhile: of rows that give it work, `queue_findings` tells.
    """
    gaps = gaps_of(evidence.capture, evidence.calls, evidence.samples, evidence.places)
    for row in evidence.rows:
        around = row.around_s
        if around is None or (evidence.is_async and row.device_s):
            continue
        found = gaps.get(key_of(row), RowGaps(long_s=around))
        yield from _row_findings(row, around, found)


def _row_findings(row: Row, around_s: float, gaps: RowGaps) -> Iterator[Finding]:
    # What has nothing for the device is the host's work, however it is cut.
    long_s = around_s * (gaps.long_share if row.device_s else 1.0)
    what = f"{row.name} takes {seconds(row.seconds)}, in which the device has nothing to do"
    if row.device_s:
        what = (
            f"{row.name} takes {seconds(row.seconds)}, of which the device works"
            f" {percent(row.device_s / row.seconds)}: the host is busy elsewhere for {seconds(long_s)}"
        )
    yield Finding(
        category="host",
        stage=row.stage,
        subject=row.name,
        text=f"{what}{_at(gaps)}. Done beside the device's work, or not at all, that would save"
        f" about {seconds(long_s)}.",
        saving_s=long_s,
    )
    short_s = around_s - long_s
    yield Finding(
        category="launches",
        stage=row.stage,
        subject=row.name,
        text=f"{row.name} spends {seconds(short_s)} of {seconds(row.seconds)} between operators, in Python"
        f" and dispatch{_at(gaps)}. Fewer, larger operators (torch.compile) would save up to that.",
        saving_s=short_s,
    )


def _at(gaps: RowGaps) -> str:
    main = gaps.main_line()
    is_telling = main is not None and main[1] >= TELLING
    return f", seen at {main[0]} in {percent(main[1])} of the looks" if main and is_telling else ""


def queue_findings(evidence: Evidence) -> Iterator[Finding]:
    """Waits and launches of a device with a queue of its own, stage by stage.

    Stages may take turns, so every replay is of the whole capture, without something of one stage. What is
    told of a stage adds up to its seconds at most.
    """
    items = items_of(evidence.capture)
    stretches = _stretches_by_stage(evidence)
    members: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        place = evidence.places.get(around_of(item.node).span)
        if place is not None:
            members.setdefault(place[0].stage, []).append(index)
    base_us = replay(items) if members else 0.0
    for stage, indices in members.items():
        part = _Part(
            stage=stage,
            items=items,
            members=indices,
            gaps_us=_gaps_within(items, stretches.get(stage, [])),
            factor=_mean_factor([items[index] for index in indices], evidence),
        )
        left_s = sum(row.seconds for row in evidence.rows if row.stage == stage)
        for finding in _stage_findings(part, base_us, evidence):
            saving_s = min(finding.saving_s, left_s)
            left_s -= max(0.0, saving_s)
            yield finding if saving_s == finding.saving_s else _capped(finding, saving_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """What a stage has of a capture.

    Attributes:
        items: of the whole capture.
        members: indices of those that the stage called.
        gaps_us: by index, how much of the gap before an item lies in the stage's own spans.
        factor: from the captured units to the whole clip.
    """

    stage: str
    items: Sequence[Item]
    members: Sequence[int]
    gaps_us: Mapping[int, float]
    factor: float


def _stretches_by_stage(evidence: Evidence) -> dict[str, list[tuple[float, float]]]:
    """When each stage ran, in order."""
    found: dict[str, list[tuple[float, float]]] = {}
    for number, stretches in own_stretches(evidence.capture).items():
        if number in evidence.places:
            found.setdefault(evidence.places[number][0].stage, []).extend(stretches)
    return {stage: union(stretches) for stage, stretches in found.items()}


def _gaps_within(items: Sequence[Item], stretches: Sequence[tuple[float, float]]) -> dict[int, float]:
    """By index: microseconds of the gap before an item that lie in the stretches, which are in order."""
    found = {}
    for index, item in enumerate(items):
        end = item.node.start
        start = end - item.gap_us
        first = bisect_left(stretches, start, key=lambda stretch: stretch[1])
        last = bisect_left(stretches, end, key=lambda stretch: stretch[0])
        found[index] = sum(min(end, until) - max(start, since) for since, until in stretches[first:last])
    return found


def _capped(finding: Finding, saving_s: float) -> Finding:
    text = finding.text.replace(seconds(finding.saving_s), seconds(saving_s))
    return replace(finding, saving_s=saving_s, text=text)


def _stage_findings(part: _Part, base_us: float, evidence: Evidence) -> Iterator[Finding]:
    waits: dict[Site, list[int]] = {}
    for index in part.members:
        if part.items[index].is_wait:
            waits.setdefault(_site(part.items[index], evidence), []).append(index)
    for (key, site), indices in waits.items():
        saving = part.factor * (base_us - replay(part.items, without=set(indices))) / 1e6
        yield _wait_finding(key, site, len(indices) * part.factor, saving)
    every_wait = {index for indices in waits.values() for index in indices}
    yield from _gap_findings(part, every_wait, evidence)


def _mean_factor(items: Sequence[Item], evidence: Evidence) -> float:
    """From the captured units of a stage to the whole clip, weighed by the device's work."""
    weighed = [(evidence.places[around_of(item.node).span][1], _length(item)) for item in items]
    total = sum(length for _, length in weighed)
    return sum(factor * length for factor, length in weighed) / total if total else 1.0


def _length(item: Item) -> float:
    return sum(length for _, length in item.work)


def _site(item: Item, evidence: Evidence) -> Site:
    """The row of a wait, and what waits there: the operator and the line or module around it."""
    around = around_of(item.node)
    key, _ = evidence.places[around.span]
    ops = [node for node in item.node.above() if node.kind == "op"]
    name = short(ops[-1].name) if ops else item.node.name
    return key, f"{name} at {around.line or _module(around.modules) or key.part}"


def _module(modules: tuple[str, ...]) -> str:
    return modules[-1].split("|")[0] or modules[-1].split("|")[1] if modules else ""


def _wait_finding(key: RowKey, site: str, count: float, saving_s: float) -> Finding:
    return Finding(
        category="sync",
        stage=key.stage,
        subject=f"{key}: {site}",
        text=f"{key} waits for the device {count:.0f} times: {site}. The device then stands still until the"
        f" host has launched more; without these waits the clip would take {seconds(saving_s)} less.",
        saving_s=saving_s,
    )


def _gap_findings(part: _Part, waits: Collection[int], evidence: Evidence) -> Iterator[Finding]:
    """What is left once nothing of the stage waits: long stretches of the host, and launches."""
    stage, lines = part.stage, _lines_by_stage(evidence)
    base_us = replay(part.items, without=waits)
    long_us = {index: gap for index, gap in part.gaps_us.items() if gap >= LONG_US}
    free_us = replay(part.items, without=waits, freed_us=long_us)
    saving_s = part.factor * (base_us - free_us) / 1e6
    at = _at(lines.get(stage, RowGaps()))
    yield Finding(
        category="host",
        stage=stage,
        subject=stage,
        text=f"In {stage} the host is busy elsewhere while the device stands still{at}. Done beside the"
        f" device's work, or not at all, that would save about {seconds(saving_s)}.",
        saving_s=saving_s,
    )
    none_us = replay(part.items, without=waits, freed_us=part.gaps_us, free_calls=set(part.members))
    launch_s = part.factor * (free_us - none_us) / 1e6
    yield Finding(
        category="launches",
        stage=stage,
        subject=stage,
        text=f"In {stage} the device waits for launches: with as good as none (torch.compile, CUDA graphs) it"
        f" would take about {seconds(launch_s)} less.",
        saving_s=launch_s,
    )


def _lines_by_stage(evidence: Evidence) -> Mapping[str, RowGaps]:
    found: dict[str, RowGaps] = {}
    gaps = gaps_of(evidence.capture, evidence.calls, evidence.samples, evidence.places)
    for key, row in gaps.items():
        found.setdefault(key.stage, RowGaps()).lines.update(row.lines)
    return found
