"""The jobs of one lane, and whose unit is next among them."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from math import inf

from rushes.engine.fairness import Entry, Guarantee, IsFree, Round, first_free, may_pass
from rushes.engine.tickets import Policy, Ticket

HOPELESS = 0.9
"""A job with less than this part of its predicted seconds left to its deadline is not hurried any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """Whose unit is next.

    Attributes:
        is_let_past: it was not its turn.
    """

    entry: Entry
    is_let_past: bool


class LaneQueue:
    """Tenants in turn, and those whom they let past.

    Attributes:
        round: the tenants.
        in_turn: what those in turn keep against those that are let past.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.round = Round(policy)
        self.in_turn = Guarantee(share=policy.turn_share)
        self._finishing: list[Entry] = []  # oldest first, as is the next
        self._opening: list[Entry] = []
        self._with_deadline: list[Entry] = []

    def add(self, ticket: Ticket, number: int) -> Entry:
        """Queue a job; see `Round.add`."""
        entry = self.round.add(ticket, number)
        if ticket.deadline_at is not None:
            self._with_deadline.append(entry)
        self.enter_stage(entry)
        return entry

    def remove(self, entry: Entry) -> None:
        """Take a job out."""
        self.round.remove(entry)
        if entry.ticket.deadline_at is not None:
            self._with_deadline.remove(entry)
        self.leave_stage(entry)

    def enter_stage(self, entry: Entry) -> None:
        """The ticket's key has been set."""
        line = self._line(entry)
        if line is not None:
            insort(line, entry)

    def leave_stage(self, entry: Entry) -> None:
        """The ticket's key is about to change."""
        line = self._line(entry)
        if line is not None:
            line.remove(entry)

    def pick(self, now: float, is_free: IsFree) -> Pick | None:
        """Whose unit is next, newcomers aside (`catching_up`); None when nobody can run."""
        in_turn = self.round.pick(is_free)
        if in_turn is None:
            return None
        past = self._in_danger(now, in_turn, is_free) if self._with_deadline else None
        if past is None and self._finishing and in_turn.ticket.key.stage not in self._policy.finishing:
            past = self._finished(is_free)
        return self.let_past(in_turn, past)

    def let_past(self, in_turn: Entry, past: Entry | None) -> Pick:
        """`past` runs unless it is missing or those in turn insist."""
        if past is None or past is in_turn or self.in_turn.can_claim(in_turn.ticket.unit_s):
            return Pick(entry=in_turn, is_let_past=False)
        return Pick(entry=past, is_let_past=True)

    @property
    def has_newcomers(self) -> bool:
        """Whether any job stands in an opening stage."""
        return bool(self._opening)

    def newcomer(self, pipeline: str, is_free: IsFree) -> Entry | None:
        """The oldest job of a pipeline that stands in an opening stage and may run now."""
        for entry in self._opening:
            if entry.ticket.key.pipeline == pipeline and is_free(entry) and may_pass(entry, is_free):
                return entry
        return None

    def _finished(self, is_free: IsFree) -> Entry | None:
        """The oldest job that has its clip and waits to be decoded."""
        return first_free(self._finishing, lambda entry: is_free(entry) and may_pass(entry, is_free))

    def _in_danger(self, now: float, in_turn: Entry, is_free: IsFree) -> Entry | None:
        """The earliest deadline that will be missed if its job waits much longer, but not if it runs now."""
        spare_s = self._policy.danger_s + 2 * in_turn.ticket.unit_s
        found, soonest = None, inf
        for entry in self._with_deadline:
            deadline_at = entry.ticket.deadline_at
            assert deadline_at is not None
            is_pressed = self._is_pressed(entry.ticket, deadline_at - now, spare_s)
            if is_pressed and deadline_at < soonest and is_free(entry) and may_pass(entry, is_free):
                found, soonest = entry, deadline_at
        return found

    def _is_pressed(self, ticket: Ticket, left_s: float, spare_s: float) -> bool:
        """Whether the job makes it in `left_s`, but hardly at the least speed of those that are let past."""
        speed = (1 - self._policy.turn_share) * (1 - self._policy.oldest_share)
        return HOPELESS * ticket.remaining_s <= left_s < ticket.remaining_s / speed + spare_s

    def _line(self, entry: Entry) -> list[Entry] | None:
        stage = entry.ticket.key.stage
        if stage in self._policy.finishing:
            return self._finishing
        return self._opening if stage in self._policy.opening else None
