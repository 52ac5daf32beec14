"""Findings about the device's own work: kernels, layouts, operators and chains of them. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rushes.profiling.calls import Call
from rushes.profiling.evidence import Evidence
from rushes.profiling.op_work import short
from rushes.profiling.report import Finding
from rushes.profiling.trials import Trial, signature, worker
from rushes.profiling.words import percent, rate, seconds

GOOD = {"gemm": 0.9, "attention": 0.9, "conv": 0.85, "copy": 0.7}
"""Share of a ceiling that a good kernel reaches, for shapes that were not tried alone."""

RESOURCE = {"gemm": "GEMM", "attention": "attention", "conv": "conv", "copy": "copy"}


def kernel_findings(evidence: Evidence) -> Iterator[Finding]:
    """Products, attention and convolutions that take longer than the same shapes alone."""
    groups: dict[tuple[str, str, str], list[Call]] = {}
    for call in evidence.calls:
        if call.work.flops and call.key in evidence.scale:
            groups.setdefault((call.key.stage, call.kind, call.work.family), []).append(call)
    for (stage, kind, family), calls in groups.items():
        yield _kernel_finding(stage, kind, family, calls, evidence)


def _kernel_finding(stage: str, kind: str, family: str, calls: Sequence[Call], evidence: Evidence) -> Finding:
    taken_s = sum(evidence.seconds(call) for call in calls)
    reached_s = sum(call.factor * _reachable_s(call, evidence) for call in calls)
    ideal_s = sum(call.factor * evidence.ceilings.ideal_s(call) for call in calls)
    saving_s = max(0.0, taken_s - reached_s)
    best = _best_trial(calls, evidence)
    share = percent(min(1.0, ideal_s / taken_s)) if taken_s else "0 %"
    how = f" Alone, its costliest shape reaches {rate(best.rate, family)} ({best.variant}):" if best else ""
    return Finding(
        category="layout" if family == "conv" else "kernel",
        stage=stage,
        subject=f"{stage}: {kind}",
        text=f"{stage}: {kind} takes {seconds(taken_s)} and runs at {share} of the {RESOURCE[family]}"
        f" ceiling.{how or ' At a good share of it'} it would take about {seconds(saving_s)} less.",
        saving_s=saving_s,
    )


def _reachable_s(call: Call, evidence: Evidence) -> float:
    """What a call could take: as its shape did alone, or at a good share of the ceiling."""
    trial = _trial(call, evidence)
    ideal = evidence.ceilings.ideal_s(call)
    return max(trial.seconds, ideal) if trial else ideal / GOOD[call.work.family]


def _trial(call: Call, evidence: Evidence) -> Trial | None:
    return evidence.ceilings.of_shape(signature(worker(call.node))) if call.node is not None else None


def _best_trial(calls: Sequence[Call], evidence: Evidence) -> Trial | None:
    """The trial of the costliest shape."""
    seconds_of: dict[str, float] = {}
    trials: dict[str, Trial] = {}
    for call in calls:
        trial = _trial(call, evidence)
        if trial is not None:
            seconds_of[trial.signature] = seconds_of.get(trial.signature, 0.0) + evidence.seconds(call)
            trials[trial.signature] = trial
    costliest = max(seconds_of, key=lambda name: seconds_of[name], default=None)
    return trials[costliest] if costliest is not None else None


def operator_findings(evidence: Evidence) -> Iterator[Finding]:
    """Operators that only move data, and take longer than that."""
    groups: dict[tuple[str, str, str, str], list[Call]] = {}
    for call in evidence.calls:
        if not call.work.flops and call.key in evidence.scale:
            groups.setdefault((call.key.stage, call.name, call.place.where, call.line), []).append(call)
    for (stage, name, where, line), calls in groups.items():
        taken_s = sum(evidence.seconds(call) for call in calls)
        ideal_s = sum(call.factor * evidence.ceilings.ideal_s(call) for call in calls)
        saving_s = max(0.0, taken_s - ideal_s / GOOD["copy"])
        place = f"{where} ({line})" if line else where
        yield Finding(
            category="operator",
            stage=stage,
            subject=f"{stage}: {short(name)} in {where}",
            text=f"{stage}: {name} in {place} takes {seconds(taken_s)}; moving its data once would take"
            f" {seconds(ideal_s)}. A better kernel, or none, would save about {seconds(saving_s)}.",
            saving_s=saving_s,
        )


def fusion_findings(evidence: Evidence) -> Iterator[Finding]:
    """Chains of operators between products, each of which reads and writes what the one before wrote."""
    found: dict[tuple[str, str], list[float]] = {}
    in_order = sorted((call for call in evidence.calls if call.key in evidence.scale), key=_start_us)
    for is_chain, members in groupby(in_order, key=lambda call: call.work.family == "copy"):
        chain = [call for call in members if call.work.num_bytes]
        if is_chain and len(chain) > 1:
            _add_chain(chain, found, evidence)
    for (stage, kind), (saving_s, taken_s) in found.items():
        yield Finding(
            category="fusion",
            stage=stage,
            subject=f"{stage}: {kind}",
            text=f"{stage}: {kind} takes {seconds(taken_s)} in operators that each move their data. Fused"
            f" (torch.compile), they would move it once and take about {seconds(saving_s)} less.",
            saving_s=saving_s,
        )


def _start_us(call: Call) -> float:
    return call.node.start if call.node is not None else call.gpu[0].start


def _add_chain(chain: Sequence[Call], found: dict[tuple[str, str], list[float]], evidence: Evidence) -> None:
    """Saving and time of a chain, booked on its costliest kind."""
    ideal = [call.factor * evidence.ceilings.ideal_s(call) for call in chain]
    taken = [evidence.seconds(call) for call in chain]
    costliest = chain[taken.index(max(taken))]
    sums = found.setdefault((costliest.key.stage, costliest.kind), [0.0, 0.0])
    # The widest of them reads and writes as much as all of them together must.
    sums[0] += max(0.0, min(sum(taken), sum(ideal) / GOOD["copy"]) - max(ideal) / GOOD["copy"])
    sums[1] += sum(taken)
