"""What a store of jobs promises. No torch here: a gateway reads and writes it too."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rushes.types import GenerateRequest, JobEvent, JobOptions, JobStatus, Json, Lane


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One job as it is stored. Times are seconds since the epoch.

    Attributes:
        id: unique and unguessable.
        request: as it will run; after a degradation, no longer as it was asked.
        predicted_s: device seconds by the cost model, at admission.
        eta_s: seconds after `created_at` when it was promised to be finished; None where nobody could tell.
        actual_s: device seconds that it took, once completed.
        token: fencing token: grows with every lease, and only the holder of the latest may write.
        deaths: leases that ran out because their worker died or was ended.
        checkpoint: name of the latest checkpoint, None before the first.
        result: name of the finished artefact.
        error: why it failed, in one line, and the error's class.
        wants_cancel: somebody asked to cancel it and its worker has not seen that yet.
        reuse: JSON of what it takes from earlier jobs: its `kind` is exact, latent, edit, miss or off.
        twin_of: while it is queued, the open job whose result will be its own, so that nobody leases it; once
            it is completed, the job whose end completed it.
    """

    id: str
    status: JobStatus
    request: GenerateRequest
    options: JobOptions
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    predicted_s: float | None = None
    eta_s: float | None = None
    actual_s: float | None = None
    token: int = 0
    deaths: int = 0
    checkpoint: str | None = None
    result: str | None = None
    error: str | None = None
    error_kind: str | None = None
    wants_cancel: bool = False
    reuse: str | None = None
    twin_of: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to run a job for a while; every write of a worker shows it."""

    job_id: str
    owner: str
    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What a worker learns when it says that it is alive, or asks.

    Attributes:
        lost: jobs that another worker has, or that ended or went back to the queue; drop them, write nothing
            more.
        cancelled: jobs that it still holds and that somebody wants to be cancelled.
    """

    lost: frozenset[str]
    cancelled: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a sweep took out of the store; the caller deletes the files.

    Attributes:
        checkpoints: names that no job needs any more.
        results: artefacts of jobs that are gone and that no other job names.
        job_ids: of the jobs that are gone.
    """

    jobs: int
    checkpoints: tuple[str, ...]
    results: tuple[str, ...]
    job_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """Jobs of one pipeline, lane and status that have not ended.

    Attributes:
        oldest_at: when the oldest of them was submitted, seconds since the epoch.
    """

    pipeline: str
    lane: Lane
    status: JobStatus
    jobs: int
    oldest_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """Events of all jobs, and the place after which to go on."""

    events: Sequence[JobEvent]
    place: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWork:
    """Jobs of one pipeline, lane and tenant that have not ended.

    Attributes:
        seconds: the sum of their `predicted_s`.
        unknown: ids of those that nobody predicted.
    """

    pipeline: str
    lane: Lane
    tenant: str
    seconds: float
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Jobs of one status, and the sums of their seconds, 0 where a job has none; see `JobRecord`."""

    status: JobStatus
    jobs: int
    predicted_s: float
    actual_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPromise:
    """A completed job to which an ETA was promised; see `JobRecord`."""

    job_id: str
    pipeline: str
    lane: Lane
    created_at: float
    eta_s: float
    finished_at: float


Told = tuple[str, Mapping[str, Json]]
"""An event that is not yet written: its kind and its data."""


