"""What every pass costs on the toy: adherence, Fréchet distance, PSNR and SSIM against the plain run.

    python -m benchmarks.passes_quality --prompts 24                   # a sample on a CPU
    python -m benchmarks.passes_quality --prompts 512 --seconds 500    # the table; needs a GPU

Every pass of the registry runs alone, then the plans of the presets, then what steps reuse. Beside them the
noise floor: the plain model with another attention kernel. A pass that refuses the device or the toy is
listed with its reason. Prompts and seeds are those of `benchmarks.judge`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.judge import ASSETS
from benchmarks.judge_clips import Bench, generate, joined, open_bench, read, to_video
from benchmarks.judge_report import JOINT, count_right
from benchmarks.speed_rungs import Rung, changed
from torch import Tensor
from training.clips import labels_of
from training.world.prompts import Prompts, evaluation_prompts

from rushes.errors import ConfigError, RushesError
from rushes.models.judge import FRAME_STRIDE
from rushes.passes.base import PASSES, Pass, settings_of
from rushes.passes.plan import Plan
from rushes.passes.presets import PLAN_PRESETS, Candidate, reuse_of
from rushes.profiling.bench.about import about
from rushes.profiling.bench.quality import other_kernel
from rushes.profiling.optimize import FLOOR_SLACK_DB, ONE_LEVEL_DB, propose
from rushes.profiling.quality.frechet import frechet_distance
from rushes.profiling.quality.pixels import psnr_db, ssim

OUT = Path("benchmarks/results/passes_quality.json")
SSIM_STRIDE = 8
"""Frames between two whose SSIM is taken: it takes longer than making a clip on a GPU."""

LOSS_BAR = 0.02
"""Of adherence, that the fast preset may lose."""

FLOOR = "noise floor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to make the clips.

    Attributes:
        fields: of the requests.
        lacks: passes that it should have and that refused, with why.
    """

    name: str
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


def variants(device: torch.device) -> tuple[list[Variant], dict[str, str]]:
    """All that this machine can make, and why it cannot make the rest, by name."""
    found, refused = [Variant(name="plain"), Variant(name=FLOOR, is_floor=True)], dict[str, str]()
    known = {one.name: one for preset in PLAN_PRESETS.values() for one in preset.candidates}
    for name in PASSES.names():
        one, reason = proposed(known.get(name, Candidate(name=name)), device)
        if one is None:
            refused[name] = reason
        else:
            found.append(Variant(name=name, passes=(one,)))
    found.append(Variant(name="reuse of steps", fields=reuse_of("toy")))
    for name, preset in PLAN_PRESETS.items():
        passes, lacks = list[Pass](), list[str]()
        for candidate in preset.candidates:
            if candidate.instead_of in {one.name for one in passes}:
                continue
            one, reason = proposed(candidate, device)
            if one is None:
                lacks.append(f"{candidate.name}: {reason}")
            else:
                passes.append(one)
        fields = reuse_of("toy") if preset.reuses else {}
        found.append(Variant(name=f"plan {name}", passes=tuple(passes), fields=fields, lacks=tuple(lacks)))
    return found, refused


def proposed(candidate: Candidate, device: torch.device) -> tuple[Pass | None, str]:
    """With the settings of small models where a candidate has such."""
    is_sized = candidate.cpu_settings is not None and candidate.name != "attention"
    return propose(candidate, "cpu" if is_sized else device.type)


def open_variant(assets: Path, batch: int | None, variant: Variant) -> tuple[Bench, Variant]:
    """The toy with the variant's passes; of a plan, without those that refuse the toy. Raises `ConfigError`
    for a single pass that refuses."""
    if not variant.passes:
        return open_bench(assets, batch), variant
    plain = open_bench(assets, batch)
    rung = Rung(name=variant.name, passes=variant.passes, lacks=variant.lacks)
    _, rung = changed("transformer", plain.wan, rung)
    _, rung = changed("vae", plain.vae, rung)
    if not rung.passes:
        raise ConfigError("; ".join(rung.lacks))
    bench = open_bench(assets, batch, Plan(passes=rung.passes))
    return bench, replace(variant, passes=rung.passes, lacks=rung.lacks)


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
    """Of the two plans that promise something: met, short, or nothing for the others."""
    if name == "plan exact":
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
    begin = time.perf_counter()
    prompts = evaluation_prompts(args.prompts)
    asked = labels_of(prompts.scenes, torch.device("cpu"))
    bench = open_bench(args.assets, args.batch)
    todo, refused = variants(bench.device)
    content = {**about(bench.device), "prompts": args.prompts, "preset": args.preset}
    table = Table(args.out, content if args.commit is None else {**content, "commit": args.commit})
    plain: Clips | None = None
    longest = 0.0
    for variant in todo:
        if args.only and variant.name not in ("plain", FLOOR, *args.only):
            continue
        if time.perf_counter() - begin + longest > args.seconds:
            table.add(variant.name, {"refused": f"no time: {args.seconds:.0f} s were given"})
            continue
        started = time.perf_counter()
        try:
            bench, done = open_variant(args.assets, args.batch, variant)
            fields = {"preset": args.preset, **variant.fields}
            clips = make(bench, prompts, fields, is_floor=variant.is_floor)
        except (RushesError, RuntimeError) as error:  # RuntimeError: a kernel that torch does not have here
            table.add(variant.name, {"refused": str(error).strip().splitlines()[0]})
            continue
        plain = plain or clips
        row = figures(bench, plain, clips, asked)
        rows = {**table.content["rows"], variant.name: row}
        said = verdict(variant.name, row, rows["plain"], rows.get(FLOOR, row))
        table.add(variant.name, {**row, **_settings(done), "verdict": said})
        longest = max(longest, time.perf_counter() - started)
    for name, reason in refused.items():
        table.add(name, {"refused": reason})
    return int(any(row.get("verdict") == "short" for row in table.content["rows"].values()))


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
    parser.add_argument("--batch", type=int, help="clips made at a time; 64 on a GPU, else 2")
    parser.add_argument("--seconds", type=float, default=7200, help="begin no row that would end after these")
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--commit", help="of the code, where there is no checkout")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(run(arguments(None)))
