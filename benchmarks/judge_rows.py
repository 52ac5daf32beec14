"""The rows of the judge's table, each made when there is time for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from benchmarks.judge_clips import (
    Bench,
    expert_loads,
    generate,
    joined,
    psnr,
    read,
    render,
    restore_clips,
    to_video,
)
from benchmarks.judge_report import (
    LOAD_BAR,
    PSNR_BAR,
    Figure,
    Report,
    Row,
    count_right,
    short_line,
    with_bars,
)
from torch import Tensor
from training.clips import labels_of
from training.world.prompts import Prompts, evaluation_prompts, synonym_prompts
from training.world.scenes import NO_SUBJECT, Scenes, sample_scenes

GENERATED: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "quality": ("20 steps", {"preset": "quality"}),
    "fast": ("8 steps", {"preset": "fast"}),
    "few-step": ("4 steps, few-step LoRA", {"preset": "few-step-4"}),
    "causal": ("causal, 20 steps", {"preset": "quality"}),
    "synonyms": ("unseen synonyms, 20 steps", {"preset": "quality"}),
}
NUM_SYNONYMS = 416
NUM_VARIED = 256
NUM_SHOWN = 24  # clips kept for a contact sheet
FRESH_SEED = 2  # of rendered clips, which no prompt describes
CPU = torch.device("cpu")

Figures = dict[str, Figure]


class TableMaker:
    """Fills a report row by row, within a limit of seconds.

    Args:
        num: prompts, or rendered clips, of a row.
        changes: request fields that win over those of the rows' presets.
    """

    def __init__(
        self,
        bench: Bench,
        report: Report,
        *,
        num: int,
        limit_s: float,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        self.report = report
        self.first_clips: list[Tensor] = []
        self._bench = bench
        self._num = num
        self._changes = dict(changes or {})
        self._limit_s = limit_s
        self._begin = time.perf_counter()
        self._longest_s = 0.0

    @property
    def elapsed_s(self) -> float:
        """Since this object was made."""
        return time.perf_counter() - self._begin

    def add(self, name: str, title: str, make: Callable[[], Figures]) -> bool:
        """Make a row and print it; False, and the reason printed, without time for the longest row so far."""
        if self.elapsed_s + self._longest_s > self._limit_s:
            reason = (
                f"{self.elapsed_s:.0f} of {self._limit_s:.0f} s are gone, a row takes {self._longest_s:.0f}"
            )
            self.report.skipped[name] = reason
            print(f"{name}: skipped, {reason}", flush=True)
            return False
        begin = time.perf_counter()
        figures = with_bars(name, make(), self.report.row("quality"))
        row = Row(name=name, title=title, figures=figures, seconds=time.perf_counter() - begin)
        self._longest_s = max(self._longest_s, row.seconds)
        self.report.rows.append(row)
        print(f"{short_line(name, figures)} ({row.seconds:.0f} s, {self.elapsed_s:.0f} s in all)", flush=True)
        return True

    def add_generated(self, names: Sequence[str], *, has_few_step: bool) -> None:
        """The rows of generated clips; behind `quality`, its clips judged by the prompts of others."""
        for name in names:
            if name == "few-step" and not has_few_step:
                self.report.skipped[name] = "the folder holds no few-step LoRA"
                continue
            title, fields = GENERATED[name]
            prompts = synonym_prompts(min(self._num, NUM_SYNONYMS)) if name == "synonyms" else self._prompts()
            found: list[dict[str, Tensor]] = []
            make = partial(self._generated, name, prompts, {**fields, **self._changes}, found)
            if self.add(name, title, make) and name == "quality":
                shuffled = {key: column.roll(1) for key, column in labels_of(prompts.scenes, CPU).items()}
                make = partial(self._figures, found, shuffled)
                self.add("shuffled", "the same, judged by other prompts", make)

    def add_expert_loads(self) -> None:
        """Load of the busiest expert over the mean, by layer."""
        layers = expert_loads(self._bench, self._prompts())
        verdict = "met" if max(layers) <= LOAD_BAR else "short"
        self.report.numbers["expert load, max/mean by layer"] = {
            "layers": layers,
            "bar": LOAD_BAR,
            "verdict": verdict,
        }

    def add_references(self) -> None:
        """The judge on rendered clips of held-out scenes and on their reconstructions; the VAE's PSNR."""
        scenes = evaluation_prompts(self._num, seed=FRESH_SEED).scenes
        restored: list[dict[str, Tensor]] = []
        errors: list[Tensor] = []
        if self.add("rendered", "judge on rendered clips", partial(self._rendered, scenes, restored, [])):
            make = partial(self._figures, restored, labels_of(scenes, CPU))
            self.add("reconstructed", "judge on VAE reconstructions", make)
        scenes = varied_scenes(min(self._num, NUM_VARIED))
        title = "judge, any size, colour, camera"
        if self.add("varied", title, partial(self._rendered, scenes, [], errors)):
            value = torch.cat(errors).mean().item()
            verdict = "met" if value >= PSNR_BAR else "short"
            self.report.numbers["VAE PSNR, dB"] = {
                "mean": round(value, 2),
                "clips": len(scenes),
                "bar": PSNR_BAR,
                "verdict": verdict,
            }

    def _prompts(self) -> Prompts:
        return evaluation_prompts(self._num)

    def _generated(
        self, name: str, prompts: Prompts, fields: Mapping[str, Any], found: list[dict[str, Tensor]]
    ) -> Figures:
        for clips in generate(self._bench, prompts, fields, causal=name == "causal"):
            if name == "quality" and sum(map(len, self.first_clips)) < NUM_SHOWN:
                self.first_clips.append(clips[:, :: clips.shape[1] // 6 + 1].cpu())
            found.append(read(self._bench, to_video(clips, self._bench.device)))
        return self._figures(found, labels_of(prompts.scenes, CPU))

    def _rendered(self, scenes: Scenes, restored: list[dict[str, Tensor]], errors: list[Tensor]) -> Figures:
        """Of rendered clips; what their reconstructions look like goes to the lists."""
        found = []
        for video in render(self._bench, scenes):
            again = restore_clips(self._bench, video)
            found.append(read(self._bench, video))
            restored.append(read(self._bench, again))
            errors.append(psnr(video, again).cpu())
        return self._figures(found, labels_of(scenes, CPU))

    def _figures(self, found: Sequence[Mapping[str, Tensor]], asked: Mapping[str, Tensor]) -> Figures:
        return count_right(joined(found), asked, self._bench.judge.config.classes)


def varied_scenes(num: int) -> Scenes:
    """Held-out scenes of one subject in any size, colour and camera: harder than what prompts ask for."""
    scenes = sample_scenes(64 * num, np.random.default_rng(FRESH_SEED), split="any")
    rows = np.flatnonzero(scenes.held_out() & (scenes.subject2 == NO_SUBJECT))[:num]
    return scenes[rows]
