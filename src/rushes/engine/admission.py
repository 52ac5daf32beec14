"""Whether a job is taken: accepted with an ETA, made smaller, or refused with the reason. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from rushes.engine.backlog import Backlog
from rushes.engine.cost import CostModel, Prediction
from rushes.engine.degrade import Change, Limits, changes_between, degrade, what_would_fit
from rushes.engine.memory import DeviceMemory
from rushes.engine.promises import PromisePolicy, Promises
from rushes.errors import InvalidRequest, QueueFull
from rushes.pipelines.rules import load_rules
from rushes.types import GenerateRequest, JobOptions, Lane

__all__ = ["Accept", "Admission", "AdmissionPolicy", "Backlog"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionPolicy:
    """Every number that admission depends on.

    Attributes:
        interactive_wait_s, batch_wait_s: a job whose ETA lies further than this behind that on an idle device
            is refused. That bounds the backlog, and each tenant's part of it: one that floods the queue moves
            its own ETA, and others' little.
        reserve_bytes: of the budget, what is always kept free.
        limits: how far a job may be degraded.
        promises: how sure an ETA is.
    """

    interactive_wait_s: float = 60.0
    batch_wait_s: float = 7200.0
    reserve_bytes: int = 2 * 10**9
    limits: Limits = field(default_factory=Limits)
    promises: PromisePolicy = field(default_factory=PromisePolicy)

    def longest_wait_s(self, lane: Lane) -> float:
        """Of a lane."""
        return self.interactive_wait_s if lane == "interactive" else self.batch_wait_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """A promise.

    Attributes:
        request: as it will run: degraded where that was allowed and needed.
        predicted_s: device seconds, alone.
        eta_s: seconds from now in which it is finished.
        peak_bytes: device memory that it needs, weights included.
        changes: what was degraded; empty for a job taken as it was asked for.
    """

    request: GenerateRequest
    predicted_s: float
    eta_s: float
    peak_bytes: int
    changes: tuple[Change, ...] = field(default=())


class Admission:
    """Decides about jobs for one device.

    Args:
        budget_bytes: memory of the device that the engine may use, weights included.
        promises: what was learned about ETAs before; None begins anew.
    """

    def __init__(
        self,
        cost: CostModel,
        budget_bytes: int,
        policy: AdmissionPolicy | None = None,
        *,
        promises: Promises | None = None,
    ) -> None:
        self.policy = policy or AdmissionPolicy()
        self.memory = DeviceMemory(cost.shapes, budget_bytes, reserve_bytes=self.policy.reserve_bytes)
        self.promises = promises or Promises(self.policy.promises)
        self._cost = cost
        self._latest: tuple[GenerateRequest, Prediction] | None = None

    def decide(self, request: GenerateRequest, options: JobOptions, backlog: Backlog) -> Accept:
        """Take a job, perhaps smaller than it was asked for.

        Raises:
            QueueFull: it cannot be promised early enough now, but later.
            InvalidRequest: it can never be taken as it is; the reason says what can.
        """
        given: GenerateRequest | None = request
        if not self._is_ok(request, options, backlog):
            given = self._degraded(request, options, backlog) if options.degrade else None
        if given is None:
            raise self._refusal(request, options, backlog)
        prediction = self._prediction(given)
        self.promises.admitted(options.lane, options.tenant, prediction.total_s, backlog.at)
        return Accept(
            request=given,
            predicted_s=prediction.total_s,
            eta_s=self._eta_s(prediction, options, backlog),
            peak_bytes=prediction.peak_bytes,
            changes=changes_between(request, given),
        )

    def observe(self, lane: Lane, *, admitted_at: float, eta_s: float, actual_s: float) -> None:
        """See `Promises.observe`."""
        self.promises.observe(lane, admitted_at=admitted_at, eta_s=eta_s, actual_s=actual_s)

    def _is_ok(self, request: GenerateRequest, options: JobOptions, backlog: Backlog) -> bool:
        if not self.memory.fits(request):
            return False
        prediction = self._prediction(request)
        eta_s = self._eta_s(prediction, options, backlog)
        return eta_s <= self._limit_s(prediction, options)

    def _prediction(self, request: GenerateRequest) -> Prediction:
        """Of the request that is being decided about, made once."""
        if self._latest is None or self._latest[0] is not request:
            self._latest = request, self._cost.predict(request)
        return self._latest[1]

    def _eta_s(self, prediction: Prediction, options: JobOptions, backlog: Backlog) -> float:
        return self.promises.eta_s(options.lane, options.tenant, prediction.total_s, backlog)

    def _limit_s(self, prediction: Prediction, options: JobOptions) -> float:
        """The latest ETA that a job may have."""
        alone_s = self.promises.alone_s(options.lane, prediction.total_s)
        deadline_s = inf if options.deadline_s is None else options.deadline_s
        return min(deadline_s, alone_s + self.policy.longest_wait_s(options.lane))

    def _degraded(
        self, request: GenerateRequest, options: JobOptions, backlog: Backlog
    ) -> GenerateRequest | None:
        def fits(smaller: GenerateRequest) -> bool:
            return self._is_ok(smaller, options, backlog)

        return degrade(request, load_rules(request.pipeline), fits, self.policy.limits)

    def _refusal(
        self, request: GenerateRequest, options: JobOptions, backlog: Backlog
    ) -> QueueFull | InvalidRequest:
        if not self.memory.fits(request):
            return self._too_large(request)
        prediction = self._cost.predict(request)
        alone_s = self.promises.alone_s(options.lane, prediction.total_s)
        limit_s = self._limit_s(prediction, options)
        if alone_s > limit_s:
            return self._too_long(request, options, alone_s)
        eta_s = self._eta_s(prediction, options, backlog)
        reason = (
            f"the queue is full: this clip would be finished in {eta_s:.0f} s, at most {limit_s:.0f} s are"
            f" promised in the {options.lane} lane"
        )
        return QueueFull(reason, retry_after_s=max(1.0, eta_s - limit_s))

    def _too_large(self, request: GenerateRequest) -> InvalidRequest:
        video = request.video
        needed, usable = self.memory.needed_bytes([request]), self.memory.usable_bytes
        would_fit = what_would_fit(request, load_rules(request.pipeline), self.memory.fits)
        return InvalidRequest(
            "num_frames",
            f"{video.num_frames} frames of {video.width}x{video.height} need {needed / 1e9:.4g} GB of memory,"
            f" {usable / 1e9:.4g} may be used; would fit: {would_fit}",
        )

    def _too_long(self, request: GenerateRequest, options: JobOptions, alone_s: float) -> InvalidRequest:
        limit_s = options.deadline_s or 0.0

        def fits(smaller: GenerateRequest) -> bool:
            predicted_s = self._cost.predict(smaller).total_s
            return self.promises.alone_s(options.lane, predicted_s) <= limit_s

        would_fit = what_would_fit(request, load_rules(request.pipeline), fits)
        return InvalidRequest(
            "deadline_s",
            f"{limit_s:g} s; the job takes {alone_s:.0f} with nothing beside it; would fit: {would_fit}",
        )
