"""One table of every stored figure of the speed benchmarks, beside a fresh sample on this machine's CPU.

    python -m benchmarks.bench_report                  # what `make bench-report` runs
    python -m benchmarks.bench_report --only-stored    # without the sample

The last two lines are the verdicts: of the GPU's goals, and of quality and the sample. The exit status is 1
when a goal falls short or was never measured.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.goals import GOALS, Parts
from benchmarks.speed_rungs import Rung, changed

import rushes
from rushes.passes.plan import Plan
from rushes.passes.presets import plan_preset
from rushes.pipelines.model import Model
from rushes.profiling.bench.ours import Rushes
from rushes.profiling.bench.quality import difference, make_clip, other_kernel
from rushes.profiling.optimize import FLOOR_SLACK_DB, ONE_LEVEL_DB, propose
from rushes.types import Done, GenerateRequest

RESULTS = Path("benchmarks/results")
SPEED = "speed_*.json"
QUALITY = "passes_quality*.json"
REUSE = "step_reuse*.json"
SAMPLE = {"width": 128, "height": 96, "num_frames": 5, "num_inference_steps": 3, "seed": 7}
PROMPT = "a red dog running in the park"
ROUNDS = 3
LEAST_RATIO = 0.95
"""Of plain over exact time on the CPU: what noise takes is no loss."""


def read(folder: Path, pattern: str) -> dict[str, dict[str, Any]]:
    """The reports of a folder by file name; runs in tiny shapes prove only code and do not count."""
    found = {}
    for file in sorted(folder.glob(pattern)):
        content = json.loads(file.read_text(encoding="utf-8"))
        if not content.get("tiny"):
            found[file.name] = content
    return found


def merged(reports: Mapping[str, Mapping[str, Any]]) -> tuple[Parts, dict[str, str]]:
    """Figures by row and the command of each: of several files with a row, the last by name."""
    parts: dict[str, Mapping[str, Any]] = {}
    commands: dict[str, str] = {}
    for name, report in reports.items():
        for row, part in report["parts"].items():
            if part["status"] == "done":
                parts[row] = part["figures"]
                # A row that was measured again says so itself.
                about = {**report, **part}
                command = " ".join(about.get("command", ["?"]))
                commands[row] = f"{command} (commit {about['commit']}, {name})"
    return parts, commands


def goal_lines(parts: Parts) -> Iterator[str]:
    """The goals with diffusers' figure of the same run."""
    yield f"{'goal':<52}{'diffusers':>11}{'ours':>10}{'bar':>8}{'ratio':>8}  verdict"
    for goal in GOALS:
        rival, value = _rival(parts, goal.row, goal.key), goal.value(parts)
        ratio = f"{rival / value:.2f}x" if rival and value and goal.key == "seconds" else ""
        cells = f"{_number(rival):>11}{_number(value):>10}{goal.bar:>8g}{ratio:>8}"
        yield f"{goal.title:<52}{cells}  {goal.verdict(parts)}"


def row_lines(parts: Parts, commands: Mapping[str, str]) -> Iterator[str]:
    """Every contender of every row: seconds, memory, passes."""
    for row, figures in parts.items():
        yield f"\n{row}: {commands[row]}"
        for name, found in figures.items():
            if isinstance(found, Mapping) and name != "card":
                yield f"  {name:<26} {_words(found)}"
            elif name != "card":
                yield f"  {name}: {found}"
        if isinstance(card := figures.get("card"), Mapping):
            medians = {key: value["median"] for key, value in card.items() if isinstance(value, Mapping)}
            yield f"  card, medians: {medians}"


def _words(found: Mapping[str, Any]) -> str:
    if "failed" in found:
        return f"failed: {found['failed']}"
    words = [f"{found['seconds']:g} s"] if "seconds" in found else []
    for key in ("forward_s", "first_s", "peak_gb", "error", "over diffusers", "first_frame_s", "not finite"):
        if found.get(key) is not None:
            words.append(f"{key} {found[key]:.4g}")
    if count := len(found.get("all", ())):
        words.append(f"n {count}")
    if found.get("passes"):
        words.append("+".join(one["name"] for one in found["passes"]))
    if found.get("lacks"):
        words.append(f"without: {'; '.join(found['lacks'])}")
    return ", ".join(words) or str(dict(found))


