"""A report for a reader: tables of plain text."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

from rushes.profiling.bench.figures import Percentile, Ratio, Spread
from rushes.profiling.bench.load import LoadResult
from rushes.profiling.bench.quality import Difference
from rushes.profiling.bench.report import Report
from rushes.profiling.bench.savings import Savings
from rushes.profiling.quality.frechet import MAX_WIDTH, FrechetDistance
from rushes.profiling.quality.judged import Share
from rushes.profiling.quality.pixels import FLIP_MISSING, has_flip
from rushes.profiling.table import Table
from rushes.profiling.workloads.base import KINDS
from rushes.profiling.workloads.mix import Mix

GB = 1e9


def tables_of(report: Report) -> Iterator[Table]:
    """One table for each part that was measured."""
    yield mix_table(report.workload, report.mix)
    if report.cold:
        yield _cold(report)
    if report.alone is not None:
        yield _alone(report)
    if report.pairs is not None:
        yield _pairs(report)
    if report.load is not None:
        yield _load(report.load)
    if report.savings is not None and report.load_mix is not None and report.load_mix.hit_share > 0:
        yield _savings(report.savings, report.load_mix)
    if report.quality:
        yield _quality(report)
    if report.judged:
        yield _adherence(report)


def mix_table(workload: str, mix: Mix) -> Table:
    """The kinds of a workload's requests and the hits that they allow."""
    rows = [(kind, str(getattr(mix, kind)), _percent(getattr(mix, kind) / mix.num)) for kind in KINDS]
    title = f"{workload}: {mix.num} requests"
    return Table(title=title, header=("kind", "requests", "share"), rows=tuple(rows), remarks=_bounds(mix))


def _bounds(mix: Mix) -> tuple[str, ...]:
    if mix.hit_share == 0:
        return ("all are new: no cache of requests can save anything",)
    return (
        f"at most {_percent(mix.exact_share)} can hit as exact repeats, {_percent(mix.same_meaning_share)} "
        f"as the same meaning, {_percent(mix.hit_share)} with edits",
        f"so the mean is at least {_percent(mix.mean_s(1.0))} of a full run with exact hits alone, "
        f"{_percent(mix.mean_s(1.0, latent_s=0.0))} if every other hit were free too",
    )


def _cold(report: Report) -> Table:
    rows = []
    for name, cold in report.cold.items():
        parts = (cold.cold_start_s, cold.import_s, cold.load_s, cold.first_run_s)
        device = cold.peak_device_bytes
        memory = (f"{cold.peak_host_bytes / GB:.2f} GB", "" if device is None else f"{device / GB:.2f} GB")
        rows.append((name, *map(_seconds, parts), *memory))
    return Table(
        title="Cold start of a fresh process, and its peak memory",
        header=("", "ready", "imports", "weights", "first clip", "host", "device"),
        rows=tuple(rows),
    )


def _alone(report: Report) -> Table:
    assert report.alone is not None
    named = {
        "first preview": "first_preview_s",
        "first frame decoded": "first_frame_s",
        "end to end": "end_to_end_s",
    }
    seconds, stages = report.alone.seconds, report.alone.stages_s
    rows = [(title, *_spread(seconds[name])) for title, name in named.items() if name in seconds]
    rows += [(f"  {stage}", *_spread(each)) for stage, each in stages.items()]
    rows.append(("  between the stages", *_spread(seconds["other_s"])))
    return Table(
        title=f"One clip at a time, {len(report.alone.clips)} clips: {_shape(report)}",
        header=("", "median", "least", "most"),
        rows=tuple(rows),
    )


def _pairs(report: Report) -> Table:
    assert report.pairs is not None
    pairs, rows = report.pairs, []
    for rival, ratios in pairs.ratios.items():
        for second, each in ratios.items():
            ours, theirs = (
                statistics.median([getattr(clip, second) for clip in pairs.seconds[name]])
                for name in (next(iter(pairs.seconds)), rival)
            )
            rows.append((rival, second, _seconds(ours), _seconds(theirs), *_ratio(each)))
        for stage, each in pairs.stage_ratios[rival].items():
            rows.append((rival, f"  {stage}", "", "", *_ratio(each)))
    return Table(
        title=f"In turn with peers, {len(pairs.seeds)} pairs",
        header=("peer", "seconds", "ours", "theirs", "theirs / ours", "95 % interval", "each pair"),
        rows=tuple(rows),
    )


