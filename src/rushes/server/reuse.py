"""What a new request may take from earlier ones: the clip of the same request, or latents to go on from."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from rushes.engine.announcements import Announcement
from rushes.errors import IdempotencyConflict
from rushes.reuse.keys import exact_key
from rushes.server.auth import Caller
from rushes.server.latent_reuse import LatentReuse
from rushes.server.reuse_metrics import ReuseMetrics
from rushes.server.wishes import Wish
from rushes.stores.base import JobRecord
from rushes.stores.exact_keys import derived_key
from rushes.types import GenerateRequest, JobOptions, Json

_ASKED = ("remixed_from", "strength", "preset", "mask")
"""What is told of how an edit was asked for."""

NO_EDIT: Mapping[str, Json] = MappingProxyType({})

_TOLD = ("kind", "sigma", "similarity", "steps_saved", "seconds_saved", "source")
REASONS = (
    *("new", "model", "mode", "solver", "empty", "similarity", "guard", "store"),
    *("level", "missing", "degraded", "strength"),
)
"""Why nothing is taken, by the first word; whatever a worker says of a snapshot is "snapshot"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a request will be made.

    Attributes:
        request: as it was asked for, with the latents that it goes on from.
        keys: under which its clip may be there already, the first to be looked up first.
        key: that it will be kept under; None where it is not for others.
        told: of its record, see `JobRecord.reuse`.
    """

    request: GenerateRequest
    keys: tuple[str, ...] = ()
    key: str | None = None
    told: Mapping[str, Json] = field(default_factory=lambda: {"kind": "off"})

    @property
    def text(self) -> str:
        """`told` as JSON."""
        return json.dumps(self.told, sort_keys=True, separators=(",", ":"))


class Reuse:
    """Decides; writes nothing but counters, and is safe for threads. `latent` encodes a sentence: not to be
    called on the event loop.

    A clip that was made from another's latents is kept under a key of its own, so that those who take the
    same clip only ("exact") never get it.

    Args:
        serving: workers of a pipeline that are there.
        latents: None where no latents are looked up.

    Attributes:
        metrics: what `count` counted.
    """

    def __init__(
        self, serving: Callable[[str], Sequence[Announcement]], latents: LatentReuse | None = None
    ) -> None:
        self._serving, self.latents = serving, latents
        self.metrics = ReuseMetrics()
        if latents is not None:
            self.metrics.num_entries = latents.cache.__len__
        self._lock = threading.Lock()
        self._identities: dict[str, str] = {}

    def plan(self, request: GenerateRequest, caller: Caller, wish: Wish) -> Plan:
        """Keys of what may be taken as it is."""
        if wish.level == "off" or not caller.is_cache_allowed:
            return Plan(request=request)
        identity = self.identity(request.pipeline)
        if identity is None:
            return Plan(request=request, told=_missed("model"))
        key = exact_key(request, identity=identity, tenant=caller.tenant)
        takes_latents = self._takes_latents(request, wish)
        keys = (key, key_from_latents(key)) if takes_latents else (key,)
        return Plan(request=request, keys=keys, key=key, told=_missed("new"))

    def latent(self, plan: Plan, caller: Caller, wish: Wish) -> Plan:
        """The same, going on from latents of a like clip, where there are some."""
        request = plan.request
        identity = self.identity(request.pipeline)
        if self.latents is None or plan.key is None or identity is None:
            return plan
        if not self._takes_latents(request, wish):
            return plan
        found = self.latents.find(request, identity=identity, tenant=caller.tenant, has_seed=wish.has_seed)
        if isinstance(found, str):
            return replace(plan, told=_missed(found))
        told: dict[str, Json] = {
            "kind": "latent",
            "source": found.job_id,
            "sigma": found.sigma,
            "similarity": round(found.similarity, 4),
            "steps_saved": found.source.step,
            "seconds_saved": round(found.saved_s, 3),
        }
        key = key_from_latents(plan.key)
        return Plan(request=replace(request, source=found.source), keys=(key,), key=key, told=told)

    def edit(self, request: GenerateRequest, caller: Caller, told: Mapping[str, Json]) -> Plan:
        """Of an edit, which is asked for by name: another with the same words is the same clip."""
        identity = self.identity(request.pipeline) if caller.is_cache_allowed else None
        if identity is None:
            return Plan(request=request, told=told)
        key = exact_key(request, identity=identity, tenant=caller.tenant)
        return Plan(request=request, keys=(key,), key=key, told=told)

    def degraded(self, plan: Plan) -> Plan:
        """A plan with latents, of a request that is made smaller: nothing to go on from."""
        kept = {name: value for name, value in plan.told.items() if name in _ASKED}
        return Plan(request=replace(plan.request, source=None), told={**_missed("degraded"), **kept})

    def count(self, record: JobRecord) -> None:
        """A request was answered with this job."""
        told = cache_of(record)
        self.metrics.answered(told["kind"], told.get("reason"), told["seconds_saved"])

    def identity(self, pipeline: str) -> str | None:
        """Of the model that its workers run; the last one known where none is there. None where nobody knows,
        or where they run several: then nobody can tell which of them would make the clip."""
        identities = {word.identity for word in self._serving(pipeline)}
        with self._lock:
            if not identities:
                return self._identities.get(pipeline)
            found = identities.pop() if len(identities) == 1 else None
            if found is None:
                self._identities.pop(pipeline, None)
            else:
                self._identities[pipeline] = found
            return found

    def _takes_latents(self, request: GenerateRequest, wish: Wish) -> bool:
        return wish.level == "on" and self.latents is not None and request.source is None


def key_from_latents(key: str) -> str:
    """Of a clip of this exact key that was made from another's latents."""
    return derived_key(key, "latent")


