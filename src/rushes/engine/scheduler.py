"""Which jobs run their next unit, decided anew at every unit: lanes, tenants, deadlines and batches.

Ordinary Python over tickets: no tensor, no clock of its own, the same calls give the same answers.

1. The interactive lane takes over at the next unit; the batch lane keeps `Policy.batch_lane_share`.
2. Within a lane tenants take turns by deficit round robin in device seconds. A tenant's jobs go oldest first:
   one that has begun is finished before the next one begins.
3. Past those in turn are let deadlines in danger (earliest first), finished clips that are to be decoded
   (oldest first), and those that can then join the batch of whoever is in turn: newcomers in an opening
   stage, and clips at their first latent frame. Those in turn keep `Policy.turn_share` of the lane meanwhile,
   a tenant's oldest job `Policy.oldest_share`.
4. Others with an equal key join where the cost model says that it helps, whatever their tenant and lane.

Nobody starves: `Scheduler.wait_bound_s` says how many device seconds pass at most until a job's next unit.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from rushes.engine.backlog import Backlog
from rushes.engine.fairness import Entry, Guarantee, IsFree, first_free, may_pass, oldest_of
from rushes.engine.lanes import LaneQueue, Pick
from rushes.engine.tickets import Batch, BatchSeconds, Policy, Ticket, one_after_another
from rushes.stages.base import BatchKey
from rushes.types import Lane

__all__ = ["Batch", "BatchSeconds", "Policy", "Scheduler", "Ticket"]


@dataclass(slots=True, kw_only=True)
class _Running:
    """A batch that has been given out.

    Attributes:
        members: the job that it was picked for, and those that joined.
        shares: of the batch's seconds, by member.
        passers: members whose tenant's oldest waiting job is not in the batch.
        is_let_past: the first job was not in turn.
        passes_batch: the batch lane waits meanwhile.
    """

    predicted_s: float
    members: list[Entry]
    shares: list[float]
    passers: list[Entry]
    is_let_past: bool
    passes_batch: bool


class Scheduler:
    """See the module. Not safe for threads: its owner locks.

    Args:
        batch_seconds: what a batch takes (`CostModel.batch_seconds`).
    """

    def __init__(self, policy: Policy | None = None, batch_seconds: BatchSeconds = one_after_another) -> None:
        self.policy = policy or Policy()
        self._batch_seconds = batch_seconds
        self._entries: dict[str, Entry] = {}
        self._by_key: dict[BatchKey, dict[str, Entry]] = {}
        self._interactive, self._batch = LaneQueue(self.policy), LaneQueue(self.policy)
        self._batch_lane = Guarantee(share=self.policy.batch_lane_share)
        self._running: dict[str, _Running] = {}  # by the first job's id
        self._busy: set[str] = set()
        self._num_added = 0

    def __contains__(self, job_id: object) -> bool:
        return job_id in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, ticket: Ticket) -> None:
        """Take a job, whose id must be new here. The ticket is the scheduler's from now on."""
        assert ticket.job_id not in self._entries, f"{ticket.job_id} is here already"
        self._num_added += 1
        entry = self._lane(ticket.lane).add(ticket, self._num_added)
        self._entries[ticket.job_id] = entry
        self._by_key.setdefault(ticket.key, {})[ticket.job_id] = entry

    def remove(self, job_id: str) -> None:
        """Forget a job, whether it waits or runs; a batch that it runs in is still to be reported as done."""
        entry = self._entries.pop(job_id)
        self._leave_key(entry)
        self._lane(entry.ticket.lane).remove(entry)
        if not self._batch.round.queues:
            self._batch_lane.credit_s = 0.0

    def update(self, job_id: str, *, key: BatchKey, unit_s: float, remaining_s: float) -> None:
        """What a job needs next, after a unit."""
        entry = self._entries[job_id]
        ticket = entry.ticket
        ticket.unit_s, ticket.remaining_s = unit_s, remaining_s
        if key == ticket.key:
            return
        lane = self._lane(ticket.lane)
        self._leave_key(entry)
        lane.leave_stage(entry)
        ticket.key = key
        lane.enter_stage(entry)
        self._by_key.setdefault(key, {})[job_id] = entry

    def next(self, now: float, stages: Collection[str] | None = None) -> Batch | None:
        """The batch to run now, of jobs that run in no other; None when there is none.

        Args:
            now: for deadlines, and for nothing else.
            stages: those that the caller can run; None for all.
        """
        busy = self._busy

        def is_free(entry: Entry) -> bool:
            ticket = entry.ticket
            return ticket.job_id not in busy and (stages is None or ticket.key.stage in stages)

        interactive = self._interactive.pick(now, is_free)
        batch = self._batch.pick(now, is_free)
        pick = interactive or batch
        if interactive and batch and self._batch_lane.can_claim(batch.entry.ticket.unit_s):
            pick = batch
        if pick is None:
            return None
        pick = self._after_newcomers(pick, is_free)
        passes_batch = pick.entry.ticket.lane == "interactive" and batch is not None
        return self._give_out(pick, is_free, passes_batch=passes_batch)

    def done(self, batch: Batch, seconds: float) -> None:
        """A batch is over and took so many device seconds, which its tenants are charged."""
        running = self._running.pop(batch.job_ids[0])
        self._busy.difference_update(batch.job_ids)
        lane = running.members[0].ticket.lane
        in_turn = self._lane(lane).in_turn
        if running.is_let_past:
            in_turn.passed_over(seconds)
        else:
            in_turn.served(seconds)
        if lane == "batch":
            self._batch_lane.served(seconds)
        elif running.passes_batch:
            self._batch_lane.passed_over(seconds)
        for entry, share in zip(running.members, running.shares, strict=True):
            self._charge(entry, share * seconds, passes_oldest=entry in running.passers)

    def waits_beside(self, batch: Batch) -> bool:
        """Whether other jobs want the stage that a batch was given out for."""
        stage = batch.key.stage
        wanting = sum(len(entries) for key, entries in self._by_key.items() if key.stage == stage)
        return wanting > len(batch.job_ids)

    def backlog(self, now: float) -> Backlog:
        """What is still to be done, running units counted whole."""
        seconds: dict[tuple[Lane, str], float] = {}
        for entry in self._entries.values():
            ticket = entry.ticket
            owner = (ticket.lane, ticket.tenant)
            seconds[owner] = seconds.get(owner, 0.0) + ticket.remaining_s
        unit_s = max((running.predicted_s for running in self._running.values()), default=0.0)
        return Backlog(at=now, seconds=seconds, unit_s=unit_s)

    def backlog_s(self, lane: Lane) -> float:
        """Predicted device seconds of a lane's jobs."""
        return self.backlog(0.0).of_lane(lane)

    def wait_bound_s(self, job_id: str, *, num_tenants: int = 0) -> float:
        """Device seconds that pass at most until this job, which waits now, has its next unit, when one batch
        runs at a time.

        It grows with the work of its tenant's older jobs, with the number of tenants and with the longest
        unit. Jobs that come later count only where they are older by `arrived_at`, bring a longer unit or
        raise the lane's mean job. With batches it is loose: what tenants are charged is stretched by
        2 x `max_batch`, as if every batch took its units one after another and one of them all the charge.

        Args:
            num_tenants: with jobs in its lane at some moment of the wait, if more than now.
        """
        entry = self._entries[job_id]
        ticket, queue = entry.ticket, entry.queue
        lane, policy = self._lane(ticket.lane), self.policy
        unit_s = max(other.ticket.unit_s for other in self._entries.values())
        older_s = sum(other.ticket.remaining_s for other in queue.entries if other < entry)
        own_s = older_s + queue.oldest.most_passed_over_s(older_s, unit_s)
        turns_s = lane.round.most_before_s(own_s, unit_s, max(num_tenants, len(lane.round.queues)))
        stretch = 1 if policy.max_batch == 1 else 2 * policy.max_batch
        turns_s, unit_s = stretch * turns_s, stretch * unit_s
        lane_s = turns_s + lane.in_turn.most_passed_over_s(turns_s, unit_s)
        if ticket.lane == "batch":
            return lane_s + self._batch_lane.most_passed_over_s(lane_s, unit_s) + unit_s
        # The batch lane claims what it has earned, before or meanwhile; and a unit runs already.
        return lane_s / (1 - policy.batch_lane_share) + 3 * unit_s

    def _lane(self, lane: Lane) -> LaneQueue:
        return self._interactive if lane == "interactive" else self._batch

    def _leave_key(self, entry: Entry) -> None:
        of_key = self._by_key[entry.ticket.key]
        del of_key[entry.ticket.job_id]
        if not of_key:
            del self._by_key[entry.ticket.key]

    def _charge(self, entry: Entry, seconds: float, *, passes_oldest: bool) -> None:
        lane_round = self._lane(entry.ticket.lane).round
        # Not the entry's own: it may have left meanwhile, and its tenant may be back.
        queue = lane_round.queue_of(entry.ticket.tenant)
        if queue is None:
            return
        lane_round.charge(queue, seconds)
        if passes_oldest:
            queue.oldest.passed_over(seconds)
        else:
            queue.oldest.served(seconds)

    def _after_newcomers(self, pick: Pick, is_free: IsFree) -> Pick:
        """The pick, or one that can join its batch afterwards: a newcomer of the same pipeline, or a clip
        whose decoder has no past yet."""
        ticket = pick.entry.ticket
        key, lane = ticket.key, self._lane(ticket.lane)
        if pick.is_let_past or len(self._by_key[key]) >= self.policy.max_batch:
            return pick
        past: Entry | None = None
        if self.policy.is_shared(key):
            if lane.has_newcomers and self._pays(ticket):
                past = lane.newcomer(key.pipeline, is_free)
        elif key.alone is None and not key.is_start and self._pays(ticket, len(self._by_key[key])):
            past = self._at_start(replace(key, is_start=True), ticket.lane, is_free)
        return lane.let_past(pick.entry, past)

    def _at_start(self, key: BatchKey, lane: Lane, is_free: IsFree) -> Entry | None:
        """The oldest job of a lane that has this key and may run now."""
        entries = sorted(entry for entry in self._by_key.get(key, {}).values() if entry.ticket.lane == lane)
        return first_free(entries, lambda entry: is_free(entry) and may_pass(entry, is_free))

    def _pays(self, ticket: Ticket, num: int = 1) -> bool:
        """Whether one more such unit is worth joining a batch of `num`."""
        fewer_s, more_s = (self._batch_seconds(ticket.key, ticket.unit_s, n) for n in (num, num + 1))
        return self.policy.pays(ticket.lane, ticket.unit_s, more_s - fewer_s, more_s)

    def _members(self, lead: Entry, is_free: IsFree) -> list[Entry]:
        """Who runs together with the one who was picked; that one first."""
        members = [lead]
        of_key = self._by_key[lead.ticket.key]
        if self.policy.max_batch == 1 or len(of_key) == 1 or not self._pays(lead.ticket):
            return members
        waiting = [entry for entry in of_key.values() if entry is not lead and is_free(entry)]
        for entry in self._by_claim(waiting):
            if len(members) == self.policy.max_batch:
                break
            rides_with_oldest = oldest_of(entry, is_free) in members
            if (rides_with_oldest or may_pass(entry, is_free)) and self._may_join(members, entry):
                members.append(entry)
        return members

    def _by_claim(self, waiting: list[Entry]) -> list[Entry]:
        """Interactive jobs first, then by what their tenants are owed when those before them are served."""
        used: dict[tuple[Lane, str], float] = {}
        claims = []
        for entry in sorted(waiting):
            ticket = entry.ticket
            owner = (ticket.lane, ticket.tenant)
            used_s = used.get(owner, 0.0)
            claims.append((ticket.lane == "batch", used_s - entry.queue.deficit_s, entry))
            used[owner] = used_s + ticket.unit_s
        return [entry for _, _, entry in sorted(claims)]

    def _may_join(self, members: list[Entry], entry: Entry) -> bool:
        tickets = [member.ticket for member in members]
        longer_s = self._seconds_of([*tickets, entry.ticket])
        interactive = [ticket for ticket in tickets if ticket.lane == "interactive"]
        lane: Lane = "interactive" if interactive else entry.ticket.lane
        more_s = longer_s - self._seconds_of(tickets)
        if not self.policy.pays(lane, entry.ticket.unit_s, more_s, longer_s):
            return False
        if entry.ticket.lane == "interactive" or not interactive:
            return True
        return longer_s <= (1 + self.policy.interactive_slowdown) * self._seconds_of(interactive)

    def _seconds_of(self, tickets: list[Ticket]) -> float:
        if len(tickets) == 1:
            return tickets[0].unit_s
        mean_s = sum(ticket.unit_s for ticket in tickets) / len(tickets)
        return self._batch_seconds(tickets[0].key, mean_s, len(tickets))

    def _give_out(self, pick: Pick, is_free: IsFree, *, passes_batch: bool) -> Batch:
        members = self._members(pick.entry, is_free)
        tickets = [entry.ticket for entry in members]
        total_s = sum([ticket.unit_s for ticket in tickets])
        batch = Batch(
            key=tickets[0].key,
            job_ids=tuple([ticket.job_id for ticket in tickets]),
            predicted_s=self._seconds_of(tickets),
        )
        self._running[batch.job_ids[0]] = _Running(
            predicted_s=batch.predicted_s,
            members=members,
            shares=[ticket.unit_s / total_s if total_s else 0.0 for ticket in tickets],
            passers=[entry for entry in members if oldest_of(entry, is_free) not in members],
            is_let_past=pick.is_let_past,
            passes_batch=passes_batch,
        )
        self._busy.update(batch.job_ids)
        return batch
