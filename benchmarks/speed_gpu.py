"""The speed table of one GPU: true shapes, random weights, diffusers eager in turn with every rung of ours.

    python -m benchmarks.speed_gpu --commit $(git rev-parse --short HEAD) --seconds 420
    python -m benchmarks.speed_gpu --only a14b-720p-4 --only 5b-704p-3 --seconds 300 --name speed_h200_b

Rows run in the order of their weight; one whose expected end lies behind the budget is skipped, and another
call makes it. Figures go to `$OUT/<name>.json` after every figure; `make bench-report` reads all of them.
`--tiny` runs every row on the CPU in shapes that prove nothing but the code.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import diffusers
import torch
import transformers
from benchmarks.gpu_report import Report, about_machine, free_memory
from benchmarks.speed_cold import cold_start
from benchmarks.speed_fleet import A14B, TI2V_5B, TINY_5B, TINY_A14B, Fleet, Kind
from benchmarks.speed_rungs import LADDER
from torch import Tensor

from benchmarks import speed_rows

WARM_S = 20.0


@dataclass(slots=True, kw_only=True)
class Bench:
    """What the rows share; a fleet is made when first needed, and given back before another kind's."""

    device: torch.device
    is_tiny: bool
    rounds: int
    clips: int
    without: tuple[str, ...]
    fleet: Fleet | None = None
    reference: Tensor | None = None

    def of(self, kind: str) -> Fleet:
        """The fleet of "a14b" or "5b"."""
        wanted = self.kind(kind)
        if self.fleet is None or self.fleet.kind is not wanted:
            self.fleet = None
            free_memory()
            self.fleet = Fleet(wanted, self.device, is_tiny=self.is_tiny, without=self.without)
        return self.fleet

    def kind(self, name: str) -> Kind:
        """Its shapes."""
        both = {"a14b": (A14B, TINY_A14B), "5b": (TI2V_5B, TINY_5B)}
        return both[name][int(self.is_tiny)]

    @property
    def warm_s(self) -> float:
        """Of load before a timed forward."""
        return 0.0 if self.is_tiny else WARM_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One part of the report.

    Attributes:
        expected_s: on an H200, with what is compiled for it.
    """

    measure: Callable[[Report, Bench], None]
    expected_s: float


def precision(report: Report, bench: Bench) -> None:
    """Its network becomes the A14B fleet's."""
    kind = bench.kind("a14b")
    network, bench.reference = speed_rows.precision(report, kind, bench.device, is_tiny=bench.is_tiny)
    fleet = Fleet(kind, bench.device, is_tiny=bench.is_tiny, base=network, without=bench.without)
    bench.fleet = fleet


def errors(report: Report, bench: Bench) -> None:
    """Needs the reference of the row `precision`."""
    if bench.reference is None:
        raise RuntimeError("the float32 output is made by the row `precision`; run both in one call")
    speed_rows.errors(report, bench.of("a14b"), bench.reference)


def compiling(report: Report, bench: Bench) -> None:
    """First calls at the full shape, less a warm one: this process began with empty caches."""
    fleet = bench.of("a14b")
    found = report.content["parts"].get("a14b-480p-40", {}).get("figures", {})
    timed = {name: found[name] for name, _, _ in LADDER if "forward_s" in found.get(name, {})}
    if not timed:
        raise RuntimeError("first calls are timed by the row `a14b-480p-40`; run both in one call")
    for name, figures in timed.items():
        seconds = round(figures["first_s"] - figures["forward_s"], 2)
        report.add(name, {"seconds": max(0.0, seconds), **fleet.rung(name)[2].about()})


