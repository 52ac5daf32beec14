"""Find the passes that pay on this device for this model, by measuring each on top of those kept before it.

The clips of a rung and of the one before are made in turn, so that whatever else the machine does strikes
both alike; where the device cannot hold two models, one after the other. A rung is kept when it saves more
than the plain model's own clips, made twice, differ in time. The error is that of the whole plan against the
plain model, and stands beside a noise floor: the plain model with another attention kernel.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from rushes.errors import ConfigError, DeadlineExceeded, InvalidRequest, RushesError
from rushes.passes.base import PASSES, Pass, settings_of
from rushes.passes.plan import Plan, make_pass
from rushes.passes.presets import Candidate, PlanPreset, plan_preset, reuse_of, with_calibration
from rushes.pipelines.model import Model
from rushes.profiling.bench.measure import shortest
from rushes.profiling.bench.quality import Difference, Made, computed_in_full, difference, other_kernel
from rushes.profiling.clip_runs import ClipRun, figures_of, noise_of, run_clip
from rushes.profiling.held_models import HeldModels, OpenModel
from rushes.profiling.ladder import Figures, Ladder, Rung
from rushes.sampling.step_cache import MIN_STEPS
from rushes.types import GenerateRequest

LEAST_GAIN = 1.02
"""A rung that saves less is not kept, however quiet the machine is: a pass is one more thing to break."""

FLOOR_SLACK_DB = 3.0
"""How far below the noise floor a rung still counts as no change: twice the squared error, which two floors
of one model differ by."""

ONE_LEVEL_DB = 20 * math.log10(255)
"""PSNR of clips that differ by one grey level everywhere: nobody sees it, however low the floor is."""

Say = Callable[[str], None]

REUSE = "reuse of steps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What to find.

    Attributes:
        preset: a name of `rushes.passes.presets.PLAN_PRESETS`.
        open_model: loads the model with a plan.
        prompts, seeds: of the clips; at least one.
        fields: of their requests.
        budget_db: least PSNR of the result; None for the preset's own.
        budget_s: no rung is begun that would end after these; None for no limit. The plain model is always
            measured.
        without: passes that are not tried.
        calibration: settings of int8-linears, to try it too where float8 linears are not kept.
        about: what the figures belong to.
    """

    preset: str
    open_model: OpenModel
    prompts: Sequence[str]
    seeds: Sequence[int]
    fields: Mapping[str, Any]
    budget_db: float | None = None
    budget_s: float | None = None
    without: Collection[str] = ()
    calibration: Mapping[str, Any] | None = None
    about: Mapping[str, Any]


def optimize(task: Task, say: Say = lambda line: None) -> tuple[Plan, Ladder]:
    """The plan of the rungs that were kept, and everything that was measured.

    Raises:
        UnknownName: no such preset.
        InvalidRequest, CheckpointError, ConfigError: the plain model cannot make the clip.
        ConfigError: a calibration for a preset that tries no 8-bit linears.
    """
    return _Search(task, say).run()


def propose(candidate: Candidate, device_type: str) -> tuple[Pass | None, str]:
    """The candidate's pass as this machine can make it, or None and why there is none."""
    reasons: list[str] = []
    one = next(proposals(candidate, device_type, reasons), None)
    return one, "; ".join(reasons)


def proposals(candidate: Candidate, device_type: str, reasons: list[str]) -> Iterator[Pass]:
    """The candidate's pass in all settings that this machine can make, best first; `reasons` gets why not
    the others."""
    if candidate.name not in PASSES:
        reasons.append(f"missing: this version has no pass {candidate.name!r}")
        return
    for settings in candidate.settings_on(device_type):
        try:
            one = make_pass(candidate.name, **settings)
        except (ConfigError, InvalidRequest) as error:
            reasons.append(str(error))
            continue
        yield one


