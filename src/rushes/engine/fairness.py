"""Shares that cannot be taken away, and deficit round robin among tenants.

Deficit round robin is Shreedhar & Varghese's (SIGCOMM 1995), in its surplus form: a tenant runs while its
deficit is above 0 and pays afterwards, since what a unit costs is known only when it is over.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass, field
from math import ceil, floor

from rushes.engine.tickets import Policy, Ticket


@dataclass(slots=True, kw_only=True)
class Guarantee:
    """Work that others may pass over, but that keeps `share` of the seconds while it waits.

    Attributes:
        credit_s: seconds that it may claim.
    """

    share: float
    credit_s: float = 0.0

    def passed_over(self, seconds: float) -> None:
        """It waited while others ran so long."""
        self.credit_s += seconds * self.share / (1 - self.share)

    def served(self, seconds: float) -> None:
        """It ran so long."""
        if self.credit_s:
            self.credit_s = max(0.0, self.credit_s - seconds)

    def can_claim(self, seconds: float) -> bool:
        """Whether it may insist on running so long now."""
        return self.credit_s >= seconds

    def most_passed_over_s(self, seconds: float, longest_s: float) -> float:
        """The longest that others run before it has run for `seconds`, when no unit is longer than
        `longest_s`: what earns it the credit for that and for one more unit, and one unit too many."""
        return (seconds + longest_s) * (1 - self.share) / self.share + longest_s


@dataclass(slots=True, kw_only=True, eq=False)
class Queue:
    """Jobs of one tenant in one lane, oldest first.

    Attributes:
        deficit_s: seconds that it may run before others have their turn; negative when it had too many.
        oldest: what the tenant's oldest job keeps against its younger ones.
    """

    tenant: str
    oldest: Guarantee
    deficit_s: float = 0.0
    entries: list[Entry] = field(default_factory=list)


@dataclass(slots=True, kw_only=True, eq=False)
class Entry:
    """A ticket in its tenant's queue. `order` sorts entries: the oldest is the smallest."""

    ticket: Ticket
    order: tuple[float, int]
    queue: Queue

    def __lt__(self, other: Entry) -> bool:
        return self.order < other.order


IsFree = Callable[[Entry], bool]
"""Whether an entry's next unit may be picked now."""


def first_free(entries: list[Entry], is_free: IsFree) -> Entry | None:
    """The first that may be picked."""
    for entry in entries:
        if is_free(entry):
            return entry
    return None


def oldest_of(entry: Entry, is_free: IsFree) -> Entry:
    """Its tenant's oldest job that waits; itself where there is none."""
    return first_free(entry.queue.entries, is_free) or entry


def may_pass(entry: Entry, is_free: IsFree) -> bool:
    """Whether its tenant's oldest waiting job lets it run first."""
    oldest = oldest_of(entry, is_free)
    return oldest is entry or not entry.queue.oldest.can_claim(oldest.ticket.unit_s)


