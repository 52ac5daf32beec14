"""A leased job as a run: a new one, or where its checkpoint stands."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, cast

from rushes.engine.latent_shelf import LatentShelf
from rushes.engine.outlets import Courier, Outlet
from rushes.engine.recorder import Blobs, Recorder
from rushes.engine.run import Forecast, Run
from rushes.errors import RushesError
from rushes.pipelines.model import Model
from rushes.stages.base import Given, Job
from rushes.stages.job_state import from_bytes, unpack
from rushes.stages.source import SourceLatents
from rushes.stages.vae_decode import begin_with
from rushes.stores.base import JobRecord, JobStore
from rushes.types import GenerateRequest

log = logging.getLogger(__name__)

CourierFactory = Callable[[str, Callable[[Exception], None]], Courier]


class Forecasts(Protocol):
    """Who predicts: `rushes.engine.planner.CostPlanner`."""

    def forecast(self, request: GenerateRequest) -> Forecast:
        """Device seconds of this request, alone."""


class Resumption:
    """Takes jobs up for one worker.

    Args:
        owner: the worker's name, told in the event.
        recorder: adds events to jobs.
        outlet, courier, clock, shelf: see `rushes.engine.worker.Worker`.
    """

    def __init__(
        self,
        owner: str,
        model: Model,
        store: JobStore,
        blobs: Blobs,
        recorder: Recorder,
        planner: Forecasts,
        outlet: Callable[[JobRecord], Outlet],
        *,
        courier: CourierFactory,
        clock: Callable[[], float],
        shelf: LatentShelf | None = None,
    ) -> None:
        self._owner, self._model, self._store, self._blobs = owner, model, store, blobs
        self._recorder, self._planner, self._outlet = recorder, planner, outlet
        self._courier, self._clock, self._shelf = courier, clock, shelf

    def run_of(self, record: JobRecord, courier_failed: Callable[[str, Exception], None]) -> Run:
        """The run of a job, where its checkpoint or its source stands; its first events are told.

        Its courier names it by its id: one that held the run would keep it, and its memory, in a cycle.
        """
        options, request = record.options, record.request
        source, missed = self._source(record)
        if source is None:
            request = replace(request, source=None)
        lead = None
        if source is not None:
            lead, source = source.lead, replace(source, lead=None)  # large, and needed once
        given = Given(source=source)
        job = self._model.pipeline.job(request, given, wants_preview=options.preview_every > 0)
        if lead is not None:
            begin_with(job, lead)
        if self._shelf is not None:
            job.snapshot_steps = self._shelf.steps(request)
        steps = self._resume(job, record)
        kind = "started" if record.token == 1 else "resumed"
        self._recorder.tell(record.id, (kind, {"owner": self._owner, "steps": steps}))
        if missed is not None:
            self._recorder.missed(record.id, missed)
        forecast = self._planner.forecast(request)
        arrived_at = time.monotonic() - (self._clock() - record.created_at)
        return Run(
            id=record.id,
            job=job,
            options=options,
            outlet=self._outlet(record),
            courier=self._courier(record.id, partial(courier_failed, record.id)),
            forecast=forecast,
            predicted_s=record.predicted_s or forecast.total_s,
            device_s=sum(timing.seconds for timing in job.timings.values()),
            num_delivered=self._num_delivered(record),
            arrived_at=arrived_at,
            deadline_at=None if options.deadline_s is None else arrived_at + options.deadline_s,
            life=record.token,
        )

    def _source(self, record: JobRecord) -> tuple[SourceLatents | None, str | None]:
        """What the job goes on from, or why it does not, where that is news. A source that cannot be used
        costs the job its steps and nothing else; one that was missed once is not tried again."""
        if record.request.source is None or _has_missed(record):
            return None, None
        if self._shelf is None:
            return None, "this worker has no store of latents"
        try:
            return self._shelf.load(record.request, record.options.tenant), None
        except RushesError as error:
            log.warning("job %s begins with noise: %s", record.id, error)
            return None, str(error)

    def _num_delivered(self, record: JobRecord) -> int:
        """Pixel frames that the earlier lives of a job have told of."""
        if record.token == 1:
            return 0
        num_frames = 0
        for event in self._store.events(record.id):
            data = cast(Any, event.data)
            if event.kind == "degraded":  # another clip
                num_frames = 0
            elif event.kind == "frames":
                num_frames = max(num_frames, data["start"] + data["num_frames"])
        return num_frames

    def _resume(self, job: Job, record: JobRecord) -> int:
        """Put the job where its checkpoint stands; solver steps that it has behind it. A checkpoint that
        cannot be used costs its steps and nothing else."""
        if record.checkpoint is None:
            return 0
        try:
            data = self._blobs.read(record.checkpoint)
            unpack(job, from_bytes(data, job.request, self._model.identity), self._model.device)
        except RushesError as error:
            log.warning("job %s begins anew: %s", record.id, error)
            return 0
        timing = job.timings.get("denoise")
        return timing.units if timing else 0


def _has_missed(record: JobRecord) -> bool:
    """Whether an earlier life of the job, or whoever asked for it, has said so."""
    return record.reuse is not None and json.loads(record.reuse).get("kind") == "miss"
