"""Timing of several contenders in turn, each with the memory that it takes alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from benchmarks.gpu_report import Report, seconds_of, synchronize

Call = Callable[[], object]


@dataclass(slots=True, kw_only=True)
class Entry:
    """One contender of a row.

    Attributes:
        call: what is timed; a number that it returns counts instead of the time around it.
        weights: bytes of the networks that the call reads.
        about: joins the figures.
        rounds: most rounds in which it takes part; None for all.
        first_s: of the first call, in which whatever compiles is compiled.
        working: bytes that the call takes beside all weights.
    """

    call: Call
    weights: int
    about: Mapping[str, Any] = field(default_factory=dict)
    rounds: int | None = None
    seconds: list[float] = field(default_factory=list)
    first_s: float = 0.0
    working: int = 0
    failure: str | None = None

    def figures(self) -> dict[str, Any]:
        """As plain data; seconds are the median."""
        if self.failure is not None:
            return {"failed": self.failure, **self.about}
        if not self.seconds:
            return {"failed": "no time was left", "first_s": round(self.first_s, 3), **self.about}
        return {
            "seconds": float(f"{statistics.median(self.seconds):.5g}"),
            "all": [float(f"{value:.5g}") for value in self.seconds],
            "first_s": round(self.first_s, 3),
            "peak_gb": round((self.weights + self.working) / 1e9, 2),
            "working_gb": round(self.working / 1e9, 2),
            **self.about,
        }


@torch.no_grad()
def first_calls(entries: Mapping[str, Entry], device: torch.device) -> None:
    """Call each once; one that fails takes no further part."""
    for name, entry in entries.items():
        begin = time.perf_counter()
        try:
            entry.call()
            synchronize(device)
        except Exception as error:  # whatever one contender meets, the others go on
            entry.failure = (
                f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
            )
        entry.first_s = time.perf_counter() - begin
        print(f"    {name}: first call {entry.first_s:.2f} s {entry.failure or ''}", flush=True)


@torch.no_grad()
def in_turn(
    report: Report,
    entries: Mapping[str, Entry],
    device: torch.device,
    *,
    rounds: int,
    warm_s: float = 0.0,
    reserve_s: float = 5.0,
) -> None:
    """Time all in turn, round after round, while the report's budget lasts; at least one round.

    Args:
        warm_s: seconds of rounds that are not counted, so that the card is as warm as it gets.
        reserve_s: what is left of the budget to the rest of the part.
    """
    running = {name: entry for name, entry in entries.items() if entry.failure is None}
    lasting = [entry for entry in running.values() if entry.rounds is None]
    begin = time.perf_counter()
    while time.perf_counter() - begin < warm_s:
        for entry in lasting:
            entry.call()
        synchronize(device)
    longest = 0.0
    for number in range(rounds):
        if number and report.left_s < reserve_s + longest:
            break
        begin = time.perf_counter()
        for name, entry in running.items():
            if entry.rounds is None or number < entry.rounds:
                _timed(entry, device)
                print(f"    {name}: {entry.seconds[-1]:.4f} s", flush=True)
        longest = max(longest, time.perf_counter() - begin)


def _timed(entry: Entry, device: torch.device) -> None:
    before = _begin_memory(device)
    told: list[object] = []
    seconds = seconds_of(lambda: told.append(entry.call()), device)
    entry.seconds.append(told[0] if isinstance(told[0], float) else seconds)
    if device.type == "cuda":
        entry.working = max(entry.working, torch.cuda.max_memory_allocated(device) - before)


def _begin_memory(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def add_all(report: Report, entries: Mapping[str, Entry]) -> None:
    """Every entry's figures, one JSON object each."""
    for name, entry in entries.items():
        report.add(name, entry.figures())


def ratios(entries: Mapping[str, Entry], rival: str, ours: Sequence[str]) -> dict[str, float]:
    """The rival's median over ours, where both were timed."""
    theirs = entries[rival].seconds if rival in entries else []
    return {
        name: round(statistics.median(theirs) / statistics.median(entries[name].seconds), 3)
        for name in ours
        if theirs and name in entries and entries[name].seconds
    }