class JobStore(Protocol):
    """Durable jobs with exactly one result each; safe for many processes and threads at once.

    Every method may raise `StoreError` (not writable, full, locked too long, of another version), and has
    then changed nothing. A method that takes a `Lease` raises `LeaseLost` when the lease is not the latest,
    was given back or its job has ended, and has then changed nothing either.

    The clock may jump: the token of a lease decides who may write, never the time. Times of events need not
    grow, their numbers do. `completed`, `failed` or `cancelled` is a job's last event and comes once.
    """

    def create(
        self,
        request: GenerateRequest,
        options: JobOptions,
        *,
        predicted_s: float | None = None,
        eta_s: float | None = None,
        changes: Sequence[tuple[str, int, int]] = (),
        asked: GenerateRequest | None = None,
        needs_bytes: int | None = None,
        exact_key: str | None = None,
        reuse: str | None = None,
        joins: bool = False,
    ) -> JobRecord:
        """A new queued job with its `queued` event, whose data are `predicted_s` and `eta_s`, and for one
        that was degraded its `degraded` event with the `changes` (field, asked for, given); or the earlier
        job of the same tenant, idempotency key and request, whatever became of it. Raises
        `IdempotencyConflict` for the same key with another request.

        Requests are compared as they were `asked` for (None: `request`), all fields, before any degradation;
        options are not compared. So whoever fills in what the user left open must fill in the same for the
        same key: a seed drawn at random makes every repetition a conflict, one derived from tenant and key
        does not. `needs_bytes` of device memory are for `lease` to mind.

        Jobs of one tenant and `exact_key` make the same clip. With `joins` the new job takes the result of
        the latest completed one, and is completed when this returns, with an end of its own; or it becomes
        the twin of an open one, whose end it waits for; in an interactive job's favour the two change places,
        where nobody has begun the other. Twins are completed in the transaction that completes their
        original; when that ends otherwise, or becomes another clip, the first of them takes its place.
        A job that was degraded before it began has no key. `reuse` is kept as it is until then."""

    def reuse_exact(
        self, request: GenerateRequest, options: JobOptions, *, exact_key: str
    ) -> JobRecord | None:
        """`create` with `joins` where there is something to take or to wait for, to be asked before a promise
        is made; else None, and nothing is written."""

    def made_as(self, tenant: str, exact_key: str) -> JobRecord | None:
        """The completed job whose result the next of this key takes."""

    def disown(self, result: str) -> None:
        """A result's file is gone: its jobs have no exact key any more, and are taken by nobody."""

    def earlier(self, asked: GenerateRequest, options: JobOptions) -> JobRecord | None:
        """The job that `create` would return instead of a new one. Raises `IdempotencyConflict`."""

    def get(self, job_id: str) -> JobRecord:
        """Raises `UnknownJob`."""

    def jobs(
        self,
        *,
        tenant: str | None = None,
        statuses: Collection[JobStatus] = (),
        limit: int = 100,
        after: str | None = None,
        oldest_first: bool = False,
    ) -> Sequence[JobRecord]:
        """Newest first, in the order in which they were created, whatever the clock did; `after` is the id of
        the last one of the page before, which may be gone by now. No statuses mean all. Whoever pages to the
        end sees every job that was there all the time once, and none twice."""

    def count(self, *, tenant: str | None = None, statuses: Collection[JobStatus] = ()) -> int:
        """How many jobs `jobs` would list."""

    def depths(self) -> Sequence[Depth]:
        """How many jobs are queued and how many run, by pipeline and lane; those of which there are none are
        left out, and so are twins."""

    def lease(
        self,
        owner: str,
        *,
        pipelines: Collection[str],
        limit: int,
        ttl_s: float,
        lanes: Collection[Lane] = (),
        most_bytes: int | None = None,
    ) -> Sequence[JobRecord]:
        """Take up to `limit` jobs that are queued, or running under a lease that ran out: interactive first,
        then oldest first. Each is running afterwards, under a new token. No lanes mean all. A job that is
        known to need more than `most_bytes` of device memory is left to others.

        A lease that ran out counts as a death; a job with `MAX_DEATHS` of them fails here with
        `WorkerDied`'s reason instead of being leased, and one that somebody wants to be cancelled is
        cancelled. A worker that was suspended sends a heartbeat before it asks for jobs: its leases may have
        run out, and it would take its own jobs from itself."""

    def heartbeat(self, owner: str, leases: Collection[Lease], *, ttl_s: float) -> Heartbeat:
        """Prolong these leases, from now on and for `ttl_s`. One that ran out but that nobody else took is
        prolonged too. A failing power may take a heartbeat back, and no other write."""

    def hear(self, leases: Collection[Lease]) -> Heartbeat:
        """What `heartbeat` would tell of these leases. Writes nothing and waits for no writer, so it can be
        asked as often as a cancellation is to be heard."""

    def release(self, lease: Lease, *, needs_bytes: int | None = None) -> None:
        """Give a job back to the queue, its checkpoint kept; no death is counted. One that somebody wants to
        be cancelled is cancelled instead.

        Args:
            needs_bytes: device memory that it turned out to need; None leaves what is known.
        """

    def checkpoint(self, lease: Lease, name: str) -> str | None:
        """The file `name` holds the job from now on; returns the name that it replaces, to be deleted; None
        when there was none or it is the same.

        The file must be whole on the disk before. Its name holds the lease's token (`{job}.{token}.{step}`),
        as an artefact's does: a worker that lost its lease must not write over its successor's files."""

    def asked(self, job_id: str) -> GenerateRequest:
        """The request as it came, before any degradation. Raises `UnknownJob`."""

    def amend(
        self,
        lease: Lease,
        request: GenerateRequest,
        *,
        changes: Sequence[tuple[str, int, int]] = (),
        predicted_s: float | None = None,
        needs_bytes: int | None = None,
    ) -> str | None:
        """Replace the request by a degraded one, with what is predicted of it, and write its `degraded` event
        with the `changes`, as `create` does. The job begins anew: returns the name of the checkpoint that is
        none of its any more, to be deleted; None when there was none."""

    def append(self, lease: Lease, kind: str, data: Mapping[str, Json]) -> JobEvent:
        """Write one event; returns it with its number. Raises `StoreError` for a kind that ends a job: the
        methods below write those."""

    def append_all(self, lease: Lease, told: Sequence[Told]) -> None:
        """`append` of several, in this order: all of them or none."""

    def miss_source(self, lease: Lease, *, reason: str) -> None:
        """The latents from which the job was to go on cannot be used, and it begins with noise: writes its
        `source_missed` event, and a `miss` with the reason into its `reuse`, without what was to be saved."""

    def finish(
        self,
        lease: Lease,
        *,
        result: str,
        actual_s: float,
        data: Mapping[str, Json] | None = None,
        identity: str | None = None,
        told: Sequence[Told] = (),
    ) -> None:
        """The job is completed, once and for all; writes its event, which holds `data`, `result`, `actual_s`
        and, unless `data` has another, the record's `predicted_s`. The same call again does nothing, so that
        it can be repeated after a `StoreError`.

        Args:
            told: events that come before its end.
            identity: of the model that made the clip. Where the job's key is for another, the clip is its own
                only, and twins are freed.
        """

    def fail(self, lease: Lease, *, error: str, error_kind: str) -> None:
        """The job has failed for good; writes its event, whose data are `error` and `error_kind`."""

    def cancelled(self, lease: Lease) -> None:
        """The worker has let a job go that somebody wanted to be cancelled; writes its event."""

    def cancel(self, job_id: str) -> JobRecord:
        """Ask for an end: a queued job, or one whose lease ran out, is cancelled at once, a running one by
        its worker at its next step, a finished one stays as it is. Raises `UnknownJob`."""

    def events(self, job_id: str, *, after: int = 0, limit: int | None = None) -> Sequence[JobEvent]:
        """Events with a number above `after`, in order, the first `limit` of them. Raises `UnknownJob`."""

    def latest_event(self, job_id: str, kind: str) -> JobEvent | None:
        """The last of this kind; None where there is none, also for a job that is not there."""

    def feed(self, *, after: int, limit: int = 1000) -> Feed:
        """Events of all jobs behind the place `after`, in the order of commits: none is seen late, none
        twice. Places grow, with gaps, and are of this store only."""

    def last_place(self) -> int:
        """Of the latest event of all; 0 before the first."""

    def nums_ahead(self, job_ids: Sequence[str]) -> Sequence[int]:
        """Queued jobs of its pipeline that would be leased before each of these, or, of a twin, before its
        original; 0 where that is not queued, or not there."""

    def open_work(self) -> Sequence[OpenWork]:
        """Predicted work of all jobs that have not ended, summed up; a twin makes none."""

    def tallies(self, tenant: str, prefix: str, *, most: int, without: Collection[int]) -> Sequence[Tally]:
        """Of the tenant's jobs whose idempotency key is `prefix` and a number up to `most`, but for the
        numbers `without`; statuses of which there are none are left out. No other key may begin with `prefix`
        and a digit."""

    def kept_promises(self, *, since: float, limit: int) -> Sequence[KeptPromise]:
        """The latest completed jobs with an ETA that ended at `since` or later, the latest end last."""

    def is_named(self, result: str) -> bool:
        """Whether any job has this result."""

    def forget(self, job_id: str) -> Swept:
        """Take an ended job out of the store, with its events; the caller deletes its files, as after
        `sweep`. Raises `UnknownJob`, and `StoreError` for a job that has not ended."""

    def sweep(self, *, ttl_s: float, max_jobs: int) -> Swept:
        """Forget ended jobs that ended `ttl_s` ago or before, and of the others all but the `max_jobs` that
        ended last; and tell which checkpoints of ended jobs are left over, those kept included.

        Each name is told once: a caller that dies before it has deleted the file leaves it behind, as does a
        worker that dies between `checkpoint` and deleting what it replaced. A file of a job that is not
        running, which the job does not name, may be deleted at any time."""

    def close(self) -> None:
        """Let go of files and connections."""


MAX_DEATHS = 3
"""A job that ended its worker so often fails."""
