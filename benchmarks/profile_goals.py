"""What a profile must show to be believed, from the reports themselves: lines to print and data to keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rushes.profiling.operators import GAPS
from rushes.profiling.report import Profile, Run
from rushes.profiling.session import Session
from rushes.profiling.words import percent, rate, seconds

MAX_APART, MIN_EXPLAINED, MAX_OVERHEAD, MAX_PAGE = 0.01, 0.98, 0.03, 2 * 10**6
"""Sum of the stages from the wall time, as a share of it; share of the device's time that has a name; what
profiling costs over a clip without; bytes of the page."""

NUM_OPERATORS, NUM_RAW = 8, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One promise, and how it was kept.

    Attributes:
        bar: at most, or where `is_least` at least.
    """

    name: str
    value: float
    bar: float
    is_least: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the bar is reached."""
        return self.value >= self.bar if self.is_least else self.value <= self.bar

    def line(self) -> str:
        """For people."""
        sign = ">=" if self.is_least else "<="
        return (
            f"{'met   ' if self.is_met else 'MISSED'} {self.name}: {self.value:.4g} (bar {sign} {self.bar:g})"
        )

    def data(self) -> dict[str, Any]:
        """For the file."""
        return {**asdict(self), "is_met": self.is_met}


def session_goals(session: Session) -> list[Goal]:
    """Of one subject."""
    run = session.run
    goals = [Goal(name=f"{run.label}: stages from wall", value=apart(session), bar=MAX_APART)]
    covered = sum(op.seconds for op in run.operators) / run.total_s
    goals.append(
        Goal(name=f"{run.label}: operators and gaps from stages", value=abs(covered - 1), bar=MAX_APART)
    )
    explained = Goal(
        name=f"{run.label}: device time explained",
        value=run.explained or 0.0,
        bar=MIN_EXPLAINED,
        is_least=True,
    )
    return [*goals, explained]


def apart(session: Session) -> float:
    """How far the stages' sum is from the host's clock around the whole, which knows nothing of the device's:
    of all clips the worst."""
    found = []
    for clip in session.clips:
        wall_s = clip.times[0].span.seconds
        found.append(abs(sum(time.own_s for time in clip.times) / wall_s - 1))
    return max(found)


def overhead_goal(found: Mapping[str, Any]) -> Goal:
    """Of `benchmarks.profile_overhead`."""
    name = f"profiler's cost, median of {len(found['pairs_s'])} pairs"
    return Goal(name=name, value=found["ratio_median"] - 1, bar=MAX_OVERHEAD)


def slim(profile: Profile) -> Profile:
    """What is worth keeping beside the page: no waterfall, no flame graph, few single samples."""
    runs = tuple(
        replace(
            run,
            bars=(),
            flame=None,
            raw=tuple(replace(op, name=op.name[:120]) for op in run.raw[:NUM_RAW]),
            rows=tuple(replace(row, unit_s=row.unit_s[:8]) for row in run.rows),
        )
        for run in profile.runs
    )
    return replace(profile, runs=runs)


def rounded(value: Any) -> Any:
    """The same data with numbers of 6 digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {name: rounded(each) for name, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def lines(runs: Sequence[Run]) -> Iterator[str]:
    """Of one case: stages, costliest operators, ours against theirs."""
    for run in runs:
        yield f"  {run.label}: {seconds(run.total_s)}, device {seconds(run.device_s)}" + (
            ", extrapolated from a few units" if run.is_short else ""
        )
        for stage, stage_s in stage_seconds(run).items():
            share = percent(stage_s / run.total_s)
            yield f"    {stage:14} {seconds(stage_s):>9} {share:>7}{_peak(run, stage)}"
        worked = [op for op in run.operators if op.resource != GAPS]
        for op in worked[:NUM_OPERATORS]:
            share, of_ceiling = percent(op.seconds / run.device_s), percent(op.share_of_ceiling)
            speed = f"{rate(op.rate, op.resource)}, {of_ceiling} of ceiling"
            yield f"    {op.stage}: {op.kind:32} {seconds(op.seconds):>9} {share:>7} of the device, {speed}"
        for finding in run.findings[:2]:
            yield f"    finding: {finding.text}"
    if len(runs) > 1:
        yield "  theirs / ours: " + ", ".join(
            f"{name} {ratio:.3f}" for name, ratio in ratios(*runs[:2]).items()
        )


def _peak(run: Run, stage: str) -> str:
    found = [peak.num_bytes for peak in run.peaks if peak.stage == stage and peak.num_bytes]
    return f"  peak {found[0] / 1e9:.1f} GB" if found else ""


def stage_seconds(run: Run) -> dict[str, float]:
    """Wall seconds by stage."""
    found: dict[str, float] = {}
    for row in run.rows:
        found[row.stage] = found.get(row.stage, 0.0) + row.seconds
    return found


def ratios(ours: Run, theirs: Run) -> dict[str, float]:
    """Their seconds over ours, of the whole and of every stage that both have."""
    mine, other = stage_seconds(ours), stage_seconds(theirs)
    shared = {stage: other[stage] / mine[stage] for stage in mine if other.get(stage) and mine[stage]}
    return {"total": theirs.total_s / ours.total_s, **shared}
