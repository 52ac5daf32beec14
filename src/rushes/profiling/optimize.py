"""Find the passes that pay on this device for this model, by measuring each on top of those kept before it.

The clips of a rung and of the one before are made in turn, so that whatever else the machine does strikes
both alike; where the device cannot hold two models, one after the other. The error is that of the whole plan
against the plain model, and stands beside a noise floor: the plain model with another attention kernel.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from rushes.errors import ConfigError, InvalidRequest, RushesError
from rushes.passes.base import PASSES, Pass, settings_of
from rushes.passes.plan import Plan, make_pass
from rushes.passes.presets import Candidate, PlanPreset, plan_preset, reuse_of
from rushes.pipelines.model import Model
from rushes.profiling.bench.measure import shortest
from rushes.profiling.bench.ours import Rushes
from rushes.profiling.bench.quality import Difference, Made, computed_in_full, difference, other_kernel
from rushes.profiling.ladder import Figures, Ladder, Rung
from rushes.sampling.step_cache import MIN_STEPS
from rushes.types import Done, Frames, GenerateRequest

LEAST_GAIN = 1.02
"""A rung that saves less is not kept: every pass is one more thing that can break."""

FLOOR_SLACK_DB = 3.0
"""How far below the noise floor a rung still counts as no change: twice the squared error, which two floors
of one model differ by."""

ONE_LEVEL_DB = 20 * math.log10(255)
"""PSNR of clips that differ by one grey level everywhere: nobody sees it, however low the floor is."""

HEADROOM = 1.2
"""Free memory, in models, that a second one must leave room for."""

OpenModel = Callable[[Plan], Model]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What to find.

    Attributes:
        preset: a name of `rushes.passes.presets.PLAN_PRESETS`.
        open_model: loads the model with a plan.
        prompts, seeds: of the clips; at least one.
        fields: of their requests.
        budget_db: least PSNR of the result; None for the preset's own.
        without: passes that are not tried.
        about: what the figures belong to.
    """

    preset: str
    open_model: OpenModel
    prompts: Sequence[str]
    seeds: Sequence[int]
    fields: Mapping[str, Any]
    budget_db: float | None = None
    without: Collection[str] = ()
    about: Mapping[str, Any]


def optimize(task: Task, say: Say = lambda line: None) -> tuple[Plan, Ladder]:
    """The plan of the rungs that were kept, and everything that was measured.

    Raises:
        UnknownName: no such preset.
        InvalidRequest, CheckpointError, ConfigError: the plain model cannot make the clip.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One clip and what it took."""

    made: Made
    stages_s: Mapping[str, float]
    forwards: tuple[int, int]

    @property
    def seconds(self) -> float:
        return sum(self.stages_s.values())


