"""What the scheduler is told and what it answers. No torch, no clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rushes.stages.base import BatchKey
from rushes.types import Lane

BatchSeconds = Callable[[BatchKey, float, int], float]
"""(key, seconds of one unit alone, number of jobs) -> seconds of a batch of so many such units."""


@dataclass(slots=True, kw_only=True)
class Ticket:
    """A job as the scheduler sees it: its next unit and what is left of it.

    Attributes:
        arrived_at, deadline_at: by the clock that `Scheduler.next` is given.
        key: what the next unit needs; jobs of equal keys may share it.
        unit_s: predicted device seconds of the next unit, alone.
        remaining_s: the same up to the job's end.
    """

    job_id: str
    lane: Lane
    tenant: str
    arrived_at: float
    deadline_at: float | None
    key: BatchKey
    unit_s: float
    remaining_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Jobs whose next units run together; the first one is who it was picked for.

    Attributes:
        predicted_s: device seconds.
    """

    key: BatchKey
    job_ids: tuple[str, ...]
    predicted_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Every number that scheduling depends on.

    Attributes:
        max_batch: jobs in a batch; 1 fixes the composition, every job runs alone.
        batch_lane_share: of the device's seconds, what the batch lane keeps while both lanes have work. The
            rest is the price of an interactive lane that never waits for more than a unit: 0.1 lets a batch
            job go on at a tenth of its speed through any flood of interactive ones.
        turn_share: of a lane's seconds, what the jobs in their turn keep against those that are let past
            (finished clips to decode, deadlines in danger, newcomers about to join a batch).
        oldest_share: of a tenant's seconds, what its oldest job keeps against younger ones that are let past
            or ride in the batches of others.
        quantum_jobs: a tenant's turn in mean jobs of its lane. Shorter turns would have several tenants' jobs
            share the device, which finishes all of them late.
        max_debt_quanta: how far a tenant that got more than its share can fall behind by that, in quanta, or
            in units where these are longer.
        max_marginal: a job joins a batch when that costs at most this part of its unit alone. Above 1/2 two
            jobs finish later on average than one after the other, but the device does more.
        short_batch_s, short_marginal: as long as a batch of the batch lane's jobs stays that short, so that
            whoever comes waits no longer, less is enough: there the device's work counts, not who is first.
        interactive_slowdown: by so much may jobs of the batch lane lengthen an interactive batch.
        danger_s: a deadline is in danger when its job, at the least speed of those that are let past, would
            have less than this to spare, and two units of whoever is in turn.
        finishing: stages of a job whose clip is denoised.
        opening: stages that lead up to the first denoising step.
    """

    max_batch: int = 8
    batch_lane_share: float = 0.1
    turn_share: float = 0.5
    oldest_share: float = 0.25
    quantum_jobs: float = 1.0
    max_debt_quanta: float = 2.0
    max_marginal: float = 0.75
    short_batch_s: float = 1.0
    short_marginal: float = 0.98
    interactive_slowdown: float = 0.1
    danger_s: float = 1.0
    finishing: frozenset[str] = frozenset(("vae_decode", "postprocess", "video_encode"))
    opening: frozenset[str] = frozenset(("text_encode",))

    def pays(self, lane: Lane, unit_s: float, more_s: float, total_s: float) -> bool:
        """Whether a batch is worth it that takes a further unit.

        Args:
            lane: interactive when any of the jobs is.
            unit_s: of the further job, alone.
            more_s: by which it makes the batch longer.
            total_s: of the batch with it.
        """
        is_short = lane == "batch" and total_s <= self.short_batch_s
        return more_s <= (self.short_marginal if is_short else self.max_marginal) * unit_s

    def is_shared(self, key: BatchKey) -> bool:
        """Whether this is a stage in between, in which jobs can gain by a batch."""
        return key.alone is None and key.stage not in self.opening and key.stage not in self.finishing


def one_after_another(key: BatchKey, unit_s: float, num_jobs: int) -> float:
    """A device on which batches save nothing."""
    return num_jobs * unit_s
