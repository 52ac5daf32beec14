"""What is told of a run, and when: together where that is soon, and never long after."""

from __future__ import annotations

import time
from collections import deque
from types import SimpleNamespace

import numpy as np

from rushes.engine.delivery import PATIENCE_S, Delivery
from rushes.engine.outlets import Courier
from rushes.types import Frames


class Listening:
    """Notes when what was told is flushed."""

    def __init__(self) -> None:
        self.waiting = 0
        self.flushes: list[tuple[float, int]] = []

    def delivered(self, run, frames) -> None:
        self.waiting += 1

    def flushed(self, run) -> None:
        if self.waiting:
            self.flushes.append((time.perf_counter(), self.waiting))
        self.waiting = 0


def _run(courier, write_s: float):
    outlet = SimpleNamespace(write=lambda frames: time.sleep(write_s))
    return SimpleNamespace(
        job=SimpleNamespace(frames=deque()),
        outlet=outlet,
        courier=courier,
        send=courier.send,
        write_s=float("inf"),
        untold_since=float("inf"),
        num_delivered=0,
    )


def _delivered(write_s: float, every_s: float, num: int) -> list[tuple[float, int]]:
    """When, from the first frames on, how many pieces were flushed."""
    errors: list[Exception] = []
    courier, listener = Courier("job", errors.append), Listening()
    run = _run(courier, write_s)
    delivery = Delivery(None, listener, 0)  # type: ignore[arg-type]  # neither previews nor checkpoints
    begin = time.perf_counter()
    for number in range(num):
        run.job.frames.append(Frames(frames=np.zeros((1, 2, 2, 3), np.uint8), start=number))
        delivery.send_frames(run)
        time.sleep(every_s)
    deadline = time.perf_counter() + 10
    while sum(count for _, count in listener.flushes) < num and time.perf_counter() < deadline:
        time.sleep(0.01)
    courier.close()
    courier.join()
    assert not errors
    return [(at - begin, count) for at, count in listener.flushes]


def test_an_outlet_that_is_always_behind_holds_no_news_back() -> None:
    """Each write takes longer than a piece takes to come, and less than the patience."""
    flushes = _delivered(PATIENCE_S * 0.8, PATIENCE_S * 0.5, 20)
    assert sum(count for _, count in flushes) == 20
    assert max(count for _, count in flushes) <= 4
    assert flushes[0][0] < 10 * PATIENCE_S


def test_what_comes_together_is_told_together() -> None:
    flushes = _delivered(0.0, 0.0, 20)
    assert sum(count for _, count in flushes) == 20
    assert len(flushes) < 20
