"""What every pass costs on the toy: adherence, Fréchet distance, PSNR and SSIM against the plain run.

    python -m benchmarks.passes_quality --prompts 24                   # a sample on a CPU
    python -m benchmarks.passes_quality --prompts 512 --seconds 500    # the table; needs a GPU

Every pass of the registry runs alone, `int8-linears` by each of its methods on ranges measured first, then
the few-step weights, what steps reuse, and the plans of the presets: all that the toy takes of them.
Beside them the noise floor: the plain model with another attention kernel. A pass that refuses the device or
the toy is listed with its reason. Prompts and seeds are those of `benchmarks.judge`.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from benchmarks.judge import ASSETS
from benchmarks.judge_clips import Bench, generate, joined, open_bench, read, to_video
from benchmarks.judge_report import JOINT, count_right
from benchmarks.speed_rungs import Rung, changed
from torch import Tensor
from training.clips import labels_of
from training.world.prompts import Prompts, evaluation_prompts

from rushes.cli.calibrate import PROMPTS
from rushes.errors import ConfigError, RushesError
from rushes.models.judge import FRAME_STRIDE
from rushes.passes.base import PASSES, Pass, settings_of
from rushes.passes.calibration import targets_of, write_calibration
from rushes.passes.int8 import Method
from rushes.passes.plan import Plan, make_pass
from rushes.passes.presets import PLAN_PRESETS, Candidate, reuse_of
from rushes.pipelines.calibrate import calibrate_model
from rushes.profiling.bench.about import about
from rushes.profiling.bench.quality import other_kernel
from rushes.profiling.optimize import FLOOR_SLACK_DB, ONE_LEVEL_DB, proposals
from rushes.profiling.quality.frechet import frechet_distance
from rushes.profiling.quality.pixels import psnr_db, ssim

OUT = Path("benchmarks/results/passes_quality.json")
SSIM_STRIDE = 8
"""Frames between two whose SSIM is taken: it takes longer than making a clip on a GPU."""

LOSS_BAR = 0.02
"""Of adherence, that the fast preset may lose."""

FLOOR = "noise floor"
FEW_STEPS = "few-step-4"
CPU_BACKEND = "CPU back-end"
"""The quickest of `benchmarks.backends_cpu`."""

CALIBRATION_CLIPS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to make the clips.

    Attributes:
        wants: the passes, one after another, each in all settings that this machine can make, best first;
            the first that the network takes is had.
        passes: those that it has.
        fields: of the requests.
        lacks: passes that it should have and that refused, with why.
    """

    name: str
    wants: tuple[tuple[Pass, ...], ...] = ()
    passes: tuple[Pass, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    is_floor: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Clips:
    """What is kept of a variant's clips: pixels on the CPU, what the judge read, its features [N, D]."""

    frames: Tensor
    read: Mapping[str, Tensor]
    features: np.ndarray
    seconds: float


def variants(
    device: torch.device, calibration: Mapping[str, Any] | None = None
) -> tuple[list[Variant], dict[str, str]]:
    """All that this machine can make, and why it cannot make the rest, by name.

    Args:
        calibration: settings of `int8-linears`, without its method; None where no ranges were measured.
    """
    found, refused = [Variant(name="plain"), Variant(name=FLOOR, is_floor=True)], dict[str, str]()
    known = {one.name: one for preset in PLAN_PRESETS.values() for one in preset.candidates}
    for name in PASSES.names():
        for row, candidate in _alone(known.get(name, Candidate(name=name)), calibration).items():
            wanted, reason = wants_of(candidate, device)
            if wanted:
                found.append(Variant(name=row, wants=(wanted,)))
            else:
                refused[row] = reason
    if device.type == "cpu":
        both = tuple((make_pass(name),) for name in ("packed", "vae-compile"))
        found.append(Variant(name=CPU_BACKEND, wants=both))
    found.append(Variant(name=FEW_STEPS, fields={"preset": FEW_STEPS}))
    found.append(Variant(name="reuse of steps", fields=reuse_of("toy")))
    for name, preset in PLAN_PRESETS.items():
        wants, lacks = list[tuple[Pass, ...]](), list[str]()
        for candidate in preset.candidates:
            if candidate.instead_of in {one[0].name for one in wants}:
                continue
            wanted, reason = wants_of(candidate, device)
            if wanted:
                wants.append(wanted)
            else:
                lacks.append(f"{candidate.name}: {reason}")
        fields = reuse_of("toy") if preset.reuses else {}
        found.append(Variant(name=f"plan {name}", wants=tuple(wants), fields=fields, lacks=tuple(lacks)))
    return found, refused


def _alone(candidate: Candidate, calibration: Mapping[str, Any] | None) -> dict[str, Candidate]:
    """The rows of a pass by itself."""
    if candidate.name != "int8-linears" or calibration is None:
        return {candidate.name: candidate}
    methods = get_args(Method)
    return {
        f"{candidate.name}, {method}": replace(candidate, settings=({**calibration, "method": method},))
        for method in methods
    }


def wants_of(candidate: Candidate, device: torch.device) -> tuple[tuple[Pass, ...], str]:
    """A candidate's pass in the settings of small models where it has such, best first; and why not in
    others."""
    is_sized = candidate.cpu_settings is not None and candidate.name != "attention"
    reasons: list[str] = []
    found = tuple(proposals(candidate, "cpu" if is_sized else device.type, reasons))
    return found, "; ".join(reasons)


def calibrated(bench: Bench, folder: Path, preset: str) -> dict[str, Any]:
    """Measure ranges over a few clips into a file of the folder; settings of `int8-linears`."""
    found = calibrate_model(
        bench.model, PROMPTS[:CALIBRATION_CLIPS], range(CALIBRATION_CLIPS), num_buckets=4, preset=preset
    )
    file = folder / "int8.safetensors"
    write_calibration(file, found)
    return {"calibration": str(file), "targets": targets_of(found)}


def open_variant(
    assets: Path, batch: int | None, variant: Variant, dtype: str | None = None
) -> tuple[Bench, Variant]:
    """The toy with the variant's passes; of a plan, without those that refuse the toy. Raises `ConfigError`
    for a single pass that refuses."""
    if not variant.wants:
        return open_bench(assets, batch, dtype=dtype), variant
    plain = open_bench(assets, batch, dtype=dtype)
    passes, lacks = tuple[Pass, ...](), list(variant.lacks)
    for wanted in variant.wants:
        for one in wanted:
            network = plain.wan if one.part == "transformer" else plain.vae
            _, rung = changed(one.part, network, Rung(name=variant.name, passes=(*passes, one)))
            lacks += [f"{one.name}: {reason}" for reason in rung.lacks]
            if one in rung.passes:
                passes = rung.passes
                break
    if not passes:
        raise ConfigError("; ".join(lacks))
    bench = open_bench(assets, batch, Plan(passes=passes), dtype=dtype)
    return bench, replace(variant, passes=passes, lacks=tuple(lacks))


@torch.no_grad()
def make(bench: Bench, prompts: Prompts, fields: Mapping[str, Any], *, is_floor: bool) -> Clips:
    """All prompts' clips."""
    begin = time.perf_counter()
    frames, found, features = [], [], []
    for clips in _generated(bench, prompts, fields, is_floor=is_floor):
        frames.append(clips.cpu())
        video = to_video(clips, bench.device)
        found.append(read(bench, video))
        seen = bench.judge.describe(video[:, :, ::FRAME_STRIDE].float()).double()
        features.append(torch.cat([seen.mean(1), seen.std(1, correction=0)], dim=1).cpu())
    return Clips(
        frames=torch.cat(frames),
        read=joined(found),
        features=torch.cat(features).numpy(),
        seconds=time.perf_counter() - begin,
    )


def _generated(
    bench: Bench, prompts: Prompts, fields: Mapping[str, Any], *, is_floor: bool
) -> Iterator[Tensor]:
    with other_kernel(bench.device, bench.dtype) if is_floor else nullcontext():
        yield from generate(bench, prompts, fields)


def figures(bench: Bench, plain: Clips, clips: Clips, asked: Mapping[str, Tensor]) -> dict[str, Any]:
    """Against the plain run, clip by clip; PSNR is that of the mean squared error, null for equal clips."""
    right = count_right(clips.read, asked, bench.judge.config.classes)
    errors = (clips.frames.float() - plain.frames.float()).square().mean(dim=(1, 2, 3, 4)).double()
    pairs = zip(plain.frames[:, ::SSIM_STRIDE], clips.frames[:, ::SSIM_STRIDE], strict=True)
    similar = [ssim(x.numpy(), y.numpy()) for a, b in pairs for x, y in zip(a, b, strict=True)]
    distance = frechet_distance(plain.features, clips.features) if len(errors) > 1 else None
    psnr = psnr_db(float(errors.mean()))
    return {
        "adherence": {name: figure.share for name, figure in right.items()},
        "right": right[JOINT].right,
        "num_clips": len(errors),
        "psnr_db": None if math.isinf(psnr) else round(psnr, 2),
        "worst_clip_db": None if errors.max() == 0 else round(psnr_db(float(errors.max())), 2),
        "ssim": round(float(np.mean(similar)), 5),
        "frechet": None if distance is None else {**asdict(distance), "caveat": distance.caveat},
        "seconds": round(clips.seconds, 2),
    }


def verdict(name: str, row: Mapping[str, Any], plain: Mapping[str, Any], floor: Mapping[str, Any]) -> str:
    """Of the two plans that promise something: met, short, or nothing for the others and without a floor."""
    if name == "plan exact" and "psnr_db" in floor:
        bar = min(_db(floor["psnr_db"]) - FLOOR_SLACK_DB, ONE_LEVEL_DB)
        return "met" if _db(row["psnr_db"]) >= bar else "short"
    if name == "plan fast":
        lost = plain["adherence"][JOINT] - row["adherence"][JOINT]
        return "met" if lost <= LOSS_BAR else "short"
    return ""


def _db(value: float | None) -> float:
    return math.inf if value is None else value


class Table:
    """Rows as they come, in one JSON file that is whole after each."""

    def __init__(self, file: Path, content: dict[str, Any]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file, self.content = file, {**content, "rows": {}}

    def add(self, name: str, row: Mapping[str, Any]) -> None:
        """Keep and print one."""
        self.content["rows"][name] = dict(row)
        self._file.write_text(json.dumps(self.content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        print(line(name, row), flush=True)


def line(name: str, row: Mapping[str, Any]) -> str:
    """One row in words."""
    if "refused" in row:
        return f"{name:<24} refused: {row['refused']}"
    psnr = "equal" if row["psnr_db"] is None else f"{row['psnr_db']:.1f} dB"
    frechet = "-" if row["frechet"] is None else f"{row['frechet']['corrected']:.3g}"
    words = f"{100 * row['adherence'][JOINT]:5.1f} % right, PSNR {psnr}, SSIM {row['ssim']:.4f}"
    return f"{name:<24} {words}, Fréchet {frechet}, {row['seconds']:.0f} s {row['verdict']}"


def run(args: argparse.Namespace) -> int:
    """Make the table; 1 when a plan falls short of what it promises."""
    with tempfile.TemporaryDirectory(prefix="passes-quality-") as folder:
        return _run(args, Path(folder))


def _run(args: argparse.Namespace, folder: Path) -> int:
    begin = time.perf_counter()
    prompts = evaluation_prompts(args.prompts)
    asked = labels_of(prompts.scenes, torch.device("cpu"))
    bench = open_bench(args.assets, args.batch, dtype=args.dtype)
    is_wanted = not args.only or any(name.startswith("int8-linears") for name in args.only)
    todo, refused = variants(bench.device, calibrated(bench, folder, args.preset) if is_wanted else None)
    content = {
        **about(bench.device),
        "prompts": args.prompts,
        "preset": args.preset,
        "dtype": str(bench.dtype),
    }
    table = Table(args.out, content if args.commit is None else {**content, "commit": args.commit})
    plain: Clips | None = None
    longest = 0.0
    for variant in todo:
        if not _is_asked(variant.name, args):
            continue
        if time.perf_counter() - begin + longest > args.seconds:
            table.add(variant.name, {"refused": f"no time: {args.seconds:.0f} s were given"})
            continue
        started = time.perf_counter()
        try:
            bench, done = open_variant(args.assets, args.batch, variant, args.dtype)
            fields = {"preset": args.preset, **variant.fields}
            clips = make(bench, prompts, fields, is_floor=variant.is_floor)
        except (RushesError, RuntimeError) as error:  # RuntimeError: a kernel that torch does not have here
            table.add(variant.name, {"refused": str(error).strip().splitlines()[0]})
            continue
        plain = plain or clips
        row = figures(bench, plain, clips, asked)
        rows = {**table.content["rows"], variant.name: row}
        said = verdict(variant.name, row, rows["plain"], rows.get(FLOOR, {}))
        table.add(variant.name, {**row, **_settings(done), "verdict": said})
        longest = max(longest, time.perf_counter() - started)
    for name, reason in refused.items():
        if _is_asked(name, args):
            table.add(name, {"refused": reason})
    return int(any(row.get("verdict") == "short" for row in table.content["rows"].values()))


def _is_asked(row: str, args: argparse.Namespace) -> bool:
    if row == FLOOR:
        return not args.no_floor
    return not args.only or row in ("plain", *args.only)


def _settings(variant: Variant) -> dict[str, Any]:
    passes = [{"name": one.name, **settings_of(one)} for one in variant.passes]
    return {"passes": passes, "fields": dict(variant.fields), "lacks": list(variant.lacks)}


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--preset", default="quality", help="named sampling settings")
    parser.add_argument(
        "--only", action="append", default=[], help="a row beside plain and floor; repeatable"
    )
    parser.add_argument(
        "--no-floor", action="store_true", help="leave the noise floor out: on a CPU it takes longest of all"
    )
    parser.add_argument("--dtype", help="float32 or bfloat16")
    parser.add_argument("--batch", type=int, help="clips made at a time; 64 on a GPU, else 2")
    parser.add_argument("--seconds", type=float, default=7200, help="begin no row that would end after these")
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--commit", help="of the code, where there is no checkout")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(run(arguments(None)))