def reuse_of(record: JobRecord) -> dict[str, Any]:
    """What a job's record says of reuse, as it is; empty where it says nothing."""
    found = json.loads(record.reuse) if record.reuse else {}
    return found if isinstance(found, dict) else {}


def same_ask(
    earlier: JobRecord,
    options: JobOptions,
    *,
    has_cache: bool = True,
    edit: Mapping[str, Json] = NO_EDIT,
) -> JobRecord:
    """The job of an earlier call with this idempotency key, which asked for it in the same way.

    Args:
        edit: what would be told of one.

    Raises:
        IdempotencyConflict: it had other options, was an edit of another clip, way or mask, or of none,
            or is asked for without the cache and was not made so.
    """
    told = reuse_of(earlier)
    is_same = all(told.get(name) == edit.get(name) for name in _ASKED)
    is_same &= replace(earlier.options, traceparent=options.traceparent) == options
    is_same &= has_cache or not told or told.get("kind") == "off"
    if not is_same:
        key = earlier.options.idempotency_key
        raise IdempotencyConflict(f"idempotency key {key!r}: was used for another request, job {earlier.id}")
    return earlier


def maker_of(record: JobRecord) -> str:
    """Id of the job whose frames a job's will be: its original's while it waits for that."""
    return record.twin_of if record.status == "queued" and record.twin_of is not None else record.id


def cache_of(record: JobRecord) -> dict[str, Any]:
    """What the video object says of it."""
    told = reuse_of(record)
    if record.twin_of is not None and told.get("kind") != "exact":
        told = {"kind": "exact", "job_id": record.twin_of, "is_in_flight": True}
    kind = told.get("kind", "miss")
    if kind == "miss":  # what had been planned does not count
        return {"kind": kind, **dict.fromkeys(_TOLD[1:]), "reason": reason_of(str(told.get("reason", "new")))}
    if kind == "exact":
        told = {
            "source": told.get("job_id"),
            "seconds_saved": told.get("saved_s"),
            "steps_saved": record.request.sampling.num_inference_steps,
            **told,
        }
    found = {**{name: told.get(name) for name in _TOLD}, "reason": None}
    return found | ({"is_in_flight": told.get("is_in_flight", False)} if kind == "exact" else {})


def reason_of(text: str) -> str:
    """Of a miss, in words that name no file; of the guard's, its kind.

    Example:
        >>> reason_of("guard: number: 'two' is not 'three'"), reason_of("/store/latents/x: is damaged")
        ('guard: number', 'snapshot')
    """
    first, _, rest = text.partition(": ")
    if first == "guard":
        return f"guard: {rest.partition(':')[0]}"
    return first if first in REASONS else "snapshot"


def _missed(reason: str) -> dict[str, Json]:
    return {"kind": "miss", "reason": reason}
