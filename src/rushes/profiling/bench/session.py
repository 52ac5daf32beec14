"""`rushes bench`: the parts of one run, in an order in which none disturbs another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from time import perf_counter
from typing import Any, Literal

import torch

from rushes.engine.local import LocalEngine
from rushes.errors import InvalidRequest
from rushes.pipelines.model import Model, load
from rushes.profiling.bench.about import about
from rushes.profiling.bench.alone import run_alone
from rushes.profiling.bench.answers import Call
from rushes.profiling.bench.base import (
    NUM_CLIPS,
    NUM_JUDGED,
    NUM_REQUESTS,
    PARTS,
    UTILIZATION,
    Contender,
    Place,
)
from rushes.profiling.bench.cold_start import cold_start
from rushes.profiling.bench.contenders import OURS, check_peer, open_contender
from rushes.profiling.bench.judging import judge_sets
from rushes.profiling.bench.load import LoadEngine, poisson_times, run_load
from rushes.profiling.bench.measure import measure, shortest
from rushes.profiling.bench.ours import Rushes
from rushes.profiling.bench.pairs import run_pairs
from rushes.profiling.bench.quality import (
    Made,
    Variation,
    computed_in_full,
    differences,
    make_all,
    make_clip,
    other_kernel,
)
from rushes.profiling.bench.report import Report
from rushes.profiling.bench.savings import savings
from rushes.profiling.quality.judged import ClipJudge
from rushes.profiling.workloads.base import LabelledPrompt, Workload
from rushes.profiling.workloads.mix import mix_of
from rushes.types import GenerateRequest

REFERENCE = "rushes"
OTHER_SEEDS = "other seeds"

Say = Callable[[str], None]
OpenEngine = Callable[[Model], AbstractContextManager[LoadEngine]]


def open_local(model: Model) -> LocalEngine:
    """An engine by the load's clock: nothing that sets the system's time strikes a figure."""
    return LocalEngine(model, clock=perf_counter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured.

    Attributes:
        fields: of every request, over what the workload asks for; a seed grows by one a request.
        parts: of `PARTS`; "pairs" is nothing without peers.
        peer_device: where peers run, None for where we do; two large models need two devices.
        num_clips: timed alone, and rounds of the pairs.
        num_requests: of the load, the first of the workload.
        rate: requests a second of the load; None for `UTILIZATION`.
        num_judged: clips of each setting whose quality is measured.
        floor_dtype: our clips in this dtype are a noise floor too; None for none.
        arguments: the command line, for the record.
    """

    place: Place
    workload: Workload
    fields: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[str, ...] = PARTS
    peers: tuple[str, ...] = ()
    peer_device: str | None = None
    num_clips: int = NUM_CLIPS
    num_requests: int = NUM_REQUESTS
    rate: float | None = None
    num_judged: int = NUM_JUDGED
    floor_dtype: str | None = None
    arguments: tuple[str, ...] = ()

    @property
    def peer_place(self) -> Place:
        """Where peers run."""
        return replace(self.place, device=self.peer_device or self.place.device)


def run_plan(plan: Plan, *, say: Say = lambda line: None, open_engine: OpenEngine = open_local) -> Report:
    """Measure.

    Args:
        say: told what is going on.
        open_engine: what is put under load; dates its events by `perf_counter`.

    Raises:
        ConfigError: a peer cannot run here; it says what is missing. Before anything is measured.
        RequestError: a field breaks a rule, or the workload has too few requests.
        EngineError: a contender failed.
    """
    for name in plan.peers:
        check_peer(name, plan.peer_place)
    model = load(plan.place.model, device=plan.place.device, dtype=plan.place.dtype)
    bench = Bench(plan, model, say, open_engine)
    measure_part = {
        "cold": bench.cold,
        "alone": bench.alone,
        "pairs": bench.pairs,
        "load": bench.load,
        "quality": bench.quality,
    }
    for part in PARTS:
        if part in plan.parts:
            measure_part[part]()
    return bench.report


