"""What the audits' comparison sees: rendered scenes of one meaning, and of two, through real sheets.

    python -m benchmarks.reuse_audits -o benchmarks/results/reuse_audits_cpu.json

A scene, and the same scene with everything drawn anew that no prompt tells (places, phases, light), as two
seeds are; then with one attribute changed besides. Of each kind: how alike the sheets are, and how many pairs
fall below the audits' threshold: false alarms of `same`, found ones of all others.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from training.world.attributes import BACKGROUNDS, COLOURS, MOTIONS
from training.world.renderer import Renderer
from training.world.scenes import Scenes, sample_scenes
from training.world.subjects import subjects

from rushes.engine.stills import NUM_FRAMES, Stills
from rushes.profiling.bench.about import about
from rushes.profiling.output import write_json
from rushes.server.sheets import LEAST_LIKENESS_DB, likeness_db
from rushes.types import Frames

UNTOLD = ("variant", "phase", "speed", "x", "y", "view", "brightness")
"""What no prompt tells of a scene."""

BATCH = 16


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line a kind and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--pairs", type=int, default=84, help="of each kind")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args(argv)
    rng = np.random.default_rng(1)
    renderer = Renderer(num_variants=2)
    scenes = plain_scenes(args.pairs, rng)
    others = changed(scenes, rng)
    sheets = sheets_of(renderer, scenes)
    content: dict[str, Any] = {**about(torch.device("cpu")), "pairs": args.pairs, "kinds": {}}
    content["threshold db"] = LEAST_LIKENESS_DB
    for kind, other in others.items():
        row = content["kinds"][kind] = compared(sheets, sheets_of(renderer, other))
        print(
            f"{kind:<10} median {row['median db']:5.1f} dB, below the threshold {row['below']:.1%}",
            flush=True,
        )
    if args.output is not None:
        write_json(args.output, content, indent=1)
    return 0


def plain_scenes(num: int, rng: np.random.Generator) -> Scenes:
    """One subject, in a colour, of medium size, under a resting camera."""
    scenes = sample_scenes(num, rng, split="any")
    scenes.subject2[:], scenes.camera[:], scenes.size[:] = -1, 0, 1
    scenes.count[:] = 1 + np.arange(num) % 3
    scenes.colour[:] = 1 + np.arange(num) % (len(COLOURS) - 1)
    return scenes


def changed(scenes: Scenes, rng: np.random.Generator) -> dict[str, Scenes]:
    """The second scenes of the pairs, by what they tell otherwise."""
    num = len(scenes)
    drawn = sample_scenes(num, rng, split="any")
    untold = {name: getattr(drawn, name) for name in UNTOLD}
    step = np.arange(num)
    motion = (scenes.motion + 1 + step % (len(MOTIONS) - 1)) % len(MOTIONS)
    heading = np.where(motion == 0, 1, np.where(motion == 1, -1, scenes.heading))
    background = (scenes.background + 1 + step % (len(BACKGROUNDS) - 1)) % len(BACKGROUNDS)
    subject = (scenes.subject + 1 + step % (len(subjects()) - 1)) % len(subjects())
    return {
        "same": _with(scenes, untold),
        "background": _with(scenes, {**untold, "background": background}),
        "subject": _with(scenes, {**untold, "subject": subject}),
        "colour": _with(scenes, {**untold, "colour": 1 + scenes.colour % (len(COLOURS) - 1)}),
        "motion": _with(scenes, {**untold, "motion": motion, "heading": heading}),
        "count": _with(scenes, {**untold, "count": 1 + scenes.count % 3}),
    }


def _with(scenes: Scenes, columns: dict[str, NDArray[Any]]) -> Scenes:
    return Scenes(
        **{each.name: columns.get(each.name, getattr(scenes, each.name)) for each in fields(scenes)}
    )


def sheets_of(renderer: Renderer, scenes: Scenes) -> list[bytes]:
    """As a worker makes them of a clip."""
    shown = torch.linspace(0, 32, NUM_FRAMES)
    found = []
    for start in range(0, len(scenes), BATCH):
        rows = slice(start, start + BATCH)
        some = Scenes(**{each.name: getattr(scenes, each.name)[rows] for each in fields(scenes)})
        clips = renderer.render(some, frames=shown, allow_held_out=True).permute(0, 2, 3, 4, 1)
        for pixels in ((clips + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy():
            stills = Stills(NUM_FRAMES, 16)
            stills.add(Frames(start=0, frames=pixels))
            found.append(stills.results()["spritesheet"])
    return found


def compared(first: Sequence[bytes], second: Sequence[bytes]) -> dict[str, float]:
    """Of the pairs of one kind."""
    found = np.array([likeness_db(*pair, NUM_FRAMES) for pair in zip(first, second, strict=True)], np.float64)
    return {
        "median db": round(float(np.median(found)), 2),
        "5th percentile db": round(float(np.percentile(found, 5)), 2),
        "below": round(float(np.mean(found < LEAST_LIKENESS_DB)), 4),
    }


if __name__ == "__main__":
    sys.exit(main())
