"""A leased job as a run: a new one, or where its checkpoint stands."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from rushes.engine.outlets import Courier, Outlet
from rushes.engine.recorder import Blobs
from rushes.engine.run import Forecast, Run
from rushes.errors import RushesError
from rushes.pipelines.model import Model
from rushes.stages.base import Given, Job
from rushes.stages.job_state import from_bytes, unpack
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
        tell: adds an event to a job.
        outlet, courier, clock: see `rushes.engine.worker.Worker`.
    """

    def __init__(
        self,
        owner: str,
        model: Model,
        store: JobStore,
        blobs: Blobs,
        tell: Callable[[str, str, Mapping[str, Any]], None],
        planner: Forecasts,
        outlet: Callable[[JobRecord], Outlet],
        *,
        courier: CourierFactory,
        clock: Callable[[], float],
    ) -> None:
        self._owner, self._model, self._store, self._blobs = owner, model, store, blobs
        self._tell, self._planner, self._outlet = tell, planner, outlet
        self._courier, self._clock = courier, clock

    def run_of(self, record: JobRecord, courier_failed: Callable[[Run, Exception], None]) -> Run:
        """The run of a job, where its checkpoint stands; its first event is told."""
        options, request = record.options, record.request
        job = self._model.pipeline.job(request, Given(), wants_preview=options.preview_every > 0)
        steps = self._resume(job, record)
        self._tell(
            record.id, "started" if record.token == 1 else "resumed", {"owner": self._owner, "steps": steps}
        )
        forecast = self._planner.forecast(request)
        arrived_at = time.monotonic() - (self._clock() - record.created_at)
        run: Run
        run = Run(
            id=record.id,
            job=job,
            options=options,
            outlet=self._outlet(record),
            courier=self._courier(record.id, lambda error: courier_failed(run, error)),
            forecast=forecast,
            predicted_s=record.predicted_s or forecast.total_s,
            device_s=sum(timing.seconds for timing in job.timings.values()),
            num_delivered=self._num_delivered(record),
            arrived_at=arrived_at,
            deadline_at=None if options.deadline_s is None else arrived_at + options.deadline_s,
            life=record.token,
        )
        return run

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
            unpack(job, from_bytes(data, record.request, self._model.identity), self._model.device)
        except RushesError as error:
            log.warning("job %s begins anew: %s", record.id, error)
            return 0
        timing = job.timings.get("denoise")
        return timing.units if timing else 0
