"""What reused steps cost the toy, setting by setting, each clip beside the same clip computed in full.

    python -m benchmarks.step_reuse --prompts 48 --seconds 2400          # a sample on a CPU
    python -m benchmarks.step_reuse --prompts 512 --batch 64             # the table; needs a GPU
    python -m benchmarks.step_reuse --setting 0.02,1 --setting 0,0.75    # step cache, guidance gate

A batch of prompts goes through all settings before the next one begins, so the table is of whole pairs
whenever it ends. Settings agree in their first steps, whose forwards are therefore run once and remembered:
seconds are the sample's, not a clip's; what a setting saves is told by the forwards that its clips would run.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from benchmarks.judge import ASSETS
from benchmarks.judge_clips import Bench, joined, open_bench, read, to_video
from benchmarks.judge_report import COLUMNS, JOINT, count_right
from torch import Tensor
from training.clips import labels_of
from training.world.prompts import Prompts, evaluation_prompts

from rushes.models.expert_pair import OneExpert
from rushes.models.phase import Phase
from rushes.models.wan import TextContext, Wan
from rushes.models.wan_vae import to_uint8
from rushes.profiling.bench.about import about
from rushes.profiling.quality.judged import ATTRIBUTES, Z_95
from rushes.profiling.quality.pixels import psnr_db
from rushes.stages.base import Job
from rushes.stages.denoise import Denoise

OUT = Path("benchmarks/results/step_reuse.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What steps reuse; the plain one reuses nothing."""

    step_cache: float = 0.0
    guidance_gate: float = 1.0

    @property
    def name(self) -> str:
        """In words."""
        if self == PLAIN:
            return "plain"
        return f"cache {self.step_cache:g}, gate {self.guidance_gate:g}"

    @property
    def fields(self) -> dict[str, float]:
        """Of a request."""
        return {"step_cache": self.step_cache, "guidance_gate": self.guidance_gate}


PLAIN = Setting()
SETTINGS = (
    Setting(step_cache=0.05, guidance_gate=0.5),
    Setting(step_cache=0.05),
    Setting(step_cache=0.02),
    Setting(guidance_gate=0.5),
    Setting(guidance_gate=0.75),
    Setting(step_cache=0.02, guidance_gate=0.75),
)


class RememberingWan:
    """A `Wan` that runs each sample's forward once; `forget` before other prompts. Results are the network's
    own up to the rounding of another batch size."""

    def __init__(self, wan: Wan) -> None:
        self.encode_text = wan.encode_text
        self.phase = wan.phase
        self.num_run = 0
        self._wan = wan
        self._known: dict[bytes, Tensor] = {}

    def __call__(self, latents: Tensor, timestep: Tensor, context: TextContext, *, phase: Phase) -> Tensor:
        keys = [
            _digest(latents[i], timestep[i], context.keys[0][i], context.values[-1][i])
            for i in range(len(latents))
        ]
        new = [i for i, key in enumerate(keys) if key not in self._known]
        if new:
            found = self._wan(latents[new], timestep[new], rows_of(context, new), phase=phase)
            self._known.update(zip((keys[i] for i in new), found, strict=True))
            self.num_run += len(new)
        return torch.stack([self._known[key] for key in keys])

    def forget(self) -> None:
        """Everything remembered."""
        self._known.clear()


def _digest(*tensors: Tensor) -> bytes:
    digest = blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.digest()


def rows_of(context: TextContext, rows: list[int]) -> TextContext:
    """Of some samples."""
    return TextContext(
        keys=tuple(layer[rows] for layer in context.keys),
        values=tuple(layer[rows] for layer in context.values),
        pooled=None if context.pooled is None else context.pooled[rows],
    )


@dataclass(slots=True, kw_only=True)
class Sample:
    """A setting's clips so far."""

    read: list[dict[str, Tensor]] = field(default_factory=list)
    squared_errors: list[float] = field(default_factory=list)
    forwards: list[tuple[int, int]] = field(default_factory=list)


