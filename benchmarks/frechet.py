"""The Fréchet distance between sets of toy clips over the judge's features, beside its floor.

    python -m benchmarks.frechet --clips 1000 --against preset=fast --against step_cache=0.1 -o frechet.json

The reference is the quality preset, or what `--reference` says. The floor is the same setting with other
seeds: a distance that does not lie above it says nothing. Every set has the same held-out prompts, clip by
clip; the floor and the sets compared have seeds of their own, so that all are drawn alike. Clips are made in
batches by the library's stages and looked at in batches on the device; none is kept.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.judge_clips import Bench, generate, open_bench
from numpy.typing import NDArray
from training.world.prompts import Prompts, evaluation_prompts

from rushes.errors import InvalidRequest, RushesError
from rushes.pipelines.rules import FIELDS, load_rules, resolve
from rushes.profiling.bench.about import about
from rushes.profiling.bench.quality import other_kernel
from rushes.profiling.output import write_json
from rushes.profiling.quality.frechet import MIN_CLIPS, FrechetDistance, frechet_distance
from rushes.profiling.quality.judged import ClipJudge

ASSETS = Path("src/rushes/assets")
FLOOR = "floor"
KERNEL = {"kernel": "other"}
"""A switch beside the fields of a request: attention by a kernel that torch would not take by itself."""

Features = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How one set of clips is made.

    Attributes:
        fields: of the requests.
        seeds_from: added to the prompts' seeds.
    """

    name: str
    fields: Mapping[str, Any]
    seeds_from: int = 0
    has_other_kernel: bool = False


def main(argv: Sequence[str] | None = None) -> None:
    """Make the sets, print a line for each, write the JSON."""
    args = arguments(argv)
    settings = list(settings_of(args.reference, args.against, args.clips))
    bench = open_bench(args.assets, args.batch, device=args.device, dtype=args.dtype)
    prompts = evaluation_prompts(args.clips)
    features, seconds = {}, {}
    for setting in settings:
        begin = time.perf_counter()
        features[setting.name] = np.concatenate(list(features_of(bench, prompts, setting)))
        seconds[setting.name] = round(time.perf_counter() - begin, 2)
        print(f"{setting.name}: {len(prompts.texts)} clips in {seconds[setting.name]} s", flush=True)
    reference, *others = settings
    found = {each.name: frechet_distance(features[reference.name], features[each.name]) for each in others}
    for name, distance in found.items():
        print(line(name, distance, found[FLOOR]))
    if args.clips < MIN_CLIPS:
        print(found[FLOOR].caveat)
    if args.output is not None:
        write_json(args.output, report(bench, args, settings, seconds, found), indent=1)


def settings_of(reference: str, against: Sequence[str], num_clips: int) -> Iterator[Setting]:
    """The reference, its floor, and what is compared with it. No two of them share a seed."""
    base = fields_of(reference)
    yield Setting(name="reference", fields=base)
    yield Setting(name=FLOOR, fields=base, seeds_from=num_clips)
    for number, text in enumerate(against, 2):
        changes = fields_of(text)
        is_other = changes.pop("kernel", None) is not None
        yield Setting(
            name=text,
            fields={**base, **changes},
            seeds_from=number * num_clips,
            has_other_kernel=is_other,
        )


def fields_of(text: str) -> dict[str, Any]:
    """`preset=fast,step_cache=0.1` as fields of a request. Raises `RushesError` for what the toy has not."""
    pairs = dict(pair.split("=", 1) if "=" in pair else (pair, "") for pair in text.split(",") if pair)
    kernel = {name: pairs.pop(name) for name in KERNEL if pairs.get(name) == KERNEL[name]}
    fields = {name: FIELDS[name].type(value) if name in FIELDS else value for name, value in pairs.items()}
    if "seed" in fields:
        raise InvalidRequest("seed", "every clip has its own")
    resolve(load_rules("toy"), "a dog", **fields)
    return {**fields, **kernel}


def features_of(bench: Bench, prompts: Prompts, setting: Setting) -> Iterator[Features]:
    """[B, 64] of a set's clips, batch by batch."""
    seeds = tuple(seed + setting.seeds_from for seed in prompts.seeds)
    judge = ClipJudge(bench.judge, bench.device)
    is_causal = setting.fields.get("mode") == "causal"
    with other_kernel(bench.device, bench.dtype) if setting.has_other_kernel else nullcontext():
        for clips in generate(bench, replace(prompts, seeds=seeds), setting.fields, causal=is_causal):
            yield judge.features(clips)


def line(name: str, found: FrechetDistance, floor: FrechetDistance) -> str:
    """A distance beside the floor's upper bound."""
    interval = f"{found.corrected:.4g} (95 %: {found.low:.4g} to {found.high:.4g})"
    if found is floor:
        return f"{name}: {interval}, uncorrected {found.distance:.4g}: the same setting, other seeds"
    verdict = "above the floor" if found.low > floor.high else "not told from the floor"
    return f"{name}: {interval}, uncorrected {found.distance:.4g}: {verdict}"


def report(
    bench: Bench,
    args: argparse.Namespace,
    settings: Sequence[Setting],
    seconds: Mapping[str, float],
    found: Mapping[str, FrechetDistance],
) -> dict[str, Any]:
    """Everything, as JSON."""
    job = bench.model.job("a dog", **settings[0].fields)
    request = {key: value for key, value in asdict(job.request).items() if key in ("video", "sampling")}
    return {
        "about": about(bench.device, ()) | {"command": ["python", "-m", "benchmarks.frechet", *args.argv]},
        "dtype": str(bench.dtype).removeprefix("torch."),
        "batch": bench.batch,
        "clips": args.clips,
        "request": request,
        "settings": [asdict(setting) for setting in settings],
        "seconds": dict(seconds),
        "distances": {name: asdict(distance) for name, distance in found.items()},
    }


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=MIN_CLIPS, help="of each set")
    parser.add_argument("--reference", default="preset=quality", help="FIELD=VALUE,... of the reference")
    parser.add_argument("--against", action="append", default=[], help="FIELD=VALUE,... or kernel=other")
    parser.add_argument("--batch", type=int, help="clips made at a time; 64 on a GPU, else 2")
    parser.add_argument("--device")
    parser.add_argument("--dtype")
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("-o", "--output", type=Path, help="write everything as JSON")
    args = parser.parse_args(argv)
    args.argv = sys.argv[1:] if argv is None else list(argv)
    if args.clips < 2:
        parser.error("--clips: at least 2 are needed for a covariance")
    try:
        for text in (args.reference, *args.against):
            fields_of(text)
    except (RushesError, ValueError) as error:
        parser.error(str(error))
    return args


if __name__ == "__main__":
    main()