class Bench:
    """The parts of a plan, each a method that fills its part of `report`."""

    def __init__(self, plan: Plan, model: Model, say: Say, open_engine: OpenEngine) -> None:
        self._plan, self._model, self._say, self._open_engine = plan, model, say, open_engine
        self._ours = Rushes(model, REFERENCE)
        self._prompts = plan.workload.prompts()
        self._distinct = [prompt for prompt in self._prompts if prompt.kind != "exact"]
        most = max(2 * plan.num_clips + 1, plan.num_judged)
        if most > len(self._distinct) or plan.num_requests > len(self._prompts):
            size = f"{len(self._prompts)} requests, {len(self._distinct)} of them different"
            raise InvalidRequest("workload", f"{plan.workload.name} has {size}; fewer must be asked for")
        self.report = Report(
            about=about(model.device, plan.arguments),
            model=plan.place.model,
            dtype=plan.place.dtype,
            workload=plan.workload.name,
            workload_seed=plan.workload.seed,
            request=self._request(self._distinct[0]),
            mix=mix_of(self._prompts),
        )

    def cold(self) -> None:
        """Fresh processes, one after another, while this one holds no weights."""
        short = shortest(self._request(self._distinct[0]), self._model.boundary)
        places = {OURS: self._plan.place, **dict.fromkeys(self._plan.peers, self._plan.peer_place)}
        for name, place in places.items():
            self._say(f"cold start of {name}")
            self.report.cold[name] = cold_start(name, place, short)

    def alone(self) -> None:
        """One clip at a time."""
        self._ready()
        self.report.alone = run_alone(
            self._ours,
            self._requests("alone"),
            self._warm_up,
            preview_every=self._plan.workload.preview_every,
            say=self._say,
        )

    def pairs(self) -> None:
        """In turn with the peers."""
        if not self._plan.peers:
            return
        self._ready()
        self.report.pairs = run_pairs(
            [self._ours, *self._rivals], self._requests("pairs"), self._warm_up, say=self._say
        )

    def load(self) -> None:
        """The engine under the workload's beginning."""
        self._ready()
        prompts, seed = self._prompts[: self._plan.num_requests], self._plan.workload.seed
        rate = self._plan.rate or UTILIZATION / self._clip_s()
        times = poisson_times(rate, len(prompts), seed)
        options = self._plan.workload.options
        calls = [
            Call(due_s=due_s, request=self._request(prompt), options=options)
            for due_s, prompt in zip(times, prompts, strict=True)
        ]
        self._say(f"load: {len(calls)} requests, {rate:.3g} a second on average")
        with self._open_engine(self._model) as engine:
            run_load(engine, [Call(due_s=0.0, request=self._warm_up, options=options)], rate=rate, seed=seed)
            result = run_load(engine, calls, rate=rate, seed=seed, say=self._say)
        self.report.load, self.report.load_mix = result, mix_of(prompts)
        self.report.savings = savings(prompts, result.answers)

    def quality(self) -> None:
        """Clips of each setting against those that we compute in full."""
        self._ready()
        prompts = self._distinct[: self._plan.num_judged]
        asked = [self._request(prompt) for prompt in prompts]
        full = [computed_in_full(request) for request in asked]
        variations = list(self._variations(reuses=asked != full))
        made = make_all(variations, full, self._say)
        self.report.quality = differences(variations, made)
        if self._can_be_judged(full[0]):
            self._judge(prompts, full, made)

    def _judge(
        self, prompts: list[LabelledPrompt], full: list[GenerateRequest], made: dict[str, list[Made]]
    ) -> None:
        self._say(f"quality: {len(full)} clips, {OTHER_SEEDS}")
        clips = {name: [each.frames for each in some] for name, some in made.items()}
        clips[OTHER_SEEDS] = [make_clip(self._ours, _other_seed(request)).frames for request in full]
        asked = [prompt.scene.classes() for prompt in prompts]
        self.report.judged = judge_sets(clips, asked, self._judge_of_clips)

    def _variations(self, *, reuses: bool) -> Iterator[Variation]:
        """The reference first."""
        make = partial(make_clip, self._ours)
        yield Variation(name=REFERENCE, make=make)
        yield Variation(name="other attention kernel", make=self._by_other_kernel, is_floor=True)
        if self._plan.floor_dtype is not None:
            other = replace(self._plan.place, dtype=self._plan.floor_dtype)
            in_other = partial(make_clip, open_contender(OURS, other))
            yield Variation(name=f"in {self._plan.floor_dtype}", make=in_other, is_floor=True)
        if reuses:
            yield Variation(name="with reuse", make=lambda request: make(self._with_reuse(request)))
        for rival in self._rivals:
            yield Variation(name=rival.name, make=partial(make_clip, rival))

    def _by_other_kernel(self, request: GenerateRequest) -> Made:
        with other_kernel(self._model.device, getattr(torch, self._plan.place.dtype)):
            return make_clip(self._ours, request)

    def _with_reuse(self, request: GenerateRequest) -> GenerateRequest:
        asked = self.report.request.sampling
        reused = replace(request.sampling, step_cache=asked.step_cache, guidance_gate=asked.guidance_gate)
        return replace(request, sampling=reused)

    def _can_be_judged(self, request: GenerateRequest) -> bool:
        return self._model.rules.name == "toy" and self._judge_of_clips.can_read(request.video.num_frames)

    @cached_property
    def _judge_of_clips(self) -> ClipJudge:
        return ClipJudge(device=self._model.device)

    @cached_property
    def _rivals(self) -> list[Contender]:
        rivals = []
        for name in self._plan.peers:
            self._say(f"loading {name}")
            rivals.append(open_contender(name, self._plan.peer_place))
            self.report.contenders[name] = rivals[-1].settings
        return rivals

    @property
    def _warm_up(self) -> GenerateRequest:
        """A clip that nobody counts."""
        return self._request(self._distinct[-1])

    def _requests(self, part: Literal["alone", "pairs"]) -> list[GenerateRequest]:
        """Of the clips of one part. Encoded prompts are kept, so no prompt comes twice: they are taken from
        the end of the workload, the load's from its beginning."""
        num = self._plan.num_clips
        first = len(self._distinct) - 1 - num * (1 if part == "alone" else 2)
        return [self._request(prompt) for prompt in self._distinct[first : first + num]]

    def _request(self, prompt: LabelledPrompt) -> GenerateRequest:
        fields = {"preset": self._plan.workload.preset, "seed": prompt.seed, **self._plan.fields}
        if "seed" in self._plan.fields:
            fields["seed"] += prompt.number
        return self._model.job(prompt.prompt, **fields).request

    def _ready(self) -> None:
        self._model.warm_up()
        self.report.contenders.setdefault(REFERENCE, self._ours.settings)

    def _clip_s(self) -> float:
        """Seconds of one clip alone, to choose a rate by."""
        if self.report.alone is not None:
            return self.report.alone.seconds["end_to_end_s"].median
        measure(self._ours, self._warm_up)
        return measure(self._ours, self._requests("alone")[0]).end_to_end_s


def _other_seed(request: GenerateRequest) -> GenerateRequest:
    sampling = request.sampling
    return replace(request, sampling=replace(sampling, seed=(sampling.seed + 2**31) % 2**32))