class _Search:
    def __init__(self, task: Task, say: Say) -> None:
        self._task = task
        preset = plan_preset(task.preset)
        self._preset: PlanPreset = (
            preset if task.calibration is None else with_calibration(preset, task.calibration)
        )
        self._clock = _Clock(say, 1 + len(self._preset.candidates) + self._preset.reuses, task.budget_s)
        self._models = HeldModels(task.open_model)
        self._plan = Plan()
        self._rungs: list[Rung] = []
        self._references: list[Made] = []
        self._before: list[ClipRun] = []
        self._latest: list[ClipRun] = []
        self._noise = 0.0

    def run(self) -> tuple[Plan, Ladder]:
        self._clock.begin("plain")
        self._clock.say("loading")
        requests, name, device_type = self._requests(self._models.get(Plan()))
        floor = self._measure_plain(requests)
        budget = self._budget(floor)
        for candidate in self._preset.candidates:
            self._clock.begin(candidate.name)
            self._add(self._try_pass(candidate, device_type, requests, budget))
        if self._preset.reuses:
            self._clock.begin(REUSE)
            self._add(self._try_reuse(name, requests, budget))
        ladder = Ladder(
            about=self._task.about,
            model=name,
            preset=self._task.preset,
            request=_as_fields(requests[0]),
            num_clips=len(requests),
            budget_db=budget,
            floor_db=floor.comparison.psnr_db,
            floor_l1=floor.latent_l1,
            noise=self._noise,
            rungs=tuple(self._rungs),
        )
        return replace(self._plan, model=name, measured=ladder.to_json()), ladder

    def _add(self, rung: Rung) -> None:
        self._rungs.append(rung)
        self._clock.say(rung.outcome)

    def _requests(self, model: Model) -> tuple[list[GenerateRequest], str, str]:
        """The clips, the name of the model's rules and the type of its device."""
        pairs = zip(self._task.prompts, self._task.seeds, strict=True)
        asked = [model.job(prompt, **{**self._task.fields, "seed": seed}).request for prompt, seed in pairs]
        return [computed_in_full(each) for each in asked], model.rules.name, model.device.type

    def _budget(self, floor: Difference) -> float:
        asked = self._task.budget_db if self._task.budget_db is not None else self._preset.budget_db
        if asked is not None:
            return asked
        return min(floor.comparison.psnr_db - FLOOR_SLACK_DB, ONE_LEVEL_DB)

    @property
    def _bar(self) -> float:
        """What a rung must save."""
        return max(LEAST_GAIN, 1 + self._noise)

    def _measure_plain(self, requests: Sequence[GenerateRequest]) -> Difference:
        model = self._models.get(Plan())
        first_s = self._warm_up(model, requests[0])
        pairs, peaks_gb = list[tuple[ClipRun, ClipRun]](), list[float]()
        for number, request in enumerate(requests, 1):
            one, other = (self._alone(Plan(), model, request, peaks_gb) for _ in range(2))
            pairs.append((one, other))
            self._clock.say(f"clip {number} of {len(requests)}, {one.seconds:.3g} and {other.seconds:.3g} s")
        self._noise = noise_of(pairs)
        self._before = [other for _, other in pairs]
        self._references = [run.made for run in self._before]
        self._clock.say(f"{len(requests)} clips for the noise floor")
        with other_kernel(model.device, model.parts.experts().select(0.0).dtype):
            others = [run_clip(model, request).made for request in requests]
        floor = difference(self._references, others, is_floor=True)
        same = difference(self._references, self._references)
        figures = figures_of(self._before, self._before, same, first_s, max(peaks_gb))
        self._add(Rung(name="plain", status="plain", figures=figures))
        return floor

    def _try_pass(
        self, candidate: Candidate, device_type: str, requests: Sequence[GenerateRequest], budget_db: float
    ) -> Rung:
        kept = {one.name for one in self._plan.passes}
        if candidate.instead_of in kept:
            return _refused(candidate.name, f"{candidate.instead_of} is kept, which does the same")
        if candidate.name in self._task.without:
            return _refused(candidate.name, "left out, as asked")
        reasons: list[str] = []
        for one in proposals(candidate, device_type, reasons):
            plan = replace(self._plan, passes=(*self._plan.passes, one))
            if late := self._clock.too_late(self._pairs_s(requests)):
                reasons.append(late)
                break
            self._clock.say("loading")
            try:
                figures = self._measure(plan, requests, requests)
            except (RushesError, RuntimeError) as error:  # RuntimeError: a kernel that torch has not here
                self._models.drop(plan)
                reasons.append(_one_line(error))
                continue
            return self._judged(candidate.name, plan, figures, budget_db, _settings(one))
        return _refused(candidate.name, "; ".join(reasons))

    def _try_reuse(self, model: str, requests: Sequence[GenerateRequest], budget_db: float) -> Rung:
        fields = dict[str, Any](reuse_of(model))
        if not fields:
            return _refused(REUSE, f"no settings are known for {model}")
        if requests[0].sampling.num_inference_steps < MIN_STEPS:
            return _refused(REUSE, f"nothing is reused in fewer than {MIN_STEPS} steps")
        if requests[0].mode == "causal":
            return _refused(REUSE, "the causal mode reuses nothing")
        if late := self._clock.too_late(self._pairs_s(requests)):
            return _refused(REUSE, late)
        plan = replace(self._plan, fields=fields)
        reused = [replace(each, sampling=replace(each.sampling, **fields)) for each in requests]
        try:
            figures = self._measure(plan, requests, reused)
        except (RushesError, RuntimeError) as error:
            return _refused(REUSE, _one_line(error))
        return self._judged(REUSE, plan, figures, budget_db, fields)

    def _pairs_s(self, requests: Sequence[GenerateRequest]) -> float:
        """Seconds that a rung's clips take if it saves nothing."""
        return 2 * sum(run.seconds for run in self._before[: len(requests)])

    def _judged(
        self, name: str, plan: Plan, figures: Figures, budget_db: float, settings: Mapping[str, Any]
    ) -> Rung:
        reason = ""
        if figures.psnr_db < budget_db:
            reason = f"{figures.psnr_db:.1f} dB is less than the budget of {budget_db:.1f} dB"
        elif figures.saves < LEAST_GAIN:
            reason = f"saves no time here ({figures.saves:.2f}x)"
        elif figures.saves < self._bar:
            reason = f"saves {figures.saves:.3f}x, within the noise of {self._bar:.3f}x"
        if reason:
            if plan.passes != self._plan.passes:
                self._models.drop(plan)
            return Rung(name=name, status="dropped", settings=settings, reason=reason, figures=figures)
        self._plan, self._before = plan, self._latest
        return Rung(name=name, status="kept", settings=settings, figures=figures)

    def _measure(
        self, plan: Plan, before: Sequence[GenerateRequest], requests: Sequence[GenerateRequest]
    ) -> Figures:
        """Clips of the new plan, in turn with those of the plan so far where both models fit."""
        # One process may compile a block only so often; what was compiled is still in torch's cache.
        torch.compiler.reset()
        begin = time.perf_counter()
        model = self._models.get(plan, requests)
        first_s = time.perf_counter() - begin + self._warm_up(model, requests[0])
        current = self._models.get(self._plan, before) if self._models.holds(self._plan) else None
        if current is not None:
            self._warm_up(current, before[0])
        runs, olds, peaks_gb = list[ClipRun](), list[ClipRun](), list[float]()
        num_slow = 0
        for number, (old, new) in enumerate(zip(before, requests, strict=True)):
            is_new_first = number % 2 == 1  # A B B A: a drift of the machine strikes both alike
            if is_new_first:
                runs.append(self._alone(plan, model, new, peaks_gb))
            olds.append(self._before[number] if current is None else run_clip(current, old))
            if not is_new_first:
                runs.append(self._alone(plan, model, new, peaks_gb))
            ratio, told = olds[-1].seconds / runs[-1].seconds, f"pair {number + 1} of {len(requests)}"
            self._clock.say(f"{told}, {runs[-1].seconds:.3g} s, saves {ratio:.2f}x")
            num_slow += ratio < 1 / self._bar
            if 2 * num_slow > len(requests):
                break  # slower beyond the noise in most pairs, whatever the others bring
            if self._clock.is_over and len(runs) < len(requests):
                raise DeadlineExceeded(f"no time: {len(runs)} of {len(requests)} pairs were made")
        found = difference(self._references[: len(runs)], [run.made for run in runs])
        # Only now: a plan that fails half-way leaves the figures of the one before whole.
        self._latest = runs
        if len(olds) == len(requests):
            self._before = olds
        return figures_of(runs, olds, found, first_s, max(peaks_gb))

    def _alone(self, plan: Plan, model: Model, request: GenerateRequest, peaks_gb: list[float]) -> ClipRun:
        """One clip, whose own most memory is added to `peaks_gb`."""
        self._models.peak_gb(plan)
        run = run_clip(model, request)
        peaks_gb.append(self._models.peak_gb(plan))
        return run

    def _warm_up(self, model: Model, request: GenerateRequest) -> float:
        """Seconds of a first clip of the same size, as short as it can be."""
        begin = time.perf_counter()
        model.warm_up([request])
        run_clip(model, shortest(request, model.boundary))
        return time.perf_counter() - begin


