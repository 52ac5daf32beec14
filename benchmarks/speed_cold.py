"""Cold start of a whole A14B: a checkpoint on the disk, a fresh process, the time until it could serve."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from benchmarks.gpu_report import Report
from benchmarks.speed_fleet import Fleet

from rushes.models.checkpoint_writer import make_checkpoint
from rushes.passes.plan import Plan
from rushes.pipelines.rules import load_rules, resolve
from rushes.profiling.bench.base import Place
from rushes.profiling.bench.cold_start import cold_start as measure
from rushes.profiling.bench.measure import shortest
from rushes.types import GenerateRequest

ROOM = 60e9
"""Bytes of disk that the checkpoint takes: one noise expert under two names, UMT5, VAE; and some."""


def cold_start(report: Report, fleet: Fleet, *, is_tiny: bool) -> None:
    """Plain, and with the exact plan; the second process of a plan finds compiled code in the cache."""
    with tempfile.TemporaryDirectory(prefix="rushes-cold-") as scratch:
        free = shutil.disk_usage(scratch).free
        if not is_tiny and free < ROOM:
            raise RuntimeError(f"needs {ROOM / 1e9:.0f} GB of disk, {free / 1e9:.0f} are free")
        begin = time.perf_counter()
        folder = write_checkpoint(fleet, Path(scratch) / "checkpoint", is_tiny=is_tiny)
        report.add("writing the checkpoint", time.perf_counter() - begin, "s")
        request = _request(fleet)
        plan = Path(scratch) / "plan.json"
        exact = fleet.rung("exact")[2]
        plan.write_text(Plan(passes=exact.passes).to_json())
        for name, file in (("plain", None), ("exact, nothing compiled", plan), ("exact", plan)):
            place = Place(
                model=str(folder),
                device=fleet.device.type,
                dtype="bfloat16" if not is_tiny else "float32",
                plan=None if file is None else str(file),
            )

            def run(name: str = name, place: Place = place) -> None:
                found = measure("rushes", place, request)
                ready = found.import_s + found.load_s + found.first_run_s
                figures = {"import_s": found.import_s, "load_s": found.load_s}
                figures |= {"first_run_s": found.first_run_s, "seconds": ready}
                report.add(name, {key: round(value, 3) for key, value in figures.items()})

            report.attempt(name, run)


def write_checkpoint(fleet: Fleet, folder: Path, *, is_tiny: bool) -> Path:
    """A folder in diffusers' layout; the low-noise expert is a link to the high-noise one."""
    if is_tiny:
        return make_checkpoint("a14b", folder)
    pipe = fleet.their_pipe
    pipe.register_modules(transformer_2=None)
    pipe.save_pretrained(folder, max_shard_size="5GB")
    shutil.rmtree(folder / "transformer_2", ignore_errors=True)
    (folder / "transformer_2").symlink_to("transformer")
    index = folder / "model_index.json"
    index.write_text(
        index.read_text().replace(
            '"transformer_2": [\n    null,\n    null\n  ]',
            '"transformer_2": [\n    "diffusers",\n    "WanTransformer3DModel"\n  ]',
        )
    )
    pipe.register_modules(transformer_2=fleet.twin)
    return folder


def _request(fleet: Fleet) -> GenerateRequest:
    """The shortest clip of the size at which it should be ready."""
    rules, video = load_rules(fleet.kind.rules), fleet.kind.clips["480p"]
    size = {"width": video.width, "height": video.height, "num_frames": video.num_frames}
    return shortest(resolve(rules, "a dog", seed=7, **size), rules.boundary)