class Sweep:
    """Clips of every setting, batch by batch."""

    def __init__(self, bench: Bench, settings: Sequence[Setting], preset: str) -> None:
        self.bench = bench
        self.samples = {setting: Sample() for setting in (PLAIN, *settings)}
        self._preset = preset
        self._wan = RememberingWan(bench.wan)
        self._stage = Denoise("toy", lambda _lora: OneExpert(self._wan), None, bench.device)

    @property
    def num_run(self) -> int:
        """Forwards that were not remembered."""
        return self._wan.num_run

    @torch.no_grad()
    def add(self, texts: Sequence[str], seeds: Sequence[int]) -> None:
        """The clips of these prompts, in every setting."""
        self._wan.forget()
        plain: Tensor | None = None
        for setting, sample in self.samples.items():
            jobs = [
                self.bench.model.job(text, preset=self._preset, seed=seed, **setting.fields)
                for text, seed in zip(texts, seeds, strict=True)
            ]
            clips = self._finish(jobs)
            plain = clips if plain is None else plain
            errors = (clips.float() - plain.float()).square().mean(dim=(1, 2, 3, 4))
            sample.read.append(read(self.bench, to_video(clips, self.bench.device)))
            sample.squared_errors += errors.double().tolist()
            sample.forwards += [(job.forwards.conditional, job.forwards.unconditional) for job in jobs]

    def _finish(self, jobs: Sequence[Job]) -> Tensor:
        """uint8 [B, T, H, W, 3]."""
        self.bench.model.pipeline.stages(jobs[0])[0].run(jobs)
        while not self._stage.done(jobs[0]):
            self._stage.run(jobs)
        latents = torch.cat([torch.cat(list(job.latents), dim=2) for job in jobs])
        return to_uint8(self.bench.vae.decode(latents))

    def rows(self, prompts: Prompts) -> dict[str, dict[str, Any]]:
        """Figures of each setting, by its name."""
        num = len(self.samples[PLAIN].forwards)
        asked = {name: each[:num] for name, each in labels_of(prompts.scenes, torch.device("cpu")).items()}
        plain = is_right(joined(self.samples[PLAIN].read), asked)
        return {
            setting.name: self._row(setting, sample, asked, plain) for setting, sample in self.samples.items()
        }

    def _row(
        self, setting: Setting, sample: Sample, asked: dict[str, Tensor], plain: Tensor
    ) -> dict[str, Any]:
        found = joined(sample.read)
        shares = count_right(found, asked, self.bench.judge.config.classes)
        right = is_right(found, asked)
        lost, won = int((plain & ~right).sum()), int((~plain & right).sum())
        low, high = paired_interval(lost, won, len(right))
        mean, most = sum(sample.squared_errors) / len(right), max(sample.squared_errors)
        conditional, unconditional = zip(*sample.forwards, strict=True)
        return {
            **setting.fields,
            "num_clips": len(right),
            "right": int(right.sum()),
            "adherence": {name: round(shares[name].share, 4) for name in COLUMNS},
            "lost": lost,
            "won": won,
            "loss": round((lost - won) / len(right), 4),
            "loss_interval_95": [round(low, 4), round(high, 4)],
            "psnr_db": None if mean == 0 else round(psnr_db(mean), 2),
            "worst_clip_db": None if most == 0 else round(psnr_db(most), 2),
            "forwards": [round(sum(each) / len(right), 2) for each in (conditional, unconditional)],
        }


def is_right(found: dict[str, Tensor], asked: dict[str, Tensor]) -> Tensor:
    """bool [N]: clips in which the judge reads every attribute as asked."""
    return torch.stack([found[name] == asked[name] for name in ATTRIBUTES]).all(0)


def paired_interval(lost: int, won: int, num: int) -> tuple[float, float]:
    """The 95 % interval of a loss, (lost - won) / num, from `num` pairs (Agresti and Min, Statistics in
    Medicine 24, 2005: a half is added to each of the four kinds of pairs).

    Example:
        >>> [round(bound, 3) for bound in paired_interval(0, 0, 48)]
        [-0.039, 0.039]
    """
    b, c, n = lost + 0.5, won + 0.5, num + 2.0
    half = Z_95 * math.sqrt(b + c - (b - c) ** 2 / n) / n
    return (b - c) / n - half, (b - c) / n + half


def line(name: str, row: dict[str, Any]) -> str:
    """One row in words."""
    psnr = "equal" if row["psnr_db"] is None else f"{row['psnr_db']:.1f} dB"
    low, high = (100 * bound for bound in row["loss_interval_95"])
    loss = f"loses {100 * row['loss']:+.1f} ({low:+.1f} to {high:+.1f})"
    words = f"{100 * row['adherence'][JOINT]:5.1f} % right, {loss}"
    return f"{name:<22} {words}, PSNR {psnr}, {row['forwards'][0]:g} + {row['forwards'][1]:g} forwards"


def run(args: argparse.Namespace, bench: Bench | None = None) -> int:
    """Make the table, whole after each batch; nothing is promised, so 0. `bench` is opened when not given."""
    begin = time.perf_counter()
    prompts = evaluation_prompts(args.prompts)
    bench = bench or open_bench(args.assets, args.batch)
    sweep = Sweep(bench, args.setting or SETTINGS, args.preset)
    content = {**about(bench.device), "command": args.command, "asked_prompts": args.prompts}
    content |= {"preset": args.preset}
    content |= {} if args.commit is None else {"commit": args.commit}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    rows: dict[str, dict[str, Any]] = {}
    for start in range(0, len(prompts.texts), bench.batch):
        now = time.perf_counter() - begin
        if now * (1 + bench.batch / max(start, 1)) > args.seconds and start:
            break
        end = min(start + bench.batch, len(prompts.texts))
        sweep.add(prompts.texts[start:end], prompts.seeds[start:end])
        rows = sweep.rows(prompts)
        seconds = round(time.perf_counter() - begin, 1)
        done = {**content, "seconds": seconds, "forwards_run": sweep.num_run, "rows": rows}
        args.out.write_text(json.dumps(done, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        print(f"{end} of {len(prompts.texts)} prompts, {seconds:.0f} s", flush=True)
    for name, row in rows.items():
        print(line(name, row))
    return 0


def setting_of(text: str) -> Setting:
    """Of "step cache's threshold,guidance gate"."""
    cache, gate = (float(part) for part in text.split(","))
    return Setting(step_cache=cache, guidance_gate=gate)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=48)
    parser.add_argument("--setting", type=setting_of, action="append", help="THRESHOLD,GATE; repeatable")
    parser.add_argument("--preset", default="quality", help="named sampling settings")
    parser.add_argument("--batch", type=int, help="prompts at a time; 64 on a GPU, else 2")
    parser.add_argument(
        "--seconds", type=float, default=7200, help="begin no batch that would end after these"
    )
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--commit", help="of the code, where there is no checkout")
    found = parser.parse_args(argv)
    found.command = ["python", "-m", "benchmarks.step_reuse", *(sys.argv[1:] if argv is None else argv)]
    return found


if __name__ == "__main__":
    raise SystemExit(run(arguments(None)))