class Round:
    """The tenants of a lane, in turn.

    Attributes:
        queues: of tenants with jobs, or with a debt that is not paid back yet.
        mean_job_s: mean size of the jobs that came, recent ones counting most.
        longest_s: longest single charge since the lane was empty.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._at = 0
        self.queues: list[Queue] = []
        self.mean_job_s = self.longest_s = 0.0

    @property
    def quantum_s(self) -> float:
        """Seconds that every tenant gets in a round."""
        return max(self._policy.quantum_jobs * self.mean_job_s, 1e-6)

    def max_debt_s(self, longest_s: float = 0.0) -> float:
        """How far behind a tenant can be, whatever it ran, when no unit was longer than `longest_s`."""
        return self._policy.max_debt_quanta * max(self.quantum_s, self.longest_s, longest_s)

    def add(self, ticket: Ticket, number: int) -> Entry:
        """Queue a job; among those that arrived at once the lower number is older."""
        weight = 0.1 if self.mean_job_s else 1.0
        self.mean_job_s += weight * (ticket.remaining_s - self.mean_job_s)
        queue = self.queue_of(ticket.tenant)
        if queue is None:
            queue = Queue(
                tenant=ticket.tenant,
                oldest=Guarantee(share=self._policy.oldest_share),
                deficit_s=self.quantum_s,  # it takes part in the round that runs
            )
            self.queues.append(queue)
        entry = Entry(ticket=ticket, order=(ticket.arrived_at, number), queue=queue)
        insort(queue.entries, entry)
        return entry

    def remove(self, entry: Entry) -> None:
        """Take a job out. When nobody has jobs any more, all debts are forgotten."""
        queue = entry.queue
        queue.entries.remove(entry)
        if queue.entries:
            return
        queue.oldest.credit_s = 0.0
        if all(not queue.entries for queue in self.queues):
            self.queues.clear()
            self._at, self.longest_s = 0, 0.0
        elif queue.deficit_s >= 0:
            self._drop(queue)

    def charge(self, queue: Queue, seconds: float) -> None:
        """A tenant has used so many seconds."""
        if seconds > self.longest_s:
            self.longest_s = seconds
        queue.deficit_s -= seconds
        if queue.deficit_s < 0:
            queue.deficit_s = max(-self.max_debt_s(), queue.deficit_s)

    def queue_of(self, tenant: str) -> Queue | None:
        """The tenant's queue, None where it has neither jobs nor debts."""
        for queue in self.queues:
            if queue.tenant == tenant:
                return queue
        return None

    def pick(self, is_free: IsFree) -> Entry | None:
        """The oldest job of the tenant whose turn it is."""
        entry = self._first_in_credit(is_free)
        if entry is not None or not self.queues:
            return entry
        if all(queue.deficit_s <= 0 for queue in self.queues if queue.entries):
            self._begin_round(is_free)
            return self._first_in_credit(is_free)
        # Whoever is in credit runs in another slot, or waits for one. The round is not over, nor need this
        # slot be idle.
        return self._least_indebted(is_free)

    def most_before_s(self, own_s: float, longest_s: float, num_tenants: int) -> float:
        """The longest that jobs in turn run before one tenant has used `own_s`, no unit being longer than
        `longest_s`: its debt and its need take so many rounds, in each of which every other tenant runs for a
        quantum, and once each for what it had left and for a unit too long."""
        quantum_s = self.quantum_s
        rounds = ceil((self.max_debt_s(longest_s) + own_s) / quantum_s) + 1
        return own_s + (num_tenants - 1) * ((rounds + 1) * quantum_s + longest_s)

    def _first_in_credit(self, is_free: IsFree) -> Entry | None:
        num = len(self.queues)
        for step in range(num):
            at = (self._at + step) % num
            if self.queues[at].deficit_s > 0:
                entry = first_free(self.queues[at].entries, is_free)
                if entry is not None:
                    self._at = at
                    return entry
        return None

    def _least_indebted(self, is_free: IsFree) -> Entry | None:
        found: Entry | None = None
        num = len(self.queues)
        start = self._at + 1  # among equals, the next in the ring
        for at in range(start, start + num):
            queue = self.queues[at % num]
            if found is None or queue.deficit_s > found.queue.deficit_s:
                entry = first_free(queue.entries, is_free)
                if entry is not None:
                    found, self._at = entry, at % num
        return found

    def _begin_round(self, is_free: IsFree) -> None:
        """Give every tenant its quantum, as often as it takes until one that can run is in credit."""
        debts = [-queue.deficit_s for queue in self.queues if first_free(queue.entries, is_free)]
        if not debts:
            return
        quantum_s = self.quantum_s
        given_s = (floor(min(debts) / quantum_s) + 1) * quantum_s
        if self.queues[self._at].deficit_s < 0:  # it had its turn
            self._at = (self._at + 1) % len(self.queues)
        for queue in list(self.queues):
            queue.deficit_s = min(queue.deficit_s + given_s, quantum_s)
            if not queue.entries and queue.deficit_s >= 0:
                self._drop(queue)

    def _drop(self, queue: Queue) -> None:
        at = self.queues.index(queue)
        del self.queues[at]
        if at < self._at:
            self._at -= 1
        self._at %= max(1, len(self.queues))
