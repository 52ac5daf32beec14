"""What the service does, whatever the protocol: HTTP and gRPC are two edges of this."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rushes.engine.announcements import Announcement, StoreAdmission
from rushes.engine.client import StoreClient
from rushes.engine.latent_files import mask_file
from rushes.engine.workplace import Workplace
from rushes.errors import IdempotencyConflict, UnknownJob
from rushes.pipelines.rules import RULES, load_rules
from rushes.server.asks import ask_of
from rushes.server.auth import Caller
from rushes.server.edit_ways import lora_of
from rushes.server.edits import Edit, EditAsk, edit
from rushes.server.feed import Feed
from rushes.server.latent_reuse import LatentReuse
from rushes.server.limits import Limits
from rushes.server.masks import cells_of
from rushes.server.problems import Problem, ProblemError
from rushes.server.reuse import Plan, Reuse, cache_of, maker_of, same_ask
from rushes.server.snapshots import finished_of, kept_of, lead_s, origin_of, steps_s
from rushes.server.videos import Standing, error_of, left_s, notes_of, video_of
from rushes.server.watching import watched
from rushes.server.wishes import ANYTHING, Wish, wish_of
from rushes.stores.base import JobRecord
from rushes.types import FINAL, GenerateRequest, JobEvent, JobOptions, Json

__all__ = ["Gateway", "Page"]

LOOK_S = 1.0
"""How old what is known of the workers may be."""

MAX_PAGE = 100
DEEP = 1000
"""Queued jobs that are counted in half a millisecond; a deeper queue is counted on a thread."""

SHRINK = 0.9
"""Of the depth that a queue was last seen to have, that it is believed to have still when a job before its
last one is counted."""

DELETE_WAIT_S = 15.0
"""How long a deletion waits for a running job to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some of a tenant's videos."""

    videos: Sequence[dict[str, Any]]
    has_more: bool