class _Clock:
    """What is told of a search as it goes, and how much of its time is left."""

    def __init__(self, say: Say, num_parts: int, budget_s: float | None) -> None:
        self._say, self._num_parts, self._budget_s = say, num_parts, budget_s
        self._begin = time.perf_counter()
        self._part, self._name = 0, ""

    def begin(self, name: str) -> None:
        """The next part."""
        self._part, self._name = self._part + 1, name

    def say(self, text: str) -> None:
        """A line of the part."""
        self._say(f"{self._part} of {self._num_parts}, {self._name}: {text} [{self._seconds:.0f} s]")

    @property
    def is_over(self) -> bool:
        """Whether the time is gone."""
        return self._budget_s is not None and self._seconds >= self._budget_s

    def too_late(self, takes_s: float) -> str:
        """Why nothing that takes so long can begin any more; empty where it can."""
        if self._budget_s is None or self._seconds + takes_s <= self._budget_s:
            return ""
        return f"no time: {takes_s:.0f} s of clips after {self._seconds:.0f} of {self._budget_s:.0f} s"

    @property
    def _seconds(self) -> float:
        return time.perf_counter() - self._begin


def _refused(name: str, reason: str) -> Rung:
    return Rung(name=name, status="refused", reason=reason)


def _settings(one: Pass) -> Mapping[str, Any]:
    return {name: value for name, value in settings_of(one).items() if value is not None}


def _as_fields(request: GenerateRequest) -> Mapping[str, Any]:
    video, sampling = asdict(request.video), asdict(request.sampling)
    return {**video, **{name: value for name, value in sampling.items() if name != "timesteps"}}


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]