class _Search:
    def __init__(self, task: Task, say: Say) -> None:
        self._task, self._say = task, say
        self._preset: PlanPreset = plan_preset(task.preset)
        self._models = _Models(task.open_model)
        self._plan = Plan()
        self._rungs: list[Rung] = []
        self._references: list[Made] = []
        self._before: list[_Run] = []
        self._latest: list[_Run] = []

    def run(self) -> tuple[Plan, Ladder]:
        self._say(f"plain: {len(self._task.prompts)} clips, and as many for the noise floor")
        requests, name, device_type = self._requests(self._models.get(Plan()))
        floor = self._measure_plain(requests)
        budget = self._budget(floor)
        for candidate in self._preset.candidates:
            self._rungs.append(self._try_pass(candidate, device_type, requests, budget))
        if self._preset.reuses:
            self._rungs.append(self._try_reuse(name, requests, budget))
        ladder = Ladder(
            about=self._task.about,
            model=name,
            preset=self._task.preset,
            request=_as_fields(requests[0]),
            num_clips=len(requests),
            budget_db=budget,
            floor_db=floor.comparison.psnr_db,
            floor_l1=floor.latent_l1,
            rungs=tuple(self._rungs),
        )
        return replace(self._plan, model=name, measured=ladder.to_json()), ladder

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

    def _measure_plain(self, requests: Sequence[GenerateRequest]) -> Difference:
        model = self._models.get(Plan())
        first_s = self._warm_up(model, requests[0])
        self._before, peaks_gb = [], list[float]()
        for request in requests:
            self._before.append(self._alone(Plan(), model, request, peaks_gb))
        self._references = [run.made for run in self._before]
        with other_kernel(model.device, model.parts.experts().select(0.0).dtype):
            others = [_run(model, request).made for request in requests]
        floor = difference(self._references, others, is_floor=True)
        same = difference(self._references, self._references)
        figures = _figures(self._before, self._before, same, first_s, max(peaks_gb))
        self._rungs.append(Rung(name="plain", status="plain", figures=figures))
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
            self._say(f"{candidate.name}: loading, and {2 * len(requests)} clips")
            try:
                figures = self._measure(plan, requests, requests)
            except (RushesError, RuntimeError) as error:  # RuntimeError: a kernel that torch has not here
                self._models.drop(plan)
                reasons.append(_one_line(error))
                continue
            return self._judged(candidate.name, plan, figures, budget_db, _settings(one))
        return _refused(candidate.name, "; ".join(reasons))

    def _try_reuse(self, model: str, requests: Sequence[GenerateRequest], budget_db: float) -> Rung:
        name, fields = "reuse of steps", dict[str, Any](reuse_of(model))
        if not fields:
            return _refused(name, f"no settings are known for {model}")
        if requests[0].sampling.num_inference_steps < MIN_STEPS:
            return _refused(name, f"nothing is reused in fewer than {MIN_STEPS} steps")
        if requests[0].mode == "causal":
            return _refused(name, "the causal mode reuses nothing")
        plan = replace(self._plan, fields=fields)
        reused = [replace(each, sampling=replace(each.sampling, **fields)) for each in requests]
        self._say(f"{name}: {2 * len(requests)} clips")
        try:
            figures = self._measure(plan, requests, reused)
        except (RushesError, RuntimeError) as error:
            return _refused(name, _one_line(error))
        return self._judged(name, plan, figures, budget_db, fields)

    def _judged(
        self, name: str, plan: Plan, figures: Figures, budget_db: float, settings: Mapping[str, Any]
    ) -> Rung:
        reason = ""
        if figures.psnr_db < budget_db:
            reason = f"{figures.psnr_db:.1f} dB is less than the budget of {budget_db:.1f} dB"
        elif figures.saves < LEAST_GAIN:
            reason = f"saves no time here ({figures.saves:.2f}x)"
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
        runs, olds, peaks_gb = list[_Run](), list[_Run](), list[float]()
        current = self._models.get(self._plan, before) if self._models.holds(self._plan) else None
        if current is not None:
            self._warm_up(current, before[0])
        for old, new in zip(before, requests, strict=True):
            if current is not None:
                olds.append(_run(current, old))
            runs.append(self._alone(plan, model, new, peaks_gb))
        found = difference(self._references, [run.made for run in runs])
        # Only now: a plan that fails half-way leaves the figures of the one before whole.
        self._latest, self._before = runs, olds or self._before
        return _figures(runs, self._before, found, first_s, max(peaks_gb))

    def _alone(self, plan: Plan, model: Model, request: GenerateRequest, peaks_gb: list[float]) -> _Run:
        """One clip, whose own most memory is added to `peaks_gb`."""
        self._models.peak_gb(plan)
        run = _run(model, request)
        peaks_gb.append(self._models.peak_gb(plan))
        return run

    def _warm_up(self, model: Model, request: GenerateRequest) -> float:
        """Seconds of a first clip of the same size, as short as it can be."""
        begin = time.perf_counter()
        model.warm_up([request])
        _run(model, shortest(request, model.boundary))
        return time.perf_counter() - begin


