"""How well the toy model follows prompts, as the judge reads its clips.

    python -m benchmarks.judge                                # 24 clips, beside the whole table
    python -m benchmarks.judge --full                         # the whole table; needs a GPU
    python -m benchmarks.judge --guidance 1,2,3 --shift 3,5   # a line per combination, to choose presets by

Without a flag it exits with 1 when the sample lies outside the 99 % interval of the table's rates.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.judge_clips import joined, open_bench, to_video
from benchmarks.judge_report import (
    COLUMNS,
    Figure,
    Report,
    binomial_interval,
    count_right,
    short_line,
    table,
)
from benchmarks.judge_rows import CPU, GENERATED, TableMaker
from torch import Tensor
from training.clips import labels_of
from training.world.preview import contact_sheet
from training.world.prompts import NUM_PROMPTS, evaluation_prompts

import rushes
from rushes.errors import did_you_mean
from rushes.models.judge import load_judge

TABLE = Path("benchmarks/results/judge_full.json")
ASSETS = Path("src/rushes/assets")
FEW_STEP = "toy/few_step.safetensors"
NUM_SAMPLE = 24


def full(args: argparse.Namespace) -> None:
    """The whole table as text, as JSON and, if asked for, a contact sheet."""
    begin = time.perf_counter()
    bench = open_bench(args.assets, args.batch)
    print(f"loaded in {time.perf_counter() - begin:.0f} s; {bench.batch} clips a batch", flush=True)
    report = Report(about=about(bench.device, args)) if args.onto is None else without_rows(args)
    maker = TableMaker(bench, report, num=args.prompts, limit_s=args.seconds)
    maker.add_generated(args.rows, has_few_step=(args.assets / FEW_STEP).is_file())
    if args.onto is None:
        maker.add_expert_loads()
        maker.add_references()
    else:
        report.about["later"] = {**about(bench.device, args), "rows": ", ".join(args.rows)}
    report.about["seconds"] = round(time.perf_counter() - begin)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report.to_json(), indent=1) + "\n")
    if args.sheet and maker.first_clips:
        save_sheet(
            torch.cat(maker.first_clips)[:NUM_SAMPLE], evaluation_prompts(args.prompts).texts, args.sheet
        )
    print(table(report))


def without_rows(args: argparse.Namespace) -> Report:
    """The table that some rows are made anew for, without these."""
    report = Report.from_json(json.loads(args.onto.read_text()))
    report.rows[:] = [row for row in report.rows if row.name not in args.rows]
    return report


def about(device: torch.device, args: argparse.Namespace) -> dict[str, Any]:
    """What the figures were made with and on."""
    found = {"commit": args.commit, "prompts": args.prompts, "device": platform.machine()}
    found |= {"python": platform.python_version(), "torch": torch.__version__, "rushes": rushes.__version__}
    if device.type == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split("\n")[0]
        found |= {"device": torch.cuda.get_device_name(device), "cuda": torch.version.cuda, "driver": driver}
    return found


def save_sheet(clips: Tensor, texts: Sequence[str], file: Path) -> None:
    """uint8 clips [B, T, H, W, 3] of the first prompts, each prompt above its frames."""
    file.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(to_video(clips, CPU), list(texts[: len(clips)]), columns=2).save(file)


def sweep(args: argparse.Namespace) -> None:
    """One line a combination of guidance, shift and solver, for each of the rows."""
    bench = open_bench(args.assets, args.batch)
    begin = time.perf_counter()
    for guidance, shift, solver in itertools.product(args.guidance, args.shift, args.solver):
        asked = {"guidance_high": guidance, "flow_shift": shift, "solver": solver}
        changes = {name: value for name, value in asked.items() if value is not None}
        print(" ".join(f"{name}={value}" for name, value in changes.items()), flush=True)
        left_s = args.seconds - (time.perf_counter() - begin)
        maker = TableMaker(bench, Report(about={}), num=args.prompts, limit_s=left_s, changes=changes)
        maker.add_generated(args.rows, has_few_step=(args.assets / FEW_STEP).is_file())


def sample(args: argparse.Namespace) -> int:
    """The first prompts beside the table; 1 when they lie outside its 99 % interval."""
    if not args.out.is_file():
        raise SystemExit(f"{args.out}: missing; --full writes it")
    whole = Report.from_json(json.loads(args.out.read_text()))
    row = whole.row("quality")
    assert row is not None, f"{args.out} holds no row of the quality preset"
    print(f"The whole table, from {args.out}:\n\n{table(whole)}\n")
    print(f"A fresh sample on this machine, the first {NUM_SAMPLE} prompts of its first row:\n")
    figures = sample_figures(args.assets)
    outside = outliers(figures, row.figures)
    print(f"\noutside the 99 % interval of {NUM_SAMPLE} draws: {', '.join(outside) or 'none'}")
    print(short_line("table ", row.figures))
    print(short_line("sample", figures))
    return 1 if outside else 0


def sample_figures(assets: Path) -> dict[str, Figure]:
    """Of clips made one by one through the public API."""
    prompts = evaluation_prompts()
    model = rushes.load(assets / "toy")
    judge = load_judge(assets / "judge")
    found = []
    for number, text in enumerate(prompts.texts[:NUM_SAMPLE]):
        begin = time.perf_counter()
        frames = torch.from_numpy(model.generate(text, seed=prompts.seeds[number], preset="quality").frames)
        logits = judge(to_video(frames[None], CPU))
        found.append({name: values.argmax(1) for name, values in logits.items()})
        print(f"{number + 1:>4} {time.perf_counter() - begin:5.1f} s  {text}", flush=True)
    labels = labels_of(prompts.scenes[slice(NUM_SAMPLE)], CPU)
    return count_right(joined(found), labels, judge.config.classes)


def outliers(figures: dict[str, Figure], expected: dict[str, Figure]) -> list[str]:
    """Columns in which a sample lies outside the 99 % interval of its size at the expected rate.

    The rate is (right + 1) / (num + 2): that nothing failed in the table does not mean that nothing can.
    """
    found = []
    for name in COLUMNS:
        rate = (expected[name].right + 1) / (expected[name].num + 2)
        low, high = binomial_interval(figures[name].num, rate)
        if not low <= figures[name].right <= high:
            found.append(f"{name} ({figures[name].right}, expected {low} to {high})")
    return found


def main() -> int:
    args = arguments()
    if any(values != [None] for values in (args.guidance, args.shift, args.solver)):
        sweep(args)
    elif args.full:
        full(args)
    else:
        return sample(args)
    return 0


def arguments() -> argparse.Namespace:
    """The command line; lists are separated by commas."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="make the whole table")
    parser.add_argument("--rows", type=_rows, default=list(GENERATED), help=", ".join(GENERATED))
    parser.add_argument("--prompts", type=int, default=NUM_PROMPTS)
    parser.add_argument("--batch", type=int, help="clips made at a time; 64 on a GPU, else 2")
    parser.add_argument("--seconds", type=float, default=570, help="begin no row that would end after these")
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--out", type=Path, default=TABLE, help="the whole table, as JSON")
    parser.add_argument("--onto", type=Path, help="make --rows anew and keep all else of this table")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet of the first clips there")
    parser.add_argument("--commit", default="unknown", help="of the code and weights, for the record")
    parser.add_argument("--guidance", type=_numbers, default=[None])
    parser.add_argument("--shift", type=_numbers, default=[None])
    parser.add_argument("--solver", type=lambda text: text.split(","), default=[None])
    return parser.parse_args()


def _rows(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in GENERATED:
            hint = did_you_mean(name, GENERATED)
            raise argparse.ArgumentTypeError(f"{name!r} is no row{hint}; choose from {', '.join(GENERATED)}")
    return names


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


if __name__ == "__main__":
    raise SystemExit(main())