def quality_lines(reports: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The rows of every quality report."""
    from benchmarks.passes_quality import line

    for name, report in reports.items():
        where = f"{report['prompts']} prompts, preset {report['preset']}, {report.get('device')}"
        yield f"\nquality on the toy, {where}, commit {report['commit']} ({name})"
        for row, figures in report["rows"].items():
            yield f"  {line(row, figures)}"


def reuse_lines(reports: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The rows of every sweep of reused steps."""
    from benchmarks.step_reuse import line

    for name, report in reports.items():
        where = f"preset {report['preset']}, {report.get('device')}, commit {report['commit']}"
        num = next(iter(report["rows"].values()))["num_clips"]
        yield f"\nreused steps on the toy, {num} prompts, 95 % intervals, {where} ({name})"
        for row, figures in report["rows"].items():
            yield f"  {line(row, figures)}"


def quality_verdicts(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The verdict of every plan that promises something, by file and plan."""
    return {
        f"{name}: {row}": figures["verdict"]
        for name, report in reports.items()
        for row, figures in report["rows"].items()
        if figures.get("verdict")
    }


def sample() -> dict[str, Any]:
    """The toy here and now: plain against the exact plan in turn, and the noise floor."""
    found = [(each.name, *propose(each, "cpu")) for each in plan_preset("exact").candidates]
    passes = tuple(one for _, one, _ in found if one is not None)
    lacks = tuple(f"{name}: {reason}" for name, one, reason in found if one is None)
    plain, planned, rung = _open(Rung(name="exact", passes=passes, lacks=lacks))
    request = plain.job(PROMPT, **SAMPLE).request
    for model in (plain, planned):
        _seconds(model, request)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for model, seconds in zip((plain, planned), times, strict=True):
            seconds.append(_seconds(model, request))
    reference = [make_clip(Rushes(plain), request)]
    apart = difference(reference, [make_clip(Rushes(planned), request)])
    with other_kernel(plain.device, torch.float32):
        floor = difference(reference, [make_clip(Rushes(plain), request)], is_floor=True)
    return {
        "plain_s": statistics.median(times[0]),
        "exact_s": statistics.median(times[1]),
        "passes": [one.name for one in rung.passes],
        "lacks": list(rung.lacks),
        "psnr_db": apart.comparison.psnr_db,
        "floor_db": floor.comparison.psnr_db,
    }


def _open(rung: Rung) -> tuple[Model, Model, Rung]:
    """The toy plain, and with those of the passes that take it; the rung without the others."""
    plain = rushes.load("toy", device="cpu", dtype="float32")
    _, rung = changed("transformer", plain.parts.experts().select(0.0), rung)
    _, rung = changed("vae", plain.parts.vae(), rung)
    planned = rushes.load("toy", device="cpu", dtype="float32", plan=Plan(passes=rung.passes))
    return plain, planned, rung


def _seconds(model: Model, request: GenerateRequest) -> float:
    for event in Rushes(model).events(request):
        if isinstance(event, Done):
            return sum(timing.seconds for timing in event.timings if timing.stage != "text_encode")
    raise AssertionError("a clip ends with Done")


def sample_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """The sample in words."""
    ratio = found["plain_s"] / found["exact_s"]
    yield f"\na fresh sample on this CPU, the toy, {SAMPLE}, {torch.get_num_threads()} threads:"
    yield f"  plain {found['plain_s']:.2f} s, exact {found['exact_s']:.2f} s: {ratio:.2f}x"
    yield f"  passes {', '.join(found['passes']) or 'none'}"
    yield from (f"  without {reason}" for reason in found["lacks"])
    yield f"  PSNR of exact {_db(found['psnr_db'])}, noise floor {_db(found['floor_db'])}"


def sample_verdicts(found: Mapping[str, Any]) -> dict[str, str]:
    """The exact plan is no slower, and changes nothing beyond the floor."""
    bar = min(found["floor_db"] - FLOOR_SLACK_DB, ONE_LEVEL_DB)
    is_fast = found["plain_s"] / found["exact_s"] >= LEAST_RATIO
    return {
        "CPU sample: exact is no slower": "met" if is_fast else "short",
        "CPU sample: exact stays at the floor": "met" if found["psnr_db"] >= bar else "short",
    }


def summary(title: str, verdicts: Mapping[str, str]) -> str:
    """One line: how many are met, and which are not."""
    met = sum(verdict == "met" for verdict in verdicts.values())
    words = [f"{title}: {met} of {len(verdicts)} met"]
    for kind in ("short", "not measured"):
        names = [name for name, verdict in verdicts.items() if verdict == kind]
        if names:
            words.append(f"{kind}: {' / '.join(names)}")
    return "; ".join(words)


def _rival(parts: Parts, row: str, key: str) -> float | None:
    figures = parts.get(row, {}).get("diffusers")
    value = figures.get("seconds" if key == "seconds" else "error") if isinstance(figures, Mapping) else None
    return value if isinstance(value, int | float) else None


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _db(value: float) -> str:
    return "equal" if math.isinf(value) else f"{value:.1f} dB"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; 1 when a goal is not met."""
    parser = argparse.ArgumentParser(description="One table of the speed benchmarks, and verdicts")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--only-stored", action="store_true", help="no fresh sample on this CPU")
    asked = parser.parse_args(argv)
    parts, commands = merged(read(asked.results, SPEED))
    quality = read(asked.results, QUALITY)
    reuse = reuse_lines(read(asked.results, REUSE))
    for text in (*goal_lines(parts), *row_lines(parts, commands), *quality_lines(quality), *reuse):
        print(text)
    others = quality_verdicts(quality) or {"quality on the toy": "not measured"}
    if not asked.only_stored:
        found = sample()
        print("\n".join(sample_lines(found)))
        others |= sample_verdicts(found)
    goals = {goal.title: goal.verdict(parts) for goal in GOALS}
    print()
    print(summary("GPU goals", goals))
    print(summary("quality and CPU", others))
    return int(any(verdict != "met" for verdict in (*goals.values(), *others.values())))


if __name__ == "__main__":
    raise SystemExit(main())