class _Models:
    """Loaded models by the passes of their plan: two where they fit, else one."""

    def __init__(self, open_model: OpenModel) -> None:
        self._open = open_model
        self._held: dict[str, Model] = {}
        self._bytes: dict[str, int] = {}

    def get(self, plan: Plan, requests: Sequence[GenerateRequest] = ()) -> Model:
        """The model with the plan's passes, made anew where it is not held, and ready for the requests."""
        if plan.identity not in self._held:
            while self._held and not self._has_room():
                self._free(next(iter(self._held)))
            before = _allocated()
            model = self._open(plan)
            model.warm_up(requests)
            self._held[plan.identity] = model
            self._bytes[plan.identity] = _allocated() - before
        self._held[plan.identity] = self._held.pop(plan.identity)  # the latest is freed last
        return self._held[plan.identity]

    def peak_gb(self, plan: Plan) -> float:
        """Most device memory held since the last call, other models' weights aside; 0 on a CPU."""
        if not torch.cuda.is_available():
            return 0.0
        others = sum(self._bytes[name] for name in self._held if name != plan.identity)
        peak = torch.cuda.max_memory_allocated() - others
        torch.cuda.reset_peak_memory_stats()
        return peak / 1e9

    def holds(self, plan: Plan) -> bool:
        return plan.identity in self._held

    def drop(self, plan: Plan) -> None:
        if plan.identity in self._held:
            self._free(plan.identity)

    def _free(self, identity: str) -> None:
        del self._held[identity]
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _has_room(self) -> bool:
        if len(self._held) >= 2:
            return False
        device = next(iter(self._held.values())).device
        if device.type != "cuda":
            return True
        return torch.cuda.mem_get_info(device)[0] >= HEADROOM * torch.cuda.memory_allocated(device)


def _run(model: Model, request: GenerateRequest) -> _Run:
    """One clip."""
    latents: list[torch.Tensor] = []
    frames, done = [], None
    for event in Rushes(model).events(request, on_latents=lambda tensor: _keep_last(latents, tensor)):
        if isinstance(event, Frames):
            frames.append(event)
        elif isinstance(event, Done):
            done = event
    assert done is not None, "a clip ends with Done"
    made = _made(frames, latents)
    timings = {timing.stage: timing.seconds for timing in done.timings if timing.stage != "text_encode"}
    return _Run(
        made=made, stages_s=timings, forwards=(done.forwards.conditional, done.forwards.unconditional)
    )


def _keep_last(latents: list[torch.Tensor], tensor: torch.Tensor) -> None:
    latents[:] = [tensor]


def _made(frames: Sequence[Frames], latents: Sequence[torch.Tensor]) -> Made:
    last = tuple(tensor.float().cpu() for tensor in latents)
    return Made(frames=np.concatenate([each.frames for each in frames]), latents=last)


def _figures(
    runs: Sequence[_Run], before: Sequence[_Run], found: Difference, first_s: float, peak_gb: float
) -> Figures:
    stages = {name: statistics.median(run.stages_s[name] for run in runs) for name in runs[0].stages_s}
    pairs = list(zip(*(run.forwards for run in runs), strict=True))
    return Figures(
        seconds=statistics.median(run.seconds for run in runs),
        stages_s=stages,
        before_s=statistics.median(run.seconds for run in before),
        first_s=first_s,
        psnr_db=found.comparison.psnr_db,
        latent_l1=found.latent_l1,
        forwards=(statistics.mean(pairs[0]), statistics.mean(pairs[1])),
        peak_gb=peak_gb,
    )


def _refused(name: str, reason: str) -> Rung:
    return Rung(name=name, status="refused", reason=reason)


def _settings(one: Pass) -> Mapping[str, Any]:
    return {name: value for name, value in settings_of(one).items() if value is not None}


def _as_fields(request: GenerateRequest) -> Mapping[str, Any]:
    video, sampling = asdict(request.video), asdict(request.sampling)
    return {**video, **{name: value for name, value in sampling.items() if name != "timesteps"}}


def _allocated() -> int:
    """Bytes of tensors on the GPU, 0 without one."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]
