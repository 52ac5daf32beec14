"""A profile as tables of text, for a terminal. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rushes.profiling.compare import Difference, compare_operators, compare_rows, compare_totals
from rushes.profiling.operators import GAPS
from rushes.profiling.report import Operator, Profile, Row, Run, Sweep
from rushes.profiling.table import Table
from rushes.profiling.words import amount, percent, rate, seconds


def tables(profile: Profile, *, num_raw: int = 0) -> Iterator[Table]:
    """Everything that fits a terminal.

    Args:
        num_raw: rows of the raw operator table.
    """
    first = profile.runs[0]
    yield stage_table(first)
    if first.operators:
        yield operator_table(first)
        yield ceiling_table(first)
    if num_raw and first.raw:
        yield raw_table(first, num_raw)
    for other in profile.runs[1:] if profile.sweep is None else ():
        yield from comparison(first, other)
    if profile.sweep is not None:
        yield sweep_table(profile.sweep)
    yield findings_table(first)
    for note in first.notes:
        yield Table(title=f"note: {note}")


def stage_table(run: Run) -> Table:
    """Rows that add up to the total, which comes last."""
    rows = [_stage_row(row, run.total_s) for row in run.rows]
    device_s = run.device_s
    total = ["total", "", seconds(run.total_s), "100 %"]
    split = [seconds(device_s), seconds(run.total_s - device_s)] if run.operators else ["", ""]
    peak = max((peak.num_bytes for peak in run.peaks), default=0)
    rows.append([*total, *split, seconds(run.ideal_s) if run.ideal_s else "", f"peak {amount(peak, 'B')}"])
    size = _clip(run)
    how = "; extrapolated from a few units of each kind" if run.is_short else ""
    return Table(
        title=f"{run.label}: {run.model}, {size}{how}",
        header=("stage", "units", "time", "share", "device", "around it", "ideal device", "each"),
        rows=rows,
    )


def _clip(run: Run) -> str:
    video, sampling = run.request.get("video", {}), run.request.get("sampling", {})
    frames = f"{video.get('num_frames')} frames of {video.get('width')}x{video.get('height')}"
    return f"{frames}, {sampling.get('num_inference_steps')} steps"


def _stage_row(row: Row, total_s: float) -> list[str]:
    units = f"{row.units}" if row.measured >= row.units else f"{row.units} ({row.measured} run)"
    median = sorted(row.unit_s)[len(row.unit_s) // 2] if row.unit_s else 0.0
    return [
        row.name,
        units,
        seconds(row.seconds),
        percent(row.seconds / total_s if total_s else 0.0),
        seconds(row.device_s) if row.device_s is not None else "-",
        seconds(row.around_s) if row.around_s is not None else "-",
        seconds(row.ideal_s) if row.ideal_s else "",
        seconds(median) if row.units > 1 else "",
    ]


def operator_table(run: Run) -> Table:
    """Kinds of operators by time; those of a stage add up to its wall time."""
    explained = percent(run.explained) if run.explained is not None else "-"
    return Table(
        title=f"operators of the whole clip; {explained} of the device's time has a name",
        header=("stage", "kind", "calls", "time", "share", "work", "data", "rate", "of ceiling", "ideal"),
        rows=[_operator_row(op, run.total_s) for op in run.operators],
    )


def _operator_row(op: Operator, total_s: float) -> list[str]:
    head = [op.stage, op.kind, str(op.calls or ""), seconds(op.seconds), percent(op.seconds / total_s)]
    if op.resource == GAPS:
        return [*head, "", "", "", "", ""]
    return [
        *head,
        amount(op.flops, "FLOP") if op.flops else "",
        amount(op.num_bytes, "B"),
        rate(op.rate, op.resource),
        percent(op.share_of_ceiling),
        seconds(op.ideal_s),
    ]


def ceiling_table(run: Run) -> Table:
    """What the device reached in this run."""
    return Table(
        title="ceilings measured on this device in this run",
        header=("resource", "dtype", "rate", "reached by"),
        rows=[(c.resource, c.dtype or "-", rate(c.rate, c.resource), c.how) for c in run.ceilings],
    )


def raw_table(run: Run, limit: int) -> Table:
    """Single operators (CPU) or kernels (GPU)."""
    has_lines = any(op.line for op in run.raw)
    rows = [
        [
            op.name[:70],
            op.stage,
            f"{op.where} ({op.line})" if op.line else op.where,
            str(op.calls),
            seconds(op.device_s),
            percent(op.device_s / run.device_s if run.device_s else 0.0),
            seconds(op.host_s),
        ]
        for op in run.raw[:limit]
    ]
    return Table(
        title=f"top {min(limit, len(run.raw))} operators",
        header=(
            "name",
            "stage",
            "module and line" if has_lines else "module",
            "calls",
            "device",
            "of it",
            "host",
        ),
        rows=rows,
    )


def comparison(a: Run, b: Run) -> Iterator[Table]:
    """Two runs: the total, rows and kinds that differ or matter."""
    total = compare_totals(a, b)
    yield _difference_table(f"{a.label} (A) and {b.label} (B)", [total, *compare_rows(a, b)], a, b)
    if a.operators and b.operators:
        yield _difference_table("operators of A and B", compare_operators(a, b), a, b)


def _difference_table(title: str, differences: Sequence[Difference], a: Run, b: Run) -> Table:
    least_s = 0.005 * max(a.total_s, b.total_s)
    shown = [d for d in differences if d.verdict != "same" or max(d.a_s or 0.0, d.b_s or 0.0) >= least_s]
    return Table(
        title=title, header=("", "A", "B", "B / A", "verdict"), rows=[_difference_row(d) for d in shown]
    )


def _difference_row(difference: Difference) -> list[str]:
    ratio = difference.ratio
    return [
        difference.name,
        seconds(difference.a_s) if difference.a_s is not None else "-",
        seconds(difference.b_s) if difference.b_s is not None else "-",
        f"{ratio:.2f}" if ratio is not None else "",
        "same within noise" if difference.verdict == "same" else difference.verdict,
    ]


def sweep_table(sweep: Sweep) -> Table:
    """Seconds at every value, and the exponent."""
    values = [f"{value:g}" for value in sweep.values]
    title = f"{sweep.field} = {', '.join(values)}"
    rows = [
        [
            f"{growth.stage}: {growth.name}" if growth.stage else growth.name,
            *(seconds(value) for value in growth.seconds),
            f"{growth.exponent:.2f}" + (f" ± {growth.error:.2f}" if growth.error else ""),
        ]
        for growth in sweep.growths
    ]
    rows.append(["peak memory", *(amount(value, "B") for value in sweep.peak_bytes), ""])
    return Table(
        title=f"{title}: time grows as {sweep.size_name} to the power in the last column",
        header=("", *values, "power"),
        rows=rows,
    )


def findings_table(run: Run) -> Table:
    """Sentences, largest saving first."""
    if not run.operators:
        return Table(title="no findings without a recording of operators")
    return Table(
        title=f"{len(run.findings)} findings, largest saving first (each as if it alone were mended)",
        header=("saves", "finding"),
        rows=[(seconds(finding.saving_s), finding.text) for finding in run.findings],
    )
