"""What workers tell those who submit: what they serve, how fast, with how much memory. No torch here.

A worker writes one small file into the store's folder every few seconds; a client predicts from these with
the same cost model that the worker plans by.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

from rushes.engine.admission import Accept, Admission, AdmissionPolicy
from rushes.engine.backlog import Backlog
from rushes.engine.cost import CostModel
from rushes.engine.memory import job_memory
from rushes.engine.promises import Promises
from rushes.engine.rates import rates_for
from rushes.engine.shapes import ModelShape, TextShape
from rushes.errors import StoreError, UnknownJob
from rushes.models.configs import ExpertsConfig, WanConfig, WanVAEConfig
from rushes.stores.base import JobStore
from rushes.stores.disk import BlobFolder
from rushes.types import GenerateRequest, JobOptions, Lane

ANNOUNCE_S = 5.0
"""Between two announcements of a worker."""

FRESH_S = 20.0
"""An older announcement is a dead worker's."""

LATEST = 50
"""Completed jobs that a client looks at for how promises were kept."""

PREFIX = "worker-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """One worker's word.

    Attributes:
        at: seconds since the epoch.
        rates: `CostModel.to_json`: the device's name and what was learned about it.
        budget_bytes: of the device, weights included.
        metrics_url: where its Prometheus metrics are; None where it serves none.
        identity: of the model that it runs, plan included; None of a worker that does not say.
        loras: files of its folder that requests may ask for.
    """

    owner: str
    at: float
    pipeline: str
    shape: ModelShape
    rates: Mapping[str, Any]
    budget_bytes: int
    reserve_bytes: int
    metrics_url: str | None = None
    identity: str | None = None
    loras: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Announcement:
        """The inverse of `to_bytes`. Raises `StoreError`."""
        try:
            content = json.loads(data)
            loras = tuple(content.get("loras", ()))
            return cls(**{**content, "shape": _shape(content["shape"]), "loras": loras})
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(f"a worker's announcement cannot be read: {error}") from error


def _shape(content: dict[str, Any]) -> ModelShape:
    transformer = content["transformer"]
    vae: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content["vae"].items()
    }
    experts = transformer["experts"]
    return ModelShape(
        **{
            **content,
            "transformer": WanConfig(
                **{
                    **transformer,
                    "patch_size": tuple(transformer["patch_size"]),
                    "experts": None if experts is None else ExpertsConfig(**experts),
                }
            ),
            "vae": WanVAEConfig(**vae),
            "text": TextShape(**content["text"]),
        }
    )


def announce(folder: BlobFolder, word: Announcement) -> None:
    """Write one worker's word in place of its last. Raises `StoreError`."""
    folder.write(f"{PREFIX}{word.owner}.json", word.to_bytes())


def withdraw(folder: BlobFolder, owner: str) -> None:
    """Take it back."""
    folder.delete(f"{PREFIX}{owner}.json")


def workers(
    folder: BlobFolder, pipeline: str, *, clock: Callable[[], float] = time.time
) -> Sequence[Announcement]:
    """Fresh words of workers that serve this pipeline; a dead worker's file is removed."""
    return Roster(folder, clock=clock).of(pipeline)


def metrics_urls(folder: BlobFolder, *, clock: Callable[[], float] = time.time) -> Mapping[str, str]:
    """Where fresh workers of every pipeline serve their metrics, by host and process."""
    words = [word for word in Roster(folder, clock=clock).words if word.metrics_url is not None]
    return {word.owner.rpartition("-")[0] or word.owner: str(word.metrics_url) for word in words}


