"""What workers tell those who submit: what they serve, how fast, with how much memory. No torch here.

A worker writes one small file into the store's folder every few seconds; a client predicts from these with
the same cost model that the worker plans by.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rushes.engine.admission import Accept, Admission, AdmissionPolicy
from rushes.engine.backlog import Backlog
from rushes.engine.cost import CostModel
from rushes.engine.memory import job_memory
from rushes.engine.promises import Promises
from rushes.engine.rates import rates_for
from rushes.engine.shapes import ModelShape, TextShape
from rushes.errors import StoreError
from rushes.models.configs import ExpertsConfig, WanConfig, WanVAEConfig
from rushes.stores.base import JobStore
from rushes.stores.disk import BlobFolder
from rushes.types import GenerateRequest, JobOptions, JobStatus, Lane

ANNOUNCE_S = 5.0
"""Between two announcements of a worker."""

FRESH_S = 20.0
"""An older announcement is a dead worker's."""

COMPLETED: tuple[JobStatus, ...] = ("completed",)

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
    """

    owner: str
    at: float
    pipeline: str
    shape: ModelShape
    rates: Mapping[str, Any]
    budget_bytes: int
    reserve_bytes: int

    def to_bytes(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Announcement:
        """The inverse of `to_bytes`. Raises `StoreError`."""
        try:
            content = json.loads(data)
            return cls(**{**content, "shape": _shape(content["shape"])})
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
    return [word for word in everybody(folder, clock=clock) if word.pipeline == pipeline]


def everybody(folder: BlobFolder, *, clock: Callable[[], float] = time.time) -> Sequence[Announcement]:
    """Fresh words of all workers, by name; a dead worker's file is removed."""
    found = []
    for name in folder.names():
        if not name.startswith(PREFIX):
            continue
        try:
            word = Announcement.from_bytes(folder.read(name))
        except StoreError:
            continue  # being replaced, or of another version
        if abs(clock() - word.at) > FRESH_S:
            folder.delete(name)
        else:
            found.append(word)
    return found


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

    def __init__(
        self, folder: BlobFolder, pipeline: str, owner: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder, self._pipeline, self._owner, self._clock = folder, pipeline, owner, clock
        self._read_at = -math.inf
        self._most_bytes = 0

    def __call__(self) -> int:
        """See the class. Raises `StoreError`."""
        now = self._clock()
        if now - self._read_at >= ANNOUNCE_S:
            others = [w for w in workers(self._folder, self._pipeline) if w.owner != self._owner]
            self._most_bytes = max(map(usable_bytes, others), default=0)
            self._read_at = now
        return self._most_bytes


class StoreAdmission:
    """Decides about jobs by what the workers of a store announce.

    With no worker there to ask, everything is taken and nothing promised.
    """

    def __init__(
        self,
        store: JobStore,
        folder: BlobFolder,
        policy: AdmissionPolicy | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._folder, self._policy, self._clock = store, folder, policy, clock
        self._promises: dict[str, Promises] = {}
        self._heard: set[str] = set()

    def admit(self, request: GenerateRequest, options: JobOptions) -> Accept | None:
        """What is promised, None where nobody serves this pipeline now. Raises as `Admission.decide`."""
        serving = workers(self._folder, request.pipeline, clock=self._clock)
        if not serving:
            return None
        able = [word for word in serving if has_room(word, request)]
        # Whoever takes it must have room for it: the least of those that can, or the largest there is.
        word = min(able, key=usable_bytes) if able else max(serving, key=usable_bytes)
        cost = CostModel(rates_for(word.rates["device"]), {word.pipeline: word.shape})
        cost.load(word.rates)
        policy = self._policy or AdmissionPolicy(reserve_bytes=word.reserve_bytes)
        promises = self._promises.setdefault(word.pipeline, Promises(policy.promises))
        self._learn(promises, word.pipeline)
        admission = Admission(cost, word.budget_bytes, policy, promises=promises)
        return admission.decide(request, options, self._backlog(cost, len(able) or 1))

    def _learn(self, promises: Promises, pipeline: str) -> None:
        """How the promises to the latest completed jobs were kept."""
        for record in reversed(self._store.jobs(statuses=COMPLETED, limit=LATEST)):
            is_new = record.id not in self._heard and record.request.pipeline == pipeline
            if is_new and record.eta_s and record.finished_at is not None:
                self._heard.add(record.id)
                promises.observe(
                    record.options.lane,
                    admitted_at=record.created_at,
                    eta_s=record.eta_s,
                    actual_s=record.finished_at - record.created_at,
                )

    def _backlog(self, cost: CostModel, num_workers: int) -> Backlog:
        """Seconds of all jobs not ended, spread over the workers."""
        seconds: dict[tuple[Lane, str], float] = {}
        for record in self._store.jobs(statuses=("queued", "running"), limit=100_000):
            if record.request.pipeline not in cost.shapes:
                continue
            owner = (record.options.lane, record.options.tenant)
            predicted_s = record.predicted_s or cost.predict(record.request).total_s
            seconds[owner] = seconds.get(owner, 0.0) + predicted_s / num_workers
        return Backlog(at=self._clock(), seconds=seconds)