class Gateway:
    """The service over one workplace.

    Methods that write wait for the disk, and those that make a request or a list read much: an edge calls
    them on a thread. `get` takes well below a millisecond; `told` and `told_place` go to a thread by
    themselves where they would take more. Every method raises `RushesError`s, among them `UnknownJob` for
    another tenant's job.

    Args:
        models: pipelines that may be asked for, the first by default; None for those that workers serve or
            have served since the gateway began, and for all that are known where there are none.
        keep_days: how long workers keep ended jobs, to tell when they expire.
        limits: of the callers' keys; None where nothing is limited.
        latents: None where no latents are looked up.

    Attributes:
        reuse: decides what a request may take from earlier ones.
    """

    def __init__(
        self,
        place: Workplace,
        feed: Feed,
        *,
        models: Sequence[str] | None = None,
        keep_days: float = 7.0,
        limits: Limits | None = None,
        latents: LatentReuse | None = None,
    ) -> None:
        self._limits = limits
        self.place, self.feed = place, feed
        self.admission = StoreAdmission(place.jobs, place.workers, look_s=LOOK_S)
        self.client, self._roster = StoreClient(place.jobs, self.admission), self.admission.roster
        self.reuse = Reuse(self._roster.of, latents)
        self.is_draining = False
        self._models, self._keep_days = models, keep_days
        self._seen: dict[str, None] = {}
        self._ahead: dict[tuple[str, str], int] = {}  # as it was last counted, by pipeline and lane

    @property
    def models(self) -> Sequence[str]:
        """That may be asked for now."""
        if self._models is not None:
            return self._models
        self._seen |= {word.pipeline: None for word in self.serving()}
        return tuple(self._seen) or RULES.names()

    def serving(self, pipeline: str | None = None) -> Sequence[Announcement]:
        """Workers that are there."""
        if pipeline is not None:
            return self._roster.of(pipeline)
        return [word for name in RULES.names() for word in self._roster.of(name)]

    def ask(
        self,
        body: Mapping[str, Any],
        *,
        tenant: str,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> tuple[GenerateRequest, JobOptions]:
        """See `asks.ask_of`."""
        return ask_of(
            body,
            models=self.models,
            tenant=tenant,
            idempotency_key=idempotency_key,
            traceparent=traceparent,
        )

    def make(
        self,
        body: Mapping[str, Any],
        caller: Caller,
        *,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
    ) -> JobRecord:
        """Make the job that a request's body asks for: `ask`, and `create`."""
        request, options = self.ask(
            body, tenant=caller.tenant, idempotency_key=idempotency_key, traceparent=traceparent
        )
        notes_of(request)  # on this thread, so that the loop finds them made
        return self.create(request, options, caller, wish_of(body))

    def create(
        self,
        request: GenerateRequest,
        options: JobOptions,
        caller: Caller,
        wish: Wish = ANYTHING,
    ) -> JobRecord:
        """Make a job, within the limits of the caller's key: with the clip of an earlier one, from its
        latents, or anew; the job of an earlier call is found again and charged nothing. Writes, and may
        encode a sentence."""
        if self.is_draining:
            raise ProblemError(draining())
        earlier = self.client.earlier(request, options)
        if earlier is not None:
            return same_ask(earlier, options, has_cache=wish.level != "off")
        plan = self.reuse.plan(request, caller, wish)
        record = self._taken(plan, options, caller)
        if record is None:
            record = self._queued(self.reuse.latent(plan, caller, wish), request, options, caller)
        self.reuse.count(record)
        return record

    def remix(self, caller: Caller, job_id: str, ask: EditAsk) -> JobRecord:
        """Make an edit of a completed clip. Writes.

        Raises:
            ProblemError: the clip is not completed, or a part of it cannot stay as it is any more.
            InvalidRequest: the mask does not fit it.
        """
        if self.is_draining:
            raise ProblemError(draining())
        parent = self.get(caller.tenant, job_id)
        if parent.status != "completed":
            raise ProblemError(not_finished(parent))
        origin = origin_of(self.place.jobs, parent)
        cells = None if ask.mask is None else cells_of(ask.mask, parent.request)
        name, mask = (None, b"") if cells is None else mask_file(cells)
        kept = kept_of(self.place, origin, is_masked=cells is not None)
        lora = lora_of(load_rules(parent.request.pipeline))
        way = partial(
            edit,
            parent,
            ask,
            kept,
            whole_s=steps_s(self.place.jobs, origin),
            mask=name,
            kept_s=0.0 if cells is None else lead_s(self.place.jobs, origin, cells),
            finished=finished_of(self.place, origin),
        )
        has_lora = all(lora in word.loras for word in self.serving(parent.request.pipeline))
        made = way(has_lora=has_lora)
        earlier = self._earlier_edit(ask.options, made, partial(way, has_lora=not has_lora))
        if earlier is not None:
            return earlier
        asked = replace(made.request, source=None)
        if cells is not None and made.request.source is None:
            raise ProblemError(latents_gone(parent))
        plan = self.reuse.edit(made.request, caller, made.told)
        self.disown_lost(plan, ask.options.tenant)
        record = self._queued(plan, asked, ask.options, caller, mask=mask)
        self.reuse.count(record)
        return record

    def _earlier_edit(
        self, options: JobOptions, made: Edit, otherwise: Callable[[], Edit]
    ) -> JobRecord | None:
        """The job of an earlier call with this key, made in either way: which one it is depends on the
        workers that were there then. Raises `IdempotencyConflict`."""
        try:
            return self._asked_before(options, made)
        except IdempotencyConflict:
            return self._asked_before(options, otherwise())

    def _asked_before(self, options: JobOptions, made: Edit) -> JobRecord | None:
        earlier = self.client.earlier(replace(made.request, source=None), options)
        return None if earlier is None else same_ask(earlier, options, edit=made.told)

    def _taken(self, plan: Plan, options: JobOptions, caller: Caller) -> JobRecord | None:
        """A job whose clip is there or being made for another; None where there is none such."""
        jobs = self.place.jobs
        self.disown_lost(plan, options.tenant)

        def take() -> JobRecord | None:
            found = (jobs.reuse_exact(plan.request, options, exact_key=key) for key in plan.keys)
            return next((record for record in found if record is not None), None)

        # A twin may come to run by itself, so that nobody can tell what it will take.
        return self._charged(caller, options, None, take) if plan.keys else None

    def disown_lost(self, plan: Plan, tenant: str) -> None:
        """Results whose files somebody deleted are no results for others."""
        for key in plan.keys:
            while (made := self.place.jobs.made_as(tenant, key)) is not None and made.result is not None:
                if self.place.artefacts.find(made) is not None:
                    break
                self.place.jobs.disown(made.result)

    def _queued(
        self, plan: Plan, asked: GenerateRequest, options: JobOptions, caller: Caller, *, mask: bytes = b""
    ) -> JobRecord:
        promise = self.client.promise(plan.request, options)
        if promise is not None and plan.request.source is not None and promise.changes:
            plan = self.reuse.degraded(plan)  # latents of one size are none of another
            promise = replace(promise, request=replace(promise.request, source=None))

        def make() -> JobRecord:
            source = plan.request.source
            if source is not None and source.mask is not None:
                self.place.latents.write(source.mask, mask)
            return self.client.create(
                plan.request, options, promise, asked=asked, exact_key=plan.key, reuse=plan.text
            )

        predicted_s = None if promise is None else promise.predicted_s
        record = self._charged(caller, options, predicted_s, make)
        assert record is not None
        return record

    def _charged(
        self,
        caller: Caller,
        options: JobOptions,
        predicted_s: float | None,
        make: Callable[[], JobRecord | None],
    ) -> JobRecord | None:
        """What `make` makes, at the caller's expense; where it makes none, nothing is charged."""
        if self._limits is None:
            return make()
        job_key = options.idempotency_key or secrets.token_hex(16)
        reservation = self._limits.reserve(caller, job_key, predicted_s)
        try:
            record = make()
        except BaseException:
            self._limits.release(reservation)
            raise
        if record is None:
            self._limits.release(reservation)
            return None
        self._limits.bind(reservation, record.id)
        if record.status in FINAL:
            self._limits.ended(record)  # which may have been heard before there was anything to settle
        return record

    def get(self, tenant: str, job_id: str) -> JobRecord:
        """A job of this tenant. Raises `UnknownJob`."""
        record = self.place.jobs.get(job_id)
        if record.options.tenant != tenant:
            raise UnknownJob(f"there is no job {job_id!r}")
        return record

    def list(
        self, tenant: str, *, limit: int = 20, after: str | None = None, oldest_first: bool = False
    ) -> Page:
        """A page of this tenant's videos."""
        found = self.place.jobs.jobs(tenant=tenant, limit=limit + 1, after=after, oldest_first=oldest_first)
        records = found[:limit]
        places = zip(records, self._places(records), strict=True)
        videos = [video_of(record, self._standing(record, ahead)) for record, ahead in places]
        return Page(videos=videos, has_more=len(found) > limit)

    def cancel(self, tenant: str, job_id: str) -> JobRecord:
        """Ask for a job's end. Writes."""
        return self.place.jobs.cancel(self.get(tenant, job_id).id)

    async def delete(self, tenant: str, job_id: str) -> None:
        """Take a job away with all its files; one that runs is cancelled first. Writes.

        Raises:
            ProblemError: it is still running, or this gateway is drained meanwhile; it will end, and can be
                deleted then.
        """
        record = await asyncio.to_thread(self.cancel, tenant, job_id)
        if record.status not in FINAL:
            record = await self._ended(record)
        await asyncio.to_thread(self._forget, record)

    def _forget(self, record: JobRecord) -> None:
        if self._limits is not None:  # while its end can still be read: charged, and told to its webhook
            self._limits.ended(record)
        self.place.forget(record.id)
        if self.reuse.latents is not None:
            self.reuse.latents.forget(record.id)

    async def _ended(self, record: JobRecord) -> JobRecord:
        try:
            async with asyncio.timeout(DELETE_WAIT_S):
                async for _ in self.feed.events(record.id):
                    pass
        except TimeoutError:
            message = f"job {record.id} is being cancelled and still runs; delete it again in a while"
            raise ProblemError(
                Problem(status=409, code="not_ready", message=message, retry_after_s=5.0)
            ) from None
        ended = self.place.jobs.get(record.id)
        if ended.status not in FINAL:  # the feed let its watchers go: what still runs must not be settled
            raise ProblemError(draining())
        return ended

    def video(self, record: JobRecord) -> dict[str, Any]:
        """A job as the video object. See `told`."""
        return video_of(record, self._standing(record, self._num_ahead(record)))

    async def told(self, record: JobRecord) -> dict[str, Any]:
        """The same, for the loop. What a degraded job gave up is looked for in all of its events."""
        if record.options.degrade or (record.status == "queued" and self._is_deep(record)):
            return await asyncio.to_thread(self.video, record)
        return self.video(record)

    def _standing(self, record: JobRecord, ahead: int) -> Standing:
        jobs, maker = self.place.jobs, maker_of(record)
        is_begun = record.status == "running" or maker != record.id
        degraded = jobs.latest_event(record.id, "degraded") if record.options.degrade else None
        return Standing(
            ahead=ahead,
            progress=jobs.latest_event(maker, "progress") if is_begun else None,
            expires_at=None if record.finished_at is None else record.finished_at + 86_400 * self._keep_days,
            changes=() if degraded is None else tuple(degraded.data["changes"]),  # type: ignore[arg-type]
        )

    def drain(self) -> None:
        """Take nothing new, and let watchers go, who come again elsewhere."""
        self.is_draining = True
        self.feed.dismiss()

    def watch(self, tenant: str, job_id: str, *, after: int = 0) -> AsyncGenerator[JobEvent, None]:
        """See `watching.watched`. Raises `UnknownJob`."""
        return watched(self, self.get(tenant, job_id), after=after)

    def _num_ahead(self, record: JobRecord) -> int:
        return self._places([record])[0]

    def _places(self, records: Sequence[JobRecord]) -> Sequence[int]:
        queued = [record for record in records if record.status == "queued"]
        ids = [record.id for record in queued]
        nums = dict(zip(ids, self.place.jobs.nums_ahead(ids), strict=True)) if ids else {}
        for record in queued:  # a queue is as deep as its last job, which may not be among these
            queue = _queue_of(record)
            self._ahead[queue] = max(nums[record.id], int(SHRINK * self._ahead.get(queue, 0)))
        return [nums.get(record.id, 0) for record in records]

    def _is_deep(self, record: JobRecord) -> bool:
        return self._ahead.get(_queue_of(record), 0) > DEEP

    async def told_place(self, job_id: str) -> JobEvent | None:
        """Where a queued job stands now, for the loop; None for one that is not queued."""
        record = self.place.jobs.get(job_id)
        if record.status != "queued":
            return None
        is_deep = self._is_deep(record)
        num = await asyncio.to_thread(self._num_ahead, record) if is_deep else self._num_ahead(record)
        data: dict[str, Json] = {"position": num, "eta_s": left_s(record)}
        return JobEvent(job_id=job_id, number=0, kind="position", at=time.time(), data=data)

    def event_data(self, event: JobEvent) -> dict[str, Any]:
        """What is told of an event: the engine's data, and what a client needs besides."""
        data: dict[str, Any] = {
            **event.data,
            "number": event.number or None,
            "at": event.at,
            "job_id": event.job_id,
        }
        if event.kind == "preview":
            data["url"] = f"/v1/videos/{event.job_id}/preview?step={event.data['step']}"
        if event.kind in ("queued", "completed"):
            record = self.place.jobs.get(event.job_id)
            data["cache"] = cache_of(record)
            data |= {"video": self.video(record)} if event.kind == "completed" else {}
        return data


def _queue_of(record: JobRecord) -> tuple[str, str]:
    return record.request.pipeline, record.options.lane


def latents_gone(record: JobRecord) -> Problem:
    """A clip of which no part can be kept."""
    return Problem(
        status=409,
        code="latents_gone",
        message=f"the latents of video {record.id} are not kept any more, so that no part of it can stay;"
        " leave out mask and mask_frames",
    )


def draining() -> Problem:
    """The gateway goes away and takes nothing new."""
    return Problem(
        status=503,
        code="draining",
        message="this server is about to stop and takes no new jobs",
        type="server_error",
        retry_after_s=5.0,
    )


def not_finished(record: JobRecord) -> Problem:
    """A job has no video, or none yet."""
    error = error_of(record)
    if error is not None:
        return Problem(status=410, code="gone", message=f"video {record.id}: {error['message']}")
    message = f"video {record.id} is {record.status}; watch its events, or play its stream"
    return Problem(status=409, code="not_ready", message=message, retry_after_s=1.0)