def rows() -> Mapping[str, Row]:
    """Every row, the weightiest first."""

    def steps(report: Report, bench: Bench) -> None:
        fleet = bench.of("a14b")
        speed_rows.steps_40(report, fleet, "480p", rounds=bench.rounds, warm_s=bench.warm_s)

    def clips(kind: str, clip: str) -> Callable[[Report, Bench], None]:
        return lambda report, bench: speed_rows.clips(report, bench.of(kind), clip, rounds=bench.clips)

    def vae(kind: str, clip: str) -> Callable[[Report, Bench], None]:
        return lambda report, bench: speed_rows.decoding(
            report, bench.of(kind), clip, rounds=bench.clips, without=bench.without
        )

    def batched(report: Report, bench: Bench) -> None:
        speed_rows.decoding_batched(report, bench.of("a14b"), "480p", rounds=bench.clips)

    def first(report: Report, bench: Bench) -> None:
        speed_rows.first_frame(report, bench.of("a14b"), "480p", rounds=bench.clips)

    def cold(report: Report, bench: Bench) -> None:
        cold_start(report, bench.of("a14b"), is_tiny=bench.is_tiny)

    return {
        "precision": Row(measure=precision, expected_s=20.0),
        "a14b-480p-40": Row(measure=steps, expected_s=150.0),
        "compile": Row(measure=compiling, expected_s=1.0),
        "a14b-480p-4": Row(measure=clips("a14b", "480p"), expected_s=90.0),
        "vae21-480p": Row(measure=vae("a14b", "480p"), expected_s=30.0),
        "first-frame-480p": Row(measure=first, expected_s=12.0),
        "errors": Row(measure=errors, expected_s=30.0),
        "vae21-batch": Row(measure=batched, expected_s=25.0),
        "5b-704p-3": Row(measure=clips("5b", "704p"), expected_s=75.0),
        "vae22-704p": Row(measure=vae("5b", "704p"), expected_s=55.0),
        "a14b-720p-4": Row(measure=clips("a14b", "720p"), expected_s=230.0),
        "cold-start": Row(measure=cold, expected_s=150.0),
    }


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    names = list(rows())
    parser = argparse.ArgumentParser(description="The speed table of one GPU: true shapes, random weights")
    parser.add_argument("--commit", default="unknown", help="of the code, kept with the figures")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--only", action="append", default=[], choices=names, help="may be repeated")
    parser.add_argument("--skip", action="append", default=[], choices=names, help="may be repeated")
    parser.add_argument("--without", action="append", default=[], help="a pass to leave out; may be repeated")
    parser.add_argument("--rounds", type=int, default=8, help="timed forwards of each contender")
    parser.add_argument("--clips", type=int, default=3, help="timed clips and decodes of each contender")
    parser.add_argument("--seconds", type=float, default=420.0, help="begin nothing that would end later")
    parser.add_argument("--name", default="speed_gpu", help="of the file in $OUT")
    parser.add_argument("--keep-caches", action="store_true", help="use what was compiled before")
    return parser.parse_args(argv)


def empty_caches(folder: Path) -> None:
    """Point every cache of compiled code at an empty folder, so that `compile` tells the truth."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
    os.environ["RUSHES_CACHE"] = str(folder / "rushes")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rows; 1 when one of them failed."""
    asked = arguments(argv)
    device = torch.device("cpu" if asked.tiny else "cuda")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch._dynamo.config.recompile_limit = 128  # one process holds the blocks of many rungs and shapes
    versions = {"diffusers": diffusers.__version__, "transformers": transformers.__version__}
    about = {"commit": asked.commit, "tiny": asked.tiny, **about_machine(device), **versions}
    about |= {"command": ["python", "-m", "benchmarks.speed_gpu", *(argv or sys.argv[1:])]}
    report = Report(
        Path(os.environ.get("OUT", "benchmarks/results")) / f"{asked.name}.json", about, asked.seconds
    )
    bench = Bench(
        device=device,
        is_tiny=asked.tiny,
        rounds=asked.rounds,
        clips=asked.clips,
        without=tuple(asked.without),
    )
    with tempfile.TemporaryDirectory(prefix="rushes-caches-") as folder:
        if not asked.keep_caches:
            empty_caches(Path(folder))
        for name, row in rows().items():
            if name in asked.skip or (asked.only and name not in asked.only):
                report.skip(name)
                continue
            expected_s = 0.0 if asked.tiny else row.expected_s
            report.part(name, lambda part, row=row: row.measure(part, bench), expected_s=expected_s)
    report.print_table()
    return int(report.has_failed)


if __name__ == "__main__":
    sys.exit(main())