def _load(load: LoadResult) -> Table:
    rows = [
        (name.removesuffix("_s").replace("_", " "), *map(_percentile, found))
        for name, found in load.percentiles.items()
    ]
    bound = "" if load.rate_bound is None else f"; one at a time at most {load.rate_bound:.3g}"
    fates = {status: sum(each.status == status for each in load.answers) for status in _statuses(load)}
    late_s = max(answer.submitted_s for answer in load.answers)
    return Table(
        title=f"Under open-loop Poisson load: {len(load.answers)} requests, {load.rate:.3g} a second",
        header=("from when it was due", "p50", "p95", "p99"),
        rows=tuple(rows),
        remarks=(
            ", ".join(f"{num} {status}" for status, num in fates.items())
            + f" in {load.wall_s:.1f} s: {load.completed_rate:.3g} a second{bound}",
            f"device over wall seconds {load.utilization:.2f}; handed over at most {late_s:.3f} s late",
        ),
    )


def _savings(saved: Savings, mix: Mix) -> Table:
    rows = [
        ("requests served for next to nothing", _percent(saved.free_share), _percent(saved.free_bound)),
        ("device seconds saved", _percent(saved.saved_share), _percent(saved.saved_bound)),
    ]
    medians = ", ".join(f"{kind} {_seconds(saved.p50_s[kind])}" for kind in KINDS if kind in saved.p50_s)
    return Table(
        title=f"Reuse, seen from outside, in the {mix.num} requests of the load",
        header=("", "reached", "bound of the mix"),
        rows=tuple(rows),
        remarks=(f"a new request takes {_seconds(saved.full_s)} of the device; p50 end to end: {medians}",),
    )


def _quality(report: Report) -> Table:
    rows = [
        (f"{name}{' (floor)' if each.is_floor else ''}", *_difference(each))
        for name, each in sorted(report.quality.items(), key=lambda item: not item[1].is_floor)
    ]
    return Table(
        title="Clips against ours computed in full; a floor changes nothing that matters",
        header=("", "clips", "PSNR", "SSIM", "FLIP", "latents, relative L1", "motion px", "flicker"),
        rows=tuple(rows),
        remarks=() if has_flip() else (FLIP_MISSING,),
    )


def _adherence(report: Report) -> Table:
    reference, *_ = report.judged
    rows, caveats = [], []
    for name, judged in report.judged.items():
        distance = "" if name == reference else _distance(judged.distance)
        rows.append((name, *map(_share, judged.adherence.values()), distance))
        caveats += [judged.distance.caveat] if judged.distance and judged.distance.caveat else []
    remarks = ["distance: Fréchet distance over the toy judge's features, not FVD; its floor is other seeds"]
    return Table(
        title="What the judge reads as asked, % (95 % interval), and the distance to our clips",
        header=("", *report.judged[reference].adherence, "distance"),
        rows=tuple(rows),
        remarks=(*remarks, *dict.fromkeys(caveats)),
    )


def _distance(found: FrechetDistance | None) -> str:
    if found is None:
        return f"needs more than {MAX_WIDTH} clips"
    return f"{found.corrected:.3g} ({found.low:.3g} to {found.high:.3g})"


def _difference(each: Difference) -> tuple[str, ...]:
    found = each.comparison
    return (
        str(each.num_clips),
        "equal" if math.isinf(found.psnr_db) else f"{found.psnr_db:.2f} dB",
        f"{found.ssim:.4f}",
        "" if found.flip is None else f"{found.flip:.4f}",
        f"{each.latent_l1:.2e}",
        f"{found.a.motion_px:.2f} -> {found.b.motion_px:.2f}",
        f"{found.a.flicker:.2f} -> {found.b.flicker:.2f}",
    )


def _shape(report: Report) -> str:
    video, sampling = report.request.video, report.request.sampling
    size = f"{video.num_frames} frames of {video.width}x{video.height}"
    return (
        f"{report.model}, {size}, {sampling.num_inference_steps} steps of {sampling.solver}, {report.dtype}"
    )


def _statuses(load: LoadResult) -> list[str]:
    return list(dict.fromkeys(["completed", *(answer.status for answer in load.answers)]))


def _spread(found: Spread) -> tuple[str, str, str]:
    return _seconds(found.median), _seconds(found.low), _seconds(found.high)


def _ratio(found: Ratio) -> tuple[str, str, str]:
    interval = "" if found.low is None or found.high is None else f"{found.low:.2f} to {found.high:.2f}"
    return f"{found.mean:.2f}", interval, " ".join(f"{pair:.2f}" for pair in found.pairs)


def _percentile(found: Percentile) -> str:
    low, high = ("?" if bound is None else f"{bound:.2f}" for bound in (found.low, found.high))
    return f"{_seconds(found.value)} ({low} to {high})"


def _share(found: Share) -> str:
    low, high = found.interval
    return f"{100 * found.share:.0f} ({100 * low:.0f}-{100 * high:.0f})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds < 1 else f"{seconds:.2f} s"
