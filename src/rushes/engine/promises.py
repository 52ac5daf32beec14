"""When a job will be finished: an estimate from the backlog, and the margin that makes it a promise."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, sqrt
from statistics import quantiles

from rushes.engine.backlog import Backlog
from rushes.types import Lane

RATE_WINDOW_S = 1800.0
"""Over which a tenant's load is averaged, older arrivals counting exponentially less."""

MOST_LOAD = 0.9
"""Bound of the interactive lane's load, so that an estimate stays finite."""

RECENT = 0.1
"""Weight of the latest job in the mean."""

MOST_ROUNDS = 50
"""Of an estimate that grows with itself, since others' jobs come until then; it is bounded in any case."""

LEAST_LOAD = 1e-6
"""A tenant whose load fell below this is forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromisePolicy:
    """How sure a promise is.

    Attributes:
        kept: part of the jobs that are to be finished by their ETA.
        first_margin: times the estimate, before anything is learned.
        sample: finished jobs of one margin from which the next is set.
        least_margin, most_margin: bounds. The estimate counts no batch as faster than its jobs one by one, so
            where batches help much the margin is far below 1.
        batch_lane_share: what the scheduler keeps for the batch lane (`Policy.batch_lane_share`).
    """

    kept: float = 0.9
    first_margin: float = 1.15
    sample: int = 40
    least_margin: float = 0.2
    most_margin: float = 3.0
    batch_lane_share: float = 0.1


class _Margin:
    """The margin of one lane. Jobs that were promised under an earlier one do not count for the next."""

    def __init__(self, policy: PromisePolicy) -> None:
        self._policy = policy
        self._since = 0.0
        self._ratios: list[float] = []
        self.value = policy.first_margin

    def observe(self, admitted_at: float, finished_at: float, ratio: float) -> None:
        """A job took `ratio` times its ETA."""
        if admitted_at < self._since:
            return
        self._ratios.append(ratio)
        if len(self._ratios) < self._policy.sample:
            return
        wanted = self.value * quantiles(self._ratios, n=100)[round(100 * self._policy.kept) - 1]
        self.value = min(self._policy.most_margin, max(self._policy.least_margin, wanted))
        self._since, self._ratios = finished_at, []


class _Load:
    """Device seconds that a tenant's new jobs bring per second."""

    def __init__(self) -> None:
        self._at, self._seconds = 0.0, 0.0

    def add(self, at: float, seconds: float) -> None:
        self._seconds = self.value(at) * RATE_WINDOW_S + seconds
        self._at = max(at, self._at)

    def value(self, at: float) -> float:
        return self._seconds * exp(-max(0.0, at - self._at) / RATE_WINDOW_S) / RATE_WINDOW_S


class Promises:
    """Turns predicted seconds into ETAs, and learns from how they were kept."""

    def __init__(self, policy: PromisePolicy | None = None) -> None:
        self.policy = policy or PromisePolicy()
        self._margins: dict[Lane, _Margin] = {
            "interactive": _Margin(self.policy),
            "batch": _Margin(self.policy),
        }
        self._loads: dict[tuple[Lane, str], _Load] = {}
        self._mean_job_s: dict[Lane, float] = {}

    def margin(self, lane: Lane) -> float:
        """Times the estimate makes the promise."""
        return self._margins[lane].value

    def eta_s(
        self, lane: Lane, tenant: str, predicted_s: float, backlog: Backlog, *, num_jobs: int = 1
    ) -> float:
        """Seconds from now in which a job of so many device seconds is promised to be finished.

        Args:
            num_jobs: that these seconds are the sum of. What one takes longer others make up for: the margin
                of a sum of n independent errors grows by sqrt(n), not by n.
        """
        margin = self.margin(lane)
        if margin > 1:
            margin = 1 + (margin - 1) / sqrt(num_jobs)
        return margin * self._estimate_s(lane, tenant, predicted_s, backlog)

    def alone_s(self, lane: Lane, predicted_s: float) -> float:
        """The same on an idle device, to which nobody else comes."""
        return self.margin(lane) * predicted_s

    def admitted(self, lane: Lane, tenant: str, predicted_s: float, at: float) -> None:
        """Such a job was taken."""
        mean_s = self._mean_job_s.setdefault(lane, predicted_s)
        self._mean_job_s[lane] = mean_s + RECENT * (predicted_s - mean_s)
        self._loads.setdefault((lane, tenant), _Load()).add(at, predicted_s)
        for owner in [owner for owner, load in self._loads.items() if load.value(at) < LEAST_LOAD]:
            del self._loads[owner]

    def observe(self, lane: Lane, *, admitted_at: float, eta_s: float, actual_s: float) -> None:
        """A job that was promised in `eta_s` took `actual_s` from admission to its end."""
        if eta_s > 0:
            self._margins[lane].observe(admitted_at, admitted_at + actual_s, actual_s / eta_s)

    def _estimate_s(self, lane: Lane, tenant: str, predicted_s: float, backlog: Backlog) -> float:
        """As the scheduler works: the tenant's own older jobs first; other tenants as long as they have work,
        what will have come by then included, and get no more than this one; the other lane by its share."""
        own_s = backlog.of_tenant(lane, tenant) + predicted_s
        # The tenant needs so many turns, of a mean job each; of others the half is before it in its last one.
        turn_s = self._mean_job_s.get(lane, predicted_s)
        most_s = (ceil(own_s / turn_s) - 0.5) * turn_s
        others = self._others(lane, tenant, backlog)
        estimate_s = own_s
        for _ in range(MOST_ROUNDS):
            before_s = estimate_s
            others_s = sum(min(left_s + load * before_s, most_s) for left_s, load in others)
            estimate_s = self._with_other_lane(lane, own_s + others_s, backlog)
            if estimate_s < 1.001 * before_s:
                break
        return estimate_s

    def _others(self, lane: Lane, tenant: str, backlog: Backlog) -> list[tuple[float, float]]:
        """Backlog and load of every other tenant of the lane."""
        at = backlog.at
        loads = {name: load.value(at) for (of, name), load in self._loads.items() if of == lane}
        names = {name for of, name in backlog.seconds if of == lane} | loads.keys()
        return [(backlog.of_tenant(lane, name), loads.get(name, 0.0)) for name in sorted(names - {tenant})]

    def _with_other_lane(self, lane: Lane, seconds: float, backlog: Backlog) -> float:
        """Device seconds that pass while a lane runs for `seconds`."""
        if lane == "interactive":
            share = self.policy.batch_lane_share if backlog.of_lane("batch") else 0.0
            return backlog.unit_s + seconds / (1 - share)
        loads = [load.value(backlog.at) for (of, _), load in self._loads.items() if of == "interactive"]
        load = min(MOST_LOAD, 1 - self.policy.batch_lane_share, sum(loads))
        return (backlog.of_lane("interactive") + seconds) / (1 - load)