class Roster:
    """The workers that are there.

    Args:
        look_s: how long what the folder held may be taken for what it holds.
    """

    def __init__(
        self, folder: BlobFolder, *, look_s: float = 0.0, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder, self._look_s, self._clock = folder, look_s, clock
        self._looked_at, self._words = -inf, tuple[Announcement, ...]()

    @property
    def words(self) -> Sequence[Announcement]:
        """Of every pipeline, all of them fresh."""
        if time.monotonic() - self._looked_at >= self._look_s:
            self._words = tuple(self._read())
            self._looked_at = time.monotonic()
        return [word for word in self._words if self._is_fresh(word)]

    def of(self, pipeline: str) -> Sequence[Announcement]:
        """Of this pipeline."""
        return [word for word in self.words if word.pipeline == pipeline]

    def _is_fresh(self, word: Announcement) -> bool:
        return abs(self._clock() - word.at) <= FRESH_S

    def _read(self) -> Iterator[Announcement]:
        for name in self._folder.names():
            if not name.startswith(PREFIX):
                continue
            try:
                word = Announcement.from_bytes(self._folder.read(name))
            except StoreError:
                continue  # being replaced, or of another version
            if self._is_fresh(word):
                yield word
            else:
                self._folder.delete(name)


def usable_bytes(word: Announcement) -> int:
    """Device memory of a worker, without its reserve."""
    return word.budget_bytes - word.reserve_bytes


def has_room(word: Announcement, request: GenerateRequest) -> bool:
    """Whether a worker can hold this request with nothing beside it."""
    return job_memory(request, word.shape).peak_bytes <= usable_bytes(word)


class Elsewhere:
    """Usable memory of the largest worker of a pipeline but `owner`; 0 where there is no other.

    Asked at every look for jobs, many times a second. Workers speak every `ANNOUNCE_S`, so their files are
    read no more often.
    """

    def __init__(self, folder: BlobFolder, pipeline: str, owner: str, *, look_s: float = ANNOUNCE_S) -> None:
        self._roster = Roster(folder, look_s=look_s)
        self._pipeline, self._owner = pipeline, owner

    def __call__(self) -> int:
        """See the class. Raises `StoreError`."""
        others = (word for word in self._roster.of(self._pipeline) if word.owner != self._owner)
        return max(map(usable_bytes, others), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What jobs would take: device seconds of all of them, and seconds from now until the last is ready."""

    predicted_s: float
    eta_s: float
    num_workers: int


class StoreAdmission:
    """Decides about jobs by what the workers of a store announce.

    With no worker there to ask, everything is taken and nothing promised.

    Args:
        look_s: see `Roster`.

    Attributes:
        roster: the workers that are there.
    """

    def __init__(
        self,
        store: JobStore,
        folder: BlobFolder,
        policy: AdmissionPolicy | None = None,
        *,
        look_s: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._policy, self._clock = store, policy, clock
        self.roster = Roster(folder, look_s=look_s, clock=clock)
        self._promises: dict[str, Promises] = {}
        self._heard: frozenset[str] = frozenset()
        self._heard_at = 0.0
        self._predicted: dict[str, float] = {}
        self._costs: dict[str, tuple[Announcement, CostModel]] = {}
        self._deciding = threading.Lock()

    def admit(self, request: GenerateRequest, options: JobOptions) -> Accept | None:
        """What is promised, None where nobody serves this pipeline now. Raises as `Admission.decide`."""
        serving = self.roster.of(request.pipeline)
        if not serving:
            return None
        able = [word for word in serving if has_room(word, request)]
        # Whoever takes it must have room for it: the least of those that can, or the largest there is.
        word = min(able, key=usable_bytes) if able else max(serving, key=usable_bytes)
        cost = self._cost_of(word)
        policy = self._policy or AdmissionPolicy(reserve_bytes=word.reserve_bytes)
        with self._deciding:
            self._learn(policy)
            promises = self._promises_of(word.pipeline, policy)
            admission = Admission(cost, word.budget_bytes, policy, promises=promises)
            return admission.decide(request, options, self._backlog(cost, len(able) or 1))

    def estimate(self, requests: Sequence[GenerateRequest], options: JobOptions) -> Estimate | None:
        """What many requests of one pipeline would take together, queued now; None where nobody serves it.
        Nothing is refused and nothing taken."""
        pipeline = requests[0].pipeline
        serving = self.roster.of(pipeline)
        if not serving:
            return None
        word = max(serving, key=usable_bytes)
        cost = self._cost_of(word)
        predicted_s = sum(cost.predict(request).total_s for request in requests)
        policy = self._policy or AdmissionPolicy()
        with self._deciding:
            self._learn(policy)
            promises = self._promises_of(pipeline, policy)
            backlog = self._backlog(cost, len(serving))
            each_s = predicted_s / len(serving)
            eta_s = promises.eta_s(options.lane, options.tenant, each_s, backlog, num_jobs=len(requests))
        return Estimate(predicted_s=predicted_s, eta_s=eta_s, num_workers=len(serving))

    def _cost_of(self, word: Announcement) -> CostModel:
        """What the worker plans by, read once for each of its words: it learned from hundreds of units."""
        known = self._costs.get(word.owner)
        if known is None or known[0] != word:
            cost = CostModel(rates_for(word.rates["device"]), {word.pipeline: word.shape})
            cost.load(word.rates)
            here = {each.owner for each in self.roster.words}
            self._costs = {owner: each for owner, each in self._costs.items() if owner in here}
            known = self._costs[word.owner] = (word, cost)
        return known[1]

    def _promises_of(self, pipeline: str, policy: AdmissionPolicy) -> Promises:
        return self._promises.setdefault(pipeline, Promises(policy.promises))

    def _learn(self, policy: AdmissionPolicy) -> None:
        """How the promises to the jobs were kept that have completed since the last look."""
        # A clock that jumped back has left the last look in the future.
        since = min(self._heard_at, self._clock())
        found = self._store.kept_promises(since=since, limit=LATEST)
        for kept in found:
            if kept.job_id not in self._heard:
                self._promises_of(kept.pipeline, policy).observe(
                    kept.lane,
                    admitted_at=kept.created_at,
                    eta_s=kept.eta_s,
                    actual_s=kept.finished_at - kept.created_at,
                )
        if found:
            self._heard, self._heard_at = frozenset(kept.job_id for kept in found), found[-1].finished_at

    def _backlog(self, cost: CostModel, num_workers: int) -> Backlog:
        """Seconds of all jobs not ended, spread over the workers."""
        seconds: dict[tuple[Lane, str], float] = {}
        work = [each for each in self._store.open_work() if each.pipeline in cost.shapes]
        for each in work:
            unknown_s = sum(self._predict(job_id, cost) for job_id in each.unknown)
            seconds[each.lane, each.tenant] = (each.seconds + unknown_s) / num_workers
        if len(self._predicted) > sum(len(each.unknown) for each in work):
            left = {job_id for each in work for job_id in each.unknown}
            self._predicted = {job_id: s for job_id, s in self._predicted.items() if job_id in left}
        return Backlog(at=self._clock(), seconds=seconds)

    def _predict(self, job_id: str, cost: CostModel) -> float:
        """Of a job that was taken when nobody could tell, predicted once."""
        if job_id not in self._predicted:
            try:
                self._predicted[job_id] = cost.predict(self._store.get(job_id).request).total_s
            except UnknownJob:
                return 0.0
        return self._predicted[job_id]
